"""Decode an image file of any format, size and colour mode as a person sees it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import IO

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from resnet_hub.utils.errors import InputError

#: formats that Pillow can only write or only recognise, or for which it runs another program
_NOT_DECODED = {'BUFR', 'EPS', 'GRIB', 'HDF5', 'MPEG', 'PALM', 'PDF', 'WMF'}

#: formats whose images have no orientation unless `info` has one of the entries `_ORIENTED`; `getexif` is slower
_WITHOUT_EXIF = {None, 'PNG', 'JPEG', 'WEBP', 'GIF', 'BMP'}
_ORIENTED = {'exif', 'Raw profile type exif', 'xmp', 'XML:com.adobe.xmp'}


def image_suffixes() -> set[str]:
    """Return the file suffixes of the formats that Pillow decodes, in lower case with the dot."""
    Image.init()
    return {suffix for suffix, kind in Image.EXTENSION.items() if kind not in _NOT_DECODED}


def find_images(paths: Iterable[str | Path]) -> list[Path]:
    """List image files: each file of `paths`, and all images below each folder, sorted.

    Raises:
        InputError: a folder holds no image.
    """
    suffixes = image_suffixes()
    found: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            inside = sorted(p for p in path.rglob('*') if p.suffix.lower() in suffixes and p.is_file())
            if not inside:
                raise InputError(f'{path} holds no image; give image files or a folder of them')
            found += inside
        else:
            found.append(path)
    return found


def read_image(file: str | Path | IO[bytes] | Image.Image, name: str | None = None, channels: int = 3) -> Image.Image:
    """Read an image upright and with 8 bits per channel. Transparent parts become white.

    Args:
        file: a path, an open file, or an image that Pillow has opened.
        name: what error messages call the image; the path by default.
        channels: 3 for RGB, 1 for grey.

    Raises:
        InputError: the file does not exist, is no image, or is broken.
    """
    name = str(file) if name is None else name
    try:
        if isinstance(file, Image.Image):
            image = _upright(file)
        else:
            with Image.open(file) as image:  # which closes the file and keeps the pixels
                image.load()
            image = _upright(image)
    except FileNotFoundError as error:
        raise InputError(f'{name}: no such file') from error
    except UnidentifiedImageError as error:
        raise InputError(f'{name}: not an image that Pillow can read') from error
    except Exception as error:  # a parser may raise anything on broken bytes
        raise InputError(f'{name}: broken or unreadable image ({" ".join(str(error).split())})') from error
    return as_8_bit(image, channels)


def as_8_bit(image: Image.Image, channels: int = 3) -> Image.Image:
    """Convert an image of any mode to RGB (3 channels) or grey (1 channel) on white, 8 bits per channel."""
    mode = 'RGB' if channels == 3 else 'L'
    if image.mode == mode and 'transparency' not in image.info:
        return image
    if image.mode.startswith(('I', 'F')):
        image = _scale_to_8_bit(image)
    if image.has_transparency_data:
        image = image.convert('RGBA')
        image = Image.alpha_composite(Image.new('RGBA', image.size, 'white'), image)
    return image.convert(mode)


def as_tensor(image: Image.Image) -> Tensor:
    """Return the pixels of an RGB or grey image, uint8 (H, W, C). This is faster than a conversion by numpy."""
    return torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).view(image.height, image.width, -1)


def _upright(image: Image.Image) -> Image.Image:
    """Turn an image as its EXIF orientation says. Leave it as it is where the orientation cannot be read."""
    if image.format in _WITHOUT_EXIF and not _ORIENTED & image.info.keys():
        return image
    upright = image.copy()
    try:
        tags = Image.Exif()
        tags[ExifTags.Base.Orientation] = int(image.getexif().get(ExifTags.Base.Orientation, 1))
        upright.info['exif'] = tags.tobytes()
    except Exception:  # a parser may raise anything on broken bytes; the pixels are intact
        return upright
    turned: Image.Image = ImageOps.exif_transpose(upright)
    return turned


def _scale_to_8_bit(image: Image.Image) -> Image.Image:
    """Scale grey values of 16 bits, 32 bits or floats to 0 … 255. Pillow itself would clip them.

    For 32 bits and floats there is no convention which value is white. It is taken to be 1 (floats only), 255 or 65535:
    the smallest one that no pixel exceeds.
    """
    values = np.asarray(image, dtype=np.float64)
    whites = {'F': (1, 255, 65535), 'I': (255, 65535)}.get(image.mode, (65535,))
    white = next((white for white in whites if values.max() <= white), whites[-1])
    return Image.fromarray((values * (255 / white)).round().clip(0, 255).astype(np.uint8))
