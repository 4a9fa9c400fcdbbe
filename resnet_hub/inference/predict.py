"""What is on a picture."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from resnet_hub.data.decode import read_image
from resnet_hub.inference.mode import evaluation_mode
from resnet_hub.inference.optimize import InferenceModel, optimize
from resnet_hub.utils.errors import InputError

_IMAGES_PER_TASK = 8  #: many, because a task takes a third of the time of a 32×32 image; few, to end soon after Ctrl-C


class Prediction(NamedTuple):
    """The likeliest classes of an image, or why there are none."""

    path: Path
    classes: list[tuple[str, float]]  #: name and probability, best first
    error: str | None = None


def make_transform(model: nn.Module, normalize: bool = True) -> Any:
    """timm's evaluation transform of a model, from a PIL image to float32 (3, H, W).

    Without `normalize` it stops at uint8; `normalise_like` does the rest for many images at once.
    """
    from timm.data import create_transform, resolve_model_data_config

    return create_transform(**resolve_model_data_config(model), is_training=False, normalize=normalize)


def normalise_like(model: nn.Module, pixels: Tensor) -> Tensor:
    """uint8 (N, 3, H, W) to float32, on the same device: the end of `make_transform(model)`, to the last bit."""
    from timm.data import resolve_model_data_config

    cfg = resolve_model_data_config(model)
    mean, std = (torch.tensor(cfg[key], device=pixels.device)[:, None, None] for key in ('mean', 'std'))
    return pixels.float().div_(255).sub_(mean).div_(std)


def predict(
    model: nn.Module,
    paths: Sequence[str | Path],
    topk: int = 5,
    batch_size: int = 256,
    label_names: Sequence[str] | None = None,
) -> Iterator[Prediction]:
    """Classify image files, one after the other as the answers are asked for.

    An unreadable file is answered with its error, the others all the same. For more than `batch_size` files the model is
    optimised first, see `optimize`.

    Args:
        model: a classifier with a timm `pretrained_cfg`, or what `optimize` made of one. It runs in evaluation mode and is left as it was.
        paths: image files; `find_images` lists those of folders.
        topk: classes to answer, at most.
        batch_size: images classified at a time, while those of the next batch are decoded.
        label_names: names of the classes; None: those of the model's `pretrained_cfg`, if as many, else their numbers.

    Raises:
        InputError: a model that does not take colour images, or another number of names.
    """
    cfg: Any = getattr(model, 'pretrained_cfg', {})
    names = label_names or cfg.get('label_names') or ()
    channels = (
        getattr(model, 'in_chans', None) or cfg.get('input_size', (3,))[0]
    )  # timm's cfg keeps those of the weights
    if channels != 3:
        raise InputError(f'the model takes images of {channels} channels, these have 3')
    transform = make_transform(model, normalize=False)
    if len(paths) > batch_size and not isinstance(model, InferenceModel):
        with suppress(InputError):  # a network that torch.fx cannot trace is used as it is
            model = optimize(model)
    weight = next(model.parameters())
    for batch in _read_ahead(paths, transform, batch_size):
        good = [image for _, image in batch if isinstance(image, Tensor)]
        answers: Iterator[list[tuple[str, float]]] = iter(())
        if good:
            x = normalise_like(model, torch.stack(good).to(weight.device, memory_format=torch.channels_last))
            with evaluation_mode(model):
                logits = model(x.to(weight.dtype)).float()
            if label_names and len(label_names) != logits.shape[1]:
                raise InputError(f'{len(label_names)} label_names for a model of {logits.shape[1]} classes')
            answers = iter(_best(logits.softmax(1), topk, names))
        for path, image in batch:
            yield Prediction(path, next(answers)) if isinstance(image, Tensor) else Prediction(path, [], image)


def _read_ahead(
    paths: Sequence[str | Path], transform: Any, batch_size: int
) -> Iterator[list[tuple[Path, Tensor | str]]]:
    """Batches of images, or of what is wrong with one; threads read the next batch while one is used."""

    def read(start: int, stop: int) -> list[tuple[Path, Tensor | str]]:
        return [(Path(path), _try_read(path, transform)) for path in paths[start:stop]]

    def begin(start: int) -> Iterator[list[tuple[Path, Tensor | str]]]:
        end = min(start + batch_size, len(paths))
        starts = range(start, end, _IMAGES_PER_TASK)
        return pool.map(read, starts, (min(s + _IMAGES_PER_TASK, end) for s in starts))

    pool = ThreadPoolExecutor(torch.get_num_threads(), 'read')
    try:
        ahead = begin(0)
        for start in range(0, len(paths), batch_size):
            current, ahead = ahead, begin(start + batch_size)
            yield [*chain.from_iterable(current)]
    finally:
        pool.shutdown(cancel_futures=True)


def _try_read(path: str | Path, transform: Any) -> Tensor | str:
    try:
        return transform(read_image(path))
    except InputError as error:
        return str(error)


def _best(probabilities: Tensor, topk: int, names: Sequence[str]) -> list[list[tuple[str, float]]]:
    """Names and values of the largest of each row, best first; names of another classifier are left out."""
    known = len(names) == probabilities.shape[1]
    rows = zip(*(t.tolist() for t in probabilities.topk(min(topk, probabilities.shape[1]))), strict=True)
    return [
        [(names[i] if known else str(i), p) for p, i in zip(values, indices, strict=True)] for values, indices in rows
    ]
