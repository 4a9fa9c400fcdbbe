"""The preprocessing of a picture, as a module that can be exported."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from resnet_hub.utils.errors import InputError

_ONE = 1 << 22  # Pillow computes with weights of 22 fractional bits


def _triangle(x: Tensor) -> Tensor:
    return (1 - x).clamp(min=0)


def _cubic(x: Tensor) -> Tensor:
    """Return the cubic convolution kernel with a = -0.5 (Keys 1981, eq. 15), at distances x ≥ 0."""
    inner = (1.5 * x - 2.5) * x * x + 1
    outer = ((x - 5) * x + 8) * x * -0.5 + 2
    return torch.where(x < 1, inner, torch.where(x < 2, outer, 0.0))


FILTERS: dict[str, Callable[[Tensor], Tensor]] = {'bilinear': _triangle, 'bicubic': _cubic}


class Preprocessing(nn.Module):
    """Resizes the short side, crops the centre and normalises, with the same result as timm's evaluation transform.

    The resize is that of Pillow, with its antialiasing and its rounding to 8 bits after each of the two passes, along the
    rows and along the columns. A pass is a matrix product; its matrix depends on the size of the picture. The pass along
    the rows comes first. In Pillow 13 that along the columns comes first for very tall pictures.

    Args:
        cfg: timm's `pretrained_cfg` of the network.

    Raises:
        InputError: the network has another transform.
    """

    def __init__(self, cfg: Mapping[str, Any]) -> None:
        super().__init__()
        size = tuple(cfg['input_size'][1:])
        self.interpolation = cfg.get('interpolation', 'bicubic')
        crop = cfg.get('crop_pct', 1.0), cfg.get('crop_mode', 'center')
        if self.interpolation not in FILTERS or size[0] != size[1] or crop[0] != 1 or crop[1] != 'center':
            raise InputError(
                f'preprocessing can be exported for square images, crop_pct 1, crop_mode center and interpolation '
                f'{" or ".join(FILTERS)}, not for {size}, {crop[0]}, {crop[1]}, {self.interpolation}'
            )
        self.size = int(size[0])
        self.mean, self.std = (nn.Buffer(torch.tensor(cfg[key])[:, None, None]) for key in ('mean', 'std'))

    def forward(self, picture: Tensor) -> Tensor:
        """Transform a picture, uint8 (H, W, 3) of any size, to float32 (1, 3, size, size)."""
        height, width = (torch.scalar_tensor(n, dtype=torch.int64) for n in picture.shape[:2])
        short = torch.minimum(height, width)
        columns = self._pass(picture.shape[1], width, short)
        rows = self._pass(picture.shape[0], height, short)
        x = picture.permute(2, 0, 1).double()
        lost = [old - self.size * old // short for old in (height, width)]
        columns_first = (lost[0] > 0) & (lost[0] > 2 * lost[1])
        rows_first = _round(rows @ _round(x @ columns.T))
        x = torch.where(columns_first, _round(_round(rows @ x) @ columns.T), rows_first)
        return ((x.float() / 255 - self.mean) / self.std)[None]

    def _pass(self, length: int, old: Tensor, short: Tensor) -> Tensor:
        """Return the matrix of a pass, float64 (size, length). Its values are whole numbers; `_ONE` is a weight of 1."""
        new = self.size * old // short
        start = ((new - self.size).double() / 2).round()
        scale = old.double() / new.double()
        centres = (torch.arange(self.size, dtype=torch.float64) + start + 0.5) * scale
        pixels = torch.arange(length, dtype=torch.float64) + 0.5
        weights = FILTERS[self.interpolation](((pixels - centres[:, None]) / scale.clamp(min=1)).abs())
        weights = _ONE * weights / weights.sum(1, keepdim=True)
        return weights.sign() * (weights.abs() + 0.5).floor()


def _round(x: Tensor) -> Tensor:
    """Round sums of pixels times weights to whole pixels, 0 … 255."""
    return ((x + _ONE // 2) / _ONE).floor().clamp(0, 255)
