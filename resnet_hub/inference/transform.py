"""Find what images a network takes: their size, channels and normalisation. Find the names of its classes."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from resnet_hub.data.decode import as_tensor


def make_transform(model: nn.Module, normalize: bool = True) -> Any:
    """Return timm's evaluation transform of a model, from a PIL image to float32 (C, H, W).

    Without `normalize` the transform stops at uint8. `normalise_like` does the rest for many images at once.
    """
    from timm.data import create_transform, resolve_model_data_config

    return create_transform(**resolve_model_data_config(model), is_training=False, normalize=normalize)


class PixelTransform:
    """Applies timm's evaluation transform up to uint8 (H, W, C). Images of the right size skip its overhead."""

    def __init__(self, model: nn.Module) -> None:
        from timm.data import resolve_model_data_config

        cfg = resolve_model_data_config(model)
        self.transform = make_transform(model, normalize=False)
        self.fitting = tuple(cfg['input_size'][:0:-1]) if cfg['crop_pct'] == 1 else None

    def __call__(self, image: Image.Image) -> Tensor:
        if image.size != self.fitting:
            return self.transform(image).permute(1, 2, 0)
        return as_tensor(image)


def normalise_like(model: nn.Module, pixels: Tensor) -> Tensor:
    """Normalise uint8 (N, C, H, W) to float32, on the same device, with the same bits as `make_transform(model)`."""
    mean, std = (torch.tensor(values, device=pixels.device)[:, None, None] for values in normalisation(model))
    return pixels.float().div_(255).sub_(mean).div_(std)


def normalisation(model: nn.Module) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation, one value for each channel of a model's images."""
    from timm.data import resolve_model_data_config

    cfg, channels = resolve_model_data_config(model), channels_of(model)

    def fit(values: tuple[float, ...]) -> tuple[float, ...]:
        return tuple(values) if len(values) == channels else (sum(values) / len(values),) * channels

    return fit(cfg['mean']), fit(cfg['std'])


def channels_of(model: nn.Module) -> int:
    """Return the number of channels of a model's images.

    `pretrained_cfg` is read last, because timm keeps there the number that the weights were trained with.
    """
    cfg: Any = getattr(model, 'pretrained_cfg', None) or {}
    return getattr(model, 'in_chans', None) or cfg.get('input_size', (3,))[0]


def size_of(model: nn.Module) -> tuple[int, int] | None:
    """Return height and width of the images that a model was trained on; None if its `pretrained_cfg` lacks them."""
    cfg: Any = getattr(model, 'pretrained_cfg', None) or {}
    return tuple(cfg['input_size'][1:]) if 'input_size' in cfg else None


def class_names(model: nn.Module, count: int) -> tuple[str, ...]:
    """Return the names of a model's classes, or () if it has none, or a number other than `count`.

    Args:
        model: a network with a timm `pretrained_cfg`.
        count: the number of its classes.
    """
    cfg: Any = getattr(model, 'pretrained_cfg', None) or {}
    names = tuple(cfg.get('label_names') or ())
    return names if len(names) == count else ()


def warn_of_size(model: nn.Module, size: tuple[int, int], resized: bool, what: str = 'the images') -> None:
    """Warn if images have another size than those that a model was trained on.

    Args:
        model: a network with a timm `pretrained_cfg`.
        size: height and width of the images.
        resized: whether the images are resized before the network gets them.
        what: what the warning calls the images.
    """
    trained = size_of(model)
    if trained is None or trained == tuple(size):
        return
    shown, wanted = f'{size[1]}×{size[0]}', f'{trained[1]}×{trained[0]}'
    if resized:
        message = f'{what}: {shown} pixels are resized to the {wanted} that the network was trained on'
    else:
        message = f'{what}: {shown} pixels, but the network was trained on {wanted}'
    message += '; this can cost accuracy'
    warnings.warn(message, stacklevel=3)
