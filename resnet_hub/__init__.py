"""CIFAR-style ResNets for timm and torch.hub, with weights.

Importing this package registers the models with timm. Each public name is imported at its first use, so that the import
of the package stays fast.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from resnet_hub import _registration

if TYPE_CHECKING:
    from resnet_hub.conversion.convert import Conversion as Conversion
    from resnet_hub.conversion.convert import convert_checkpoint as convert_checkpoint
    from resnet_hub.data.images import Images as Images
    from resnet_hub.data.labelled import LabelledImages as LabelledImages
    from resnet_hub.data.sources import load_images as load_images
    from resnet_hub.data.sources import read_labelled as read_labelled
    from resnet_hub.demo.build import Page as Page
    from resnet_hub.demo.build import build_demo as build_demo
    from resnet_hub.exporting.export import Export as Export
    from resnet_hub.exporting.export import export as export
    from resnet_hub.hub.download import download as download
    from resnet_hub.hub.upload import Upload as Upload
    from resnet_hub.hub.upload import push_folders as push_folders
    from resnet_hub.hub.upload import push_onnx as push_onnx
    from resnet_hub.hub.upload import push_to_hub as push_to_hub
    from resnet_hub.inference.corruptions import CorruptionMetrics as CorruptionMetrics
    from resnet_hub.inference.corruptions import evaluate_corruptions as evaluate_corruptions
    from resnet_hub.inference.evaluate import Metrics as Metrics
    from resnet_hub.inference.evaluate import evaluate as evaluate
    from resnet_hub.inference.ood import OodMetrics as OodMetrics
    from resnet_hub.inference.ood import evaluate_ood as evaluate_ood
    from resnet_hub.inference.optimize import optimize as optimize
    from resnet_hub.inference.predict import Prediction as Prediction
    from resnet_hub.inference.predict import predict as predict
    from resnet_hub.inference.shift import ShiftMetrics as ShiftMetrics
    from resnet_hub.inference.shift import evaluate_shift as evaluate_shift
    from resnet_hub.models import CifarResNet as CifarResNet
    from resnet_hub.models import PreActResNet as PreActResNet
    from resnet_hub.registry.loading import load_model as load_model
    from resnet_hub.training.recipe import Recipe as Recipe
    from resnet_hub.training.train import train as train
    from resnet_hub.utils.errors import InputError as InputError
    from resnet_hub.utils.errors import MissingExtraError as MissingExtraError
    from resnet_hub.utils.errors import ResnetHubError as ResnetHubError
    from resnet_hub.utils.version import __version__ as __version__


_PUBLIC = {
    'Upload': 'hub.upload',
    'push_to_hub': 'hub.upload',
    'push_folders': 'hub.upload',
    'push_onnx': 'hub.upload',
    'download': 'hub.download',
    'Conversion': 'conversion.convert',
    'convert_checkpoint': 'conversion.convert',
    'CifarResNet': 'models',
    'PreActResNet': 'models',
    'Images': 'data.images',
    'LabelledImages': 'data.labelled',
    'load_images': 'data.sources',
    'read_labelled': 'data.sources',
    'load_model': 'registry.loading',
    'Recipe': 'training.recipe',
    'train': 'training.train',
    'Page': 'demo.build',
    'build_demo': 'demo.build',
    'Export': 'exporting.export',
    'export': 'exporting.export',
    'Metrics': 'inference.evaluate',
    'evaluate': 'inference.evaluate',
    'CorruptionMetrics': 'inference.corruptions',
    'OodMetrics': 'inference.ood',
    'ShiftMetrics': 'inference.shift',
    'evaluate_corruptions': 'inference.corruptions',
    'evaluate_ood': 'inference.ood',
    'evaluate_shift': 'inference.shift',
    'optimize': 'inference.optimize',
    'Prediction': 'inference.predict',
    'predict': 'inference.predict',
    'ResnetHubError': 'utils.errors',
    'InputError': 'utils.errors',
    'MissingExtraError': 'utils.errors',
    '__version__': 'utils.version',
}
__all__ = sorted(_PUBLIC.keys() - {'__version__'})

_registration.install()


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    from importlib import import_module

    return getattr(import_module(f'.{_PUBLIC[name]}', __name__), name)


def __dir__() -> list[str]:
    return sorted(_PUBLIC)
