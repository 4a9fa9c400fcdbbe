"""Labelled images as one tensor."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from resnet_hub.utils.errors import InputError


@dataclass(frozen=True)
class Images:
    """Decoded images of one size with their labels, on any device.

    `resnet_hub.read_labelled(path).load()` makes this object from files. `images[100:200]` selects a part of it.
    """

    pixels: Tensor  #: uint8 (N, H, W, C), 0 … 255, with C = 3 (RGB) or 1 (grey)
    labels: Tensor  #: int64 (N,), positions in `classes`
    classes: tuple[str, ...] = ()  #: names of the classes; empty if the data do not name them
    name: str = 'images'  #: name of the images in tables and messages

    def __repr__(self) -> str:
        return f'{type(self).__name__}({self.name!r}, pixels {(*self.pixels.shape,)}, {len(self.classes)} classes)'

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: Tensor | slice) -> Images:
        """Return the images of a slice, or of an int64 or bool tensor of positions."""
        return replace(self, pixels=self.pixels[index], labels=self.labels[index])

    def to(self, device: torch.device | str) -> Images:
        """Return the images with pixels and labels on a device."""
        return replace(self, pixels=self.pixels.to(device), labels=self.labels.to(device))

    def check(self) -> Images:
        """Return the images unchanged if pixels and labels have the dtypes and shapes that this class describes.

        Raises:
            InputError: they have not; the message says how to convert them.
        """
        pixels, labels = self.pixels, self.labels
        if pixels.dtype != torch.uint8:
            how = '(pixels * 255).round().to(torch.uint8) converts values between 0 and 1'
            raise InputError(f'pixels must be uint8 from 0 to 255, not {pixels.dtype}: {how}')
        if pixels.ndim != 4 or pixels.shape[3] not in (1, 3):
            how = 'pixels.permute(0, 2, 3, 1) converts (N, C, H, W)'
            raise InputError(f'pixels must have the shape (N, H, W, 3) or (N, H, W, 1), not {(*pixels.shape,)}: {how}')
        if labels.is_floating_point() or labels.ndim != 1 or len(labels) != len(pixels):
            wanted = f'integers of the shape ({len(pixels)},), one per image'
            raise InputError(f'labels must be {wanted}, not {labels.dtype} of the shape {(*labels.shape,)}')
        return self


def normalise(pixels: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Return (x / 255 - mean) / std of pixels, from uint8 (N, H, W, C) to float32 (N, C, H, W) in channels_last order."""
    shift, scale = (_in_pixels(tuple(values), pixels.device) for values in (mean, std))
    return ((pixels.float() - shift) / scale).permute(0, 3, 1, 2)


@functools.cache
def _in_pixels(values: tuple[float, ...], device: torch.device) -> Tensor:
    return torch.tensor(values, device=device) * 255
