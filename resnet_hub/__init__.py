"""CIFAR-style ResNets for timm and torch.hub, with weights.

Importing this package makes sure that timm has the models; the public names are imported at first use, so that the
import itself stays light.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import _autoload

if TYPE_CHECKING:
    from .checkpoints.convert import Conversion, convert_checkpoint
    from .data import Images, load_images
    from .errors import InputError, MissingExtraError, ResnetHubError
    from .evaluation import Metrics, evaluate
    from .hub.download import download
    from .hub.upload import Upload, push_folders, push_to_hub
    from .models import CifarResNet, PreActResNet
    from .optimization import optimize
    from .prediction import Prediction, predict
    from .recipe import Recipe
    from .registry import load_model
    from .training import train

_PUBLIC = {
    'Upload': 'hub.upload',
    'push_to_hub': 'hub.upload',
    'push_folders': 'hub.upload',
    'download': 'hub.download',
    'Conversion': 'checkpoints.convert',
    'convert_checkpoint': 'checkpoints.convert',
    'CifarResNet': 'models',
    'PreActResNet': 'models',
    'Images': 'data',
    'load_images': 'data',
    'load_model': 'registry',
    'Recipe': 'recipe',
    'train': 'training',
    'Metrics': 'evaluation',
    'evaluate': 'evaluation',
    'optimize': 'optimization',
    'Prediction': 'prediction',
    'predict': 'prediction',
    'ResnetHubError': 'errors',
    'InputError': 'errors',
    'MissingExtraError': 'errors',
}
__all__ = [
    'CifarResNet',
    'Conversion',
    'Images',
    'InputError',
    'Metrics',
    'MissingExtraError',
    'PreActResNet',
    'Prediction',
    'Recipe',
    'ResnetHubError',
    'Upload',
    'convert_checkpoint',
    'download',
    'evaluate',
    'load_images',
    'load_model',
    'optimize',
    'predict',
    'push_folders',
    'push_to_hub',
    'train',
]
__version__ = '0.1.0'

_autoload.install()


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    from importlib import import_module

    return getattr(import_module(f'.{_PUBLIC[name]}', __name__), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
