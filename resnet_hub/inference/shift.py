"""Measure how much accuracy a network loses by small changes of its images or of their preprocessing."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from resnet_hub.data.images import Images
from resnet_hub.inference.evaluate import Metrics, match_labels
from resnet_hub.inference.logits import Data, as_images, compute_outputs
from resnet_hub.inference.transform import channels_of, class_names, normalisation, size_of
from resnet_hub.registry.loading import as_model
from resnet_hub.utils.errors import InputError

Change = Callable[[Image.Image], Image.Image]

#: normalisations that people often use by mistake: mean and standard deviation
_NORMALISATIONS = {
    'normalised by 0.5': ((0.5,) * 3, (0.5,) * 3),
    "normalised by ImageNet's": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}


@dataclass(frozen=True)
class ShiftMetrics:
    """The figures that `evaluate_shift` measures."""

    metrics: dict[str, Metrics]  #: by the name of the change; the unchanged images ('none') come first

    def rows(self) -> list[dict[str, Any]]:
        """Return a row for each change: top-1 in %, its difference from the unchanged images, NLL and ECE."""
        clean = next(iter(self.metrics.values())).top1
        return [
            {'change': name, 'top1': m.top1, 'difference': round(m.top1 - clean, 4), 'nll': m.nll, 'ece': m.ece}
            for name, m in self.metrics.items()
        ]

    def to_dict(self) -> dict[str, Any]:
        """Return what `resnet-hub evaluate --shift --json` prints for a model."""
        return {'images': next(iter(self.metrics.values())).images, 'changes': self.rows()}


def evaluate_shift(model: nn.Module | str, data: Data, *, split: str = 'test', batch_size: int = 500) -> ShiftMetrics:
    """Measure a network on unchanged images, and on the same images after small changes.

    The changes are JPEG compression, resizing to a larger size and back, a larger size, and wrong normalisation.

    Args:
        model: a classifier with a timm `pretrained_cfg`, or its name, see `load_model`.
        data: anything that `evaluate` takes.
        split: 'train', 'val' or 'test', if `data` is read from files.
        batch_size: number of images in a batch.

    Returns:
        The metrics after each change.

    Raises:
        InputError: the images are unusable, or have classes that the model does not have.
    """
    model, images = as_model(model), as_images(data, split)
    size = size_of(model)
    if size is None or size[0] != size[1]:
        raise InputError(
            'the network must have a pretrained_cfg with an input_size of square images: this one has '
            f'{"none" if size is None else f"{size[1]}×{size[0]}"}'
        )
    side = size[0]
    if not isinstance(images, Images):
        images = images.load(side, channels_of(model))
    mean, std = normalisation(model)

    def measure(pixels: Images, mean: tuple[float, ...] = mean, std: tuple[float, ...] = std) -> Metrics:
        with warnings.catch_warnings():  # about the size, which is wrong on purpose
            warnings.filterwarnings('ignore', '.*the network was trained on')
            outputs = compute_outputs(model, pixels, mean, std, batch_size)
        classes = outputs.logits.shape[1]
        labels = match_labels(pixels, class_names(model, classes), classes)
        return Metrics.from_logits(outputs.logits, labels, outputs.images_per_second)

    metrics = {'none': measure(images)}
    for name, change in _changes(side).items():
        metrics[name] = measure(_apply(images, change))
    if len(mean) == 3:
        metrics |= {name: measure(images, *values) for name, values in _NORMALISATIONS.items()}
    return ShiftMetrics(metrics)


def _changes(side: int) -> dict[str, Change]:
    """Return the changes for images with this height and width, by name."""
    slightly, doubled = side * 5 // 4, side * 2
    return {
        'JPEG, quality 95': lambda image: _jpeg(image, 95),
        'JPEG, quality 75': lambda image: _jpeg(image, 75),
        f'enlarged to {slightly} and back': lambda image: _resized(_resized(image, slightly), side),
        f'enlarged to {doubled} and back': lambda image: _resized(_resized(image, doubled), side),
        f'fed at {doubled}×{doubled}': lambda image: _resized(image, doubled),
    }


def _jpeg(image: Image.Image, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, 'JPEG', quality=quality)
    return Image.open(buffer)


def _resized(image: Image.Image, side: int) -> Image.Image:
    return image.resize((side, side), Image.Resampling.BILINEAR)


def _apply(images: Images, change: Change) -> Images:
    channels = images.pixels.shape[3]
    arrays = images.pixels.cpu().numpy()
    changed = [np.asarray(change(Image.fromarray(image if channels == 3 else image[..., 0]))) for image in arrays]
    pixels = torch.from_numpy(np.stack(changed))
    return replace(images, pixels=pixels if pixels.ndim == 4 else pixels[..., None])
