"""Tell what is on a picture."""

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
from resnet_hub.registry import as_model
from resnet_hub.utils.errors import InputError

#: many, because starting a task takes a third of the time of a 32×32 image; few, so that Ctrl-C ends soon
_IMAGES_PER_TASK = 8

Picture: TypeAlias = str | Path | IO[bytes] | Image.Image  #: one image


class Prediction(NamedTuple):
    """The likeliest classes of an image, or why there are none."""

    path: Path | None  #: None for an image that came from no file
    classes: list[tuple[str, float]]  #: name and probability, best first
    error: str | None = None

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
    """Classify images. `predict('cifar_resnet20.cifar10', 'photo.jpg')` is all that it takes.

    One image gives a `Prediction`, several give an iterator that classifies them as it is asked. An unreadable file
    among several is answered with its error; the others are classified all the same. For more than `batch_size` images
    the model is optimised first, see `optimize`.

    Args:
        model: a classifier with a timm `pretrained_cfg`, what `optimize` made of one, or a name that `load_model`
            takes. It runs in evaluation mode and is left as it was.
        images: one image: a path, an open file, a PIL image, or a uint8 array or tensor (H, W), (H, W, 3) or (3, H, W).
            Or several: a list of these, a folder, or a uint8 array or tensor (N, H, W, 3) or (N, 3, H, W).
        topk: the largest number of classes to answer.
        batch_size: images classified at a time, while those of the next batch are decoded.
        label_names: names of the classes; None takes those of the model's `pretrained_cfg` if there are as many, else
            their numbers.

    Raises:
        InputError: images that are none, an unreadable single image, or another number of names.
    """
    model = as_model(model)
    if channels_of(model) not in (1, 3):
        raise InputError(f'the model takes images of {channels_of(model)} channels: only 1 and 3 can be predicted')
    items, single = _pictures(images)
    answers = _predict(model, items, topk, batch_size, label_names)
    if not single:
        return answers
    with closing(answers):  # which ends its threads
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
                raise InputError(f'{len(label_names)} label_names for a model of {logits.shape[1]} classes')
            answers = iter(_best(logits.double().softmax(1), topk, names))  # in float32 many would be 1 exactly
        for path, image in batch:
            yield Prediction(path, next(answers)) if isinstance(image, Tensor) else Prediction(path, [], image)


class _Reader:
    """Reads images as a model wants them: uint8 (H, W, C). Threads share it."""

    def __init__(self, model: nn.Module) -> None:
        self.model: nn.Module | None = model  #: None once `warn` has looked
        self.channels = channels_of(model)
        self.transform = PixelTransform(model)
        self.size: tuple[int, int] | None = None  #: height and width of the first image
        self.path: Path | None = None  #: of the first image

    def __call__(self, item: Any) -> tuple[Path | None, Tensor | str]:
        """Return the path of an image, and its pixels or what is wrong with it."""
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
        """Warn once, if the first image has another size than the network was trained on."""
        if self.model is not None and self.size:
            warn_of_size(self.model, self.size, resized=True, what=str(self.path or 'the images'))
            self.model = None


def _read_ahead(
    items: Sequence[Any], reader: _Reader, batch_size: int
) -> Iterator[list[tuple[Path | None, Tensor | str]]]:
    """Yield batches of images, or of what is wrong with one. Threads read the next batch while one is used."""

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
    """Return names and values of the largest of each row, best first. Names of another classifier are left out."""
    known = len(names) == probabilities.shape[1]
    rows = zip(*(t.tolist() for t in probabilities.topk(min(topk, probabilities.shape[1]))), strict=True)
    return [
        [(names[i] if known else str(i), p) for p, i in zip(values, indices, strict=True)] for values, indices in rows
    ]
