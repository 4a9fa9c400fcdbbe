"""CIFAR-style ResNets for timm and torch.hub, with weights.

Importing this package registers the models with timm. Each public name is imported at its first use, so that the import
of the package stays fast.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from resnet_hub import _registration
from resnet_hub.utils.version import __version__ as __version__

if TYPE_CHECKING:
    from resnet_hub.conversion.convert import Conversion, convert_checkpoint
    from resnet_hub.data.images import Images
    from resnet_hub.data.labelled import LabelledImages
    from resnet_hub.data.sources import load_images, read_labelled
    from resnet_hub.demo.build import Page, build_demo
    from resnet_hub.exporting.export import Export, export
    from resnet_hub.hub.download import download
    from resnet_hub.hub.upload import Upload, push_folders, push_onnx, push_to_hub
    from resnet_hub.inference.corruptions import CorruptionMetrics, evaluate_corruptions
    from resnet_hub.inference.evaluate import Metrics, evaluate
    from resnet_hub.inference.ood import OodMetrics, evaluate_ood
    from resnet_hub.inference.optimize import optimize
    from resnet_hub.inference.predict import Prediction, predict
    from resnet_hub.inference.shift import ShiftMetrics, evaluate_shift
    from resnet_hub.models import CifarResNet, PreActResNet
    from resnet_hub.registry.loading import load_model
    from resnet_hub.training.recipe import Recipe
    from resnet_hub.training.train import train
    from resnet_hub.utils.errors import InputError, MissingExtraError, ResnetHubError

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
}
__all__ = [
    'CifarResNet',
    'Conversion',
    'CorruptionMetrics',
    'Export',
    'Images',
    'InputError',
    'LabelledImages',
    'Metrics',
    'MissingExtraError',
    'OodMetrics',
    'Page',
    'PreActResNet',
    'Prediction',
    'Recipe',
    'ResnetHubError',
    'ShiftMetrics',
    'Upload',
    'build_demo',
    'convert_checkpoint',
    'download',
    'evaluate',
    'evaluate_corruptions',
    'evaluate_ood',
    'evaluate_shift',
    'export',
    'load_images',
    'load_model',
    'optimize',
    'predict',
    'push_folders',
    'push_onnx',
    'push_to_hub',
    'read_labelled',
    'train',
]

_registration.install()


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    from importlib import import_module

    return getattr(import_module(f'.{_PUBLIC[name]}', __name__), name)


def __dir__() -> list[str]:
    return [*__all__, '__version__']
