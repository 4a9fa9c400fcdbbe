"""Classify images."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from itertools import chain
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeAlias, overload

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from resnet_hub.data.decode import find_images, read_image
from resnet_hub.inference.mode import evaluation_mode
from resnet_hub.inference.optimize import InferenceModel, optimize
from resnet_hub.inference.transform import PixelTransform, channels_of, normalise_like, warn_of_size
from resnet_hub.registry.loading import as_model
from resnet_hub.utils.errors import InputError

#: Several, because starting a task takes a third of the time of a 32×32 image; few, so that Ctrl-C stops at once.
_IMAGES_PER_TASK = 8

Picture: TypeAlias = str | Path | IO[bytes] | Image.Image  #: one image


class Prediction(NamedTuple):
    """The likeliest classes of an image, or the reason why it could not be read."""

    path: Path | None  #: None for an image that does not come from a file
    classes: list[tuple[str, float]]  #: name and probability, the likeliest first; empty if there is an error
    error: str | None = None  #: why the image could not be read

    def to_dict(self) -> dict[str, Any]:
        """Return what `resnet-hub predict --json` prints."""
        image = None if self.path is None else str(self.path)
        if self.error:
            return {'image': image, 'error': self.error}
        return {'image': image, 'classes': [{'label': name, 'probability': p} for name, p in self.classes]}


@overload
def predict(  # type: ignore[overload-overlap]
    model: nn.Module | str,
    images: Picture,
    topk: int = 5,
    batch_size: int = 256,
    label_names: Sequence[str] | None = None,
) -> Prediction: ...
@overload
def predict(
    model: nn.Module | str,
    images: Sequence[Picture],
    topk: int = 5,
    batch_size: int = 256,
    label_names: Sequence[str] | None = None,
) -> Iterator[Prediction]: ...
@overload
def predict(
    model: nn.Module | str,
    images: np.ndarray | Tensor,
    topk: int = 5,
    batch_size: int = 256,
    label_names: Sequence[str] | None = None,
) -> Prediction | Iterator[Prediction]: ...
def predict(
    model: nn.Module | str,
    images: Any,
    topk: int = 5,
    batch_size: int = 256,
    label_names: Sequence[str] | None = None,
) -> Prediction | Iterator[Prediction]:
    """Classify one or several images.

    For example, `predict('cifar_resnet20.cifar10', 'photo.jpg').classes` lists the five likeliest classes. For more
    than `batch_size` images the model is optimised first, see `optimize`.

    Args:
        model: a classifier with a timm `pretrained_cfg`, the result of `optimize`, or the name of a model, see
            `load_model`. It runs in evaluation mode, and is afterwards in the mode in which it was before.
        images: one image: a path, an open file, a PIL image, or a uint8 array or tensor (H, W), (H, W, 3) or (3, H, W).
            Or several images: a list of these, a folder, or a uint8 array or tensor (N, H, W, 3) or (N, 3, H, W).
        topk: the largest number of classes in a prediction.
        batch_size: number of images in a batch. The next batch is decoded while one is classified.
        label_names: names of the classes; None takes those of the model's `pretrained_cfg`. If their number differs
            from that of the logits, classes are called by their numbers.

    Returns:
        A `Prediction` for one image. For several images an iterator over their predictions, which classifies batch by
        batch. If one of several images cannot be read, its prediction has an `error`, and the others are classified.

    Raises:
        InputError: `images` are not images, a single image cannot be read, or a number is impossible.
    """
    if topk < 1 or batch_size < 1:
        raise InputError('topk and batch_size must be at least 1')
    model = as_model(model)
    if channels_of(model) not in (1, 3):
        raise InputError(
            f'the model takes images of {channels_of(model)} channels, and image files have 1 or 3: use a model of 1 or '
            '3 channels'
        )
    items, single = _pictures(images)
    answers = _predict(model, items, topk, batch_size, label_names)
    if not single:
        return answers
    with closing(answers):  # closing ends its threads
        answer = next(answers)
    if answer.error:
        raise InputError(answer.error)
    return answer


def _pictures(images: Any) -> tuple[Sequence[Any], bool]:
    """Return a sequence of images, and whether `images` is a single one."""
    if isinstance(images, str | Path) and Path(images).is_dir():
        return find_images([images]), False
    if isinstance(images, str | Path | Image.Image) or hasattr(images, 'read'):
        return [images], True
    if isinstance(images, Tensor):
        images = images.cpu().numpy()
    if isinstance(images, np.ndarray):
        return _arrays(images)
    return images, False


def _arrays(images: np.ndarray) -> tuple[list[Image.Image], bool]:
    if images.dtype != np.uint8:
        how = '(x * 255).round() as uint8 converts values between 0 and 1'
        raise InputError(f'images must be uint8 from 0 to 255, not {images.dtype}: {how}')
    single = images.ndim == 2 or (images.ndim == 3 and 3 in (images.shape[0], images.shape[2]))
    batch = images[None] if single else images
    if batch.ndim == 4 and batch.shape[3] not in (1, 3) and batch.shape[1] in (1, 3):
        batch = batch.transpose(0, 2, 3, 1)
    if batch.ndim not in (3, 4) or (batch.ndim == 4 and batch.shape[3] not in (1, 3)):
        raise InputError(f'images must have the shape (H, W, 3) or (N, H, W, 3), not {images.shape}')
    grey = batch.ndim == 4 and batch.shape[3] == 1
    return [Image.fromarray(np.ascontiguousarray(image)) for image in (batch[..., 0] if grey else batch)], single


def _predict(
    model: nn.Module, items: Sequence[Any], topk: int, batch_size: int, label_names: Sequence[str] | None
) -> Generator[Prediction, None, None]:
    cfg: Any = getattr(model, 'pretrained_cfg', {})
    names = label_names or cfg.get('label_names') or ()
    reader = _Reader(model)
    if len(items) > batch_size and not isinstance(model, InferenceModel):
        with suppress(InputError):  # a network that torch.fx cannot trace is used as it is
            model = optimize(model)
    weight = next(model.parameters())
    for batch in _read_ahead(items, reader, batch_size):
        reader.warn()
        good = [image for _, image in batch if isinstance(image, Tensor)]
        answers: Iterator[list[tuple[str, float]]] = iter(())
        if good:
            x = normalise_like(model, torch.stack(good).to(weight.device).permute(0, 3, 1, 2))
            with evaluation_mode(model):
                logits = model(x.to(weight.dtype))
            if label_names and len(label_names) != logits.shape[1]:
                raise InputError(
                    f'the model has {logits.shape[1]} classes, but label_names has {len(label_names)}: give one name for '
                    'each class'
                )
            answers = iter(_best(logits.double().softmax(1), topk, names))  # in float32 many would be exactly 1
        for path, image in batch:
            yield Prediction(path, next(answers)) if isinstance(image, Tensor) else Prediction(path, [], image)


class _Reader:
    """Reads images in the size of a model, as uint8 (H, W, C). Threads share it."""

    def __init__(self, model: nn.Module) -> None:
        self.model: nn.Module | None = model  #: None after `warn` has compared the sizes
        self.channels = channels_of(model)
        self.transform = PixelTransform(model)
        self.size: tuple[int, int] | None = None  #: height and width of the first image
        self.path: Path | None = None  #: path of the first image

    def __call__(self, item: Any) -> tuple[Path | None, Tensor | str]:
        """Return the path of an image, and its pixels or an error message."""
        name = item if isinstance(item, str | Path) else getattr(item, 'name', None)
        path = None if name is None else Path(name)
        try:
            image = read_image(item, 'the image' if path is None else str(path), self.channels)
        except InputError as error:
            return path, str(error)
        if self.size is None:
            self.size, self.path = image.size[::-1], path
        return path, self.transform(image)

    def warn(self) -> None:
        """Warn, at most once, if the first image has another size than the network was trained on."""
        if self.model is not None and self.size:
            warn_of_size(self.model, self.size, resized=True, what=str(self.path or 'the images'))
            self.model = None


def _read_ahead(
    items: Sequence[Any], reader: _Reader, batch_size: int
) -> Iterator[list[tuple[Path | None, Tensor | str]]]:
    """Yield batches of images or error messages, with paths. Threads read the next batch while one is used."""

    def read(start: int, stop: int) -> list[tuple[Path | None, Tensor | str]]:
        return [reader(item) for item in items[start:stop]]

    def begin(start: int) -> Iterator[list[tuple[Path | None, Tensor | str]]]:
        end = min(start + batch_size, len(items))
        starts = range(start, end, _IMAGES_PER_TASK)
        return pool.map(read, starts, (min(s + _IMAGES_PER_TASK, end) for s in starts))

    pool = ThreadPoolExecutor(torch.get_num_threads(), 'read')
    try:
        ahead = begin(0)
        for start in range(0, len(items), batch_size):
            current, ahead = ahead, begin(start + batch_size)
            yield [*chain.from_iterable(current)]
    finally:
        pool.shutdown(cancel_futures=True)


def _best(probabilities: Tensor, topk: int, names: Sequence[str]) -> list[list[tuple[str, float]]]:
    """Return names and values of the largest probabilities of each row, the largest first.

    If the number of names is wrong, classes are called by their numbers.
    """
    known = len(names) == probabilities.shape[1]
    rows = zip(*(t.tolist() for t in probabilities.topk(min(topk, probabilities.shape[1]))), strict=True)
    return [
        [(names[i] if known else str(i), p) for p, i in zip(values, indices, strict=True)] for values, indices in rows
    ]
