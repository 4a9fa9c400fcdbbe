"""What is on a picture."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import nn

from .errors import InputError


class Prediction(NamedTuple):
    """The likeliest classes of an image, or why there are none."""

    path: Path
    classes: list[tuple[str, float]]  #: name and probability, best first
    error: str | None = None


def find_images(paths: Iterable[str | Path]) -> list[Path]:
    """The files among `paths`, and for a folder the images below it (by suffix), sorted.

    Raises:
        InputError: a folder that holds no image.
    """
    Image.init()
    found: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            inside = sorted(p for p in path.rglob('*') if p.suffix.lower() in Image.EXTENSION and p.is_file())
            if not inside:
                raise InputError(f'{path} holds no image; give image files or a folder of them')
            found += inside
        else:
            found.append(path)
    return found


def read_image(path: str | Path) -> Image.Image:
    """Any image that Pillow opens, upright, as 8-bit RGB; transparent parts become white.

    Raises:
        InputError: no such file, no image, or a broken one.
    """
    try:
        with Image.open(path) as file:
            image: Image.Image = ImageOps.exif_transpose(file)
    except FileNotFoundError:
        raise InputError(f'{path}: no such file') from None
    except UnidentifiedImageError:
        raise InputError(f'{path}: not an image that Pillow can read') from None
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise InputError(f'{path}: broken or unreadable image ({error})') from None
    if image.mode.startswith(('I', 'F')):
        image = _to_8_bit(image)
    if image.has_transparency_data:
        image = image.convert('RGBA')
        image = Image.alpha_composite(Image.new('RGBA', image.size, 'white'), image)
    return image.convert('RGB')


def _to_8_bit(image: Image.Image) -> Image.Image:
    """Grey values of 16 bits, of 32 bits or floats to 0 … 255, where Pillow itself would clip them.

    32 bits and floats have no convention: white is the smallest of 1 (floats), 255 and 65535 that no value exceeds.
    """
    values = np.asarray(image, dtype=np.float64)
    whites = {'F': (1, 255, 65535), 'I': (255, 65535)}.get(image.mode, (65535,))
    white = next((white for white in whites if values.max() <= white), whites[-1])
    return Image.fromarray((values * (255 / white)).round().clip(0, 255).astype(np.uint8))


def make_transform(model: nn.Module) -> Any:
    """timm's evaluation transform of a model, from a PIL image to float32 (3, H, W)."""
    from timm.data import create_transform, resolve_model_data_config

    return create_transform(**resolve_model_data_config(model), is_training=False)


def predict(
    model: nn.Module,
    paths: Sequence[str | Path],
    topk: int = 5,
    batch_size: int = 256,
    label_names: Sequence[str] | None = None,
) -> Iterator[Prediction]:
    """Classify image files; an unreadable one is answered with its error, the others all the same.

    Args:
        model: a classifier with a timm `pretrained_cfg`.
        paths: image files.
        topk: classes to answer, at most.
        batch_size: images decoded and classified at a time.
        label_names: names of the classes; None: those of the model's `pretrained_cfg`, else their numbers.
    """
    transform = make_transform(model)
    cfg: dict[str, Any] = getattr(model, 'pretrained_cfg', {})
    names = label_names or cfg.get('label_names')
    model = model.eval()
    device = next(model.parameters()).device
    for start in range(0, len(paths), batch_size):
        chunk = [_try_read(path, transform) for path in paths[start : start + batch_size]]
        good = [tensor for tensor, _ in chunk if tensor is not None]
        answers: Iterator[list[tuple[str, float]]] = iter(())
        if good:
            with torch.inference_mode():
                probabilities = model(torch.stack(good).to(device)).float().softmax(-1).cpu()
            answers = iter([_best(row, topk, names) for row in probabilities])
        for path, (_, error) in zip(paths[start : start + batch_size], chunk, strict=True):
            yield Prediction(Path(path), [] if error else next(answers), error)


def _try_read(path: str | Path, transform: Any) -> tuple[torch.Tensor | None, str | None]:
    try:
        return transform(read_image(path)), None
    except InputError as error:
        return None, str(error)


def _best(probabilities: torch.Tensor, topk: int, names: Sequence[str] | None) -> list[tuple[str, float]]:
    values, indices = probabilities.topk(min(topk, len(probabilities)))
    pairs = zip(indices.tolist(), values.tolist(), strict=True)
    return [(names[i] if names and i < len(names) else str(i), value) for i, value in pairs]
