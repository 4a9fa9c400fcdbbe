"""Pictures that tests make."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from tests.conftest import ROOT

CAT = ROOT / 'tests' / 'images' / 'cat.jpg'


def photograph(width: int, height: int) -> Image.Image:
    """A picture as rich in detail as a photograph of that size: an enlarged one with noise of several widths."""
    picture = ImageOps.fit(Image.open(CAT).convert('RGB'), (width, height), Image.Resampling.BICUBIC)
    random = np.random.default_rng(0)
    values = np.asarray(picture, dtype=float)
    for scale in (1, 3, 9):
        noise = random.normal(0, 18, (height // scale + 1, width // scale + 1, 3))
        values = values + noise.repeat(scale, 0).repeat(scale, 1)[:height, :width]
    return Image.fromarray(values.round().clip(0, 255).astype(np.uint8))


def encode(picture: Image.Image, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, **options)
    return buffer.getvalue()
