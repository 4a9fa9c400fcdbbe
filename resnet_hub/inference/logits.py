"""Run a network over many images. All evaluations use this."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from resnet_hub.data.images import Images, normalise
from resnet_hub.data.labelled import LabelledImages
from resnet_hub.data.sources import read_labelled
from resnet_hub.inference.mode import evaluation_mode
from resnet_hub.inference.transform import PixelTransform, channels_of, normalisation, size_of, warn_of_size
from resnet_hub.utils.distributed import all_sum, is_first, rank, world_size
from resnet_hub.utils.errors import InputError, ResnetHubError

Data: TypeAlias = Any  #: a path or name for `read_labelled`, Images, LabelledImages, or a pair (pixels, labels)


class Outputs(NamedTuple):
    """The outputs of a network for many images, on the CPU."""

    logits: Tensor  #: float32 (N, classes)
    features: Tensor | None  #: float32 (N, width), the input of the classifier; None unless asked for
    images_per_second: float  #: speed of the network alone, without decoding


def as_images(data: Data, split: str = 'test', need_labels: bool = True) -> Images | LabelledImages:
    """Return images from anything that `evaluate` takes as `data`.

    Raises:
        InputError: pixels or labels have another dtype or shape than `Images` describes; see also `read_labelled`.
    """
    if isinstance(data, str | Path):
        return read_labelled(data, split, need_labels=need_labels)
    if isinstance(data, tuple | list) and len(data) == 2:
        data = Images(torch.as_tensor(data[0]), torch.as_tensor(data[1]))
    if isinstance(data, Images):
        data = data.check()
    if not isinstance(data, Images | LabelledImages):
        raise InputError(f'expected a path, images or a pair (pixels, labels), not {type(data).__name__}')
    if not len(data):
        raise InputError('there are no images to evaluate on')
    return data


def compute_outputs(
    model: nn.Module,
    images: Images | LabelledImages,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    batch_size: int = 500,
    *,
    bf16: bool = False,
    transform: Callable[[Any], Tensor] | None = None,
    features: bool = False,
    check: Callable[[int], object] = lambda classes: None,
) -> Outputs:
    """Run a network over images, in float32 unless `bf16`. The logits are float32 in any case.

    The network runs in evaluation mode, and is afterwards in the mode in which it was before. If torch.distributed is
    initialised, its processes share the batches. All of them must call this function with the same model and images,
    and all get the whole result.

    Args:
        model: a network from float32 (B, C, H, W) to logits (B, classes).
        images: at least one image.
        mean, std: the normalisation of pixels scaled to 0 … 1. Without them the network's own is taken, and images of
            another size go through its own transform first.
        batch_size: number of images in a batch.
        bf16: compute in bfloat16 autocast.
        transform: a function from a PIL image to uint8 or to normalised float32 (C, H, W); replaces the network's own.
        features: return the features too; the network must have timm's `forward_features` and `forward_head`.
        check: called with the number of classes before most images are decoded. It may raise an error.

    Raises:
        InputError: the normalisation is unknown, or an image is broken.
        ResnetHubError: the logits are not finite.
    """
    from tqdm.auto import tqdm

    weight = next(model.parameters())
    device = weight.device
    as_they_are = mean is not None and std is not None
    if mean is None or std is None:
        if not getattr(model, 'pretrained_cfg', None):
            raise InputError('the network does not say how its images are normalised: give mean and std')
        own_mean, own_std = normalisation(model)
        mean, std = mean or own_mean, std or own_std
    pixels = _pixels(model, images, as_they_are) if transform is None else None

    def run(x: Tensor) -> tuple[Tensor, Tensor | None, float]:
        """Return float32 logits, features, and the seconds that the network took."""
        x = normalise(x.to(device), mean, std) if x.dtype == torch.uint8 else x
        x = x.to(device, weight.dtype)
        began = _clock(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            inner = model.forward_head(model.forward_features(x), pre_logits=True) if features else None  # type: ignore[operator]
            logits = model(x) if inner is None else model.get_classifier()(inner)  # type: ignore[operator]
        return logits.float(), None if inner is None else inner.float(), _clock(device) - began

    def batches(parts: Sequence[range]) -> Iterator[Tensor]:
        if pixels is not None:
            yield from (pixels[part.start : part.stop] for part in parts)
            return
        channels = channels_of(model)
        for x in encoded(images).batches(transform or PixelTransform(model), parts, channels):
            yield x.permute(0, 2, 3, 1) if transform is not None and x.dtype == torch.uint8 else x

    starts = range(0, len(images), batch_size)
    parts = [range(start, min(start + batch_size, len(images))) for start in starts][rank() :: world_size()]
    passes = []
    with evaluation_mode(model), ieee_convolutions():
        first, inner, _ = run(next(batches([range(1)])))  # a process without a batch must know the shapes too
        check(first.shape[1])
        found = torch.zeros(len(images), first.shape[1], device=device)
        kept = None if inner is None else torch.zeros(len(images), inner.shape[1], device=device)
        silent = None if is_first() else True
        bar = tqdm(batches(parts), 'evaluate', len(parts), unit='batch', leave=False, delay=1, disable=silent)
        for part, x in zip(parts, bar, strict=True):
            rows = slice(part.start, part.stop)
            found[rows], inner, seconds = run(x)
            if kept is not None and inner is not None:
                kept[rows] = inner
            passes.append((len(part), seconds))
    for tensor in (found, kept):
        if tensor is not None:
            all_sum(tensor)  # one process has the values of a row, and the others have zeros
    if not bool(found.isfinite().all()):
        raise ResnetHubError(
            'the logits are not finite: the weights are not finite, or belong to another network; use other weights'
        )
    speed = float(all_sum(torch.tensor(_speed(passes), device=device)))
    return Outputs(found.cpu(), None if kept is None else kept.cpu(), round(speed, 1))


def _pixels(model: nn.Module, images: Images | LabelledImages, as_they_are: bool) -> Tensor | None:
    """Return the pixels if the network can get them as they are; None if a transform must change them first."""
    if isinstance(images, LabelledImages):
        width, height = images.open(0).size
        warn_of_size(model, (height, width), resized=True)
        return None
    height, width, channels = images.pixels.shape[1:]
    warn_of_size(model, (height, width), resized=not as_they_are)
    same = size_of(model) in (None, (height, width)) and channels == channels_of(model)
    return images.pixels if same or as_they_are else None


def encoded(images: Images | LabelledImages) -> LabelledImages:
    """Return images that can be opened one by one."""
    if isinstance(images, LabelledImages):
        return images
    return LabelledImages(list(images.pixels.cpu().numpy()), images.labels.cpu(), images.classes, images.name)


@contextmanager
def ieee_convolutions() -> Iterator[None]:
    """Turn off TF32 for convolutions inside the block.

    PyTorch uses TF32 on GPUs by default. Its 10 bits of mantissa change predictions.
    """
    convolutions: Any = torch.backends.cudnn.conv  # type: ignore[attr-defined]
    before, convolutions.fp32_precision = convolutions.fp32_precision, 'ieee'
    try:
        yield
    finally:
        convolutions.fp32_precision = before


def _clock(device: torch.device) -> float:
    """Wait until the device has finished its work, and return the time in seconds."""
    if device.type != 'cpu':
        torch.accelerator.synchronize(device)
    return time.perf_counter()


def _speed(passes: Sequence[tuple[int, float]]) -> float:
    """Return images per second from pairs (images, seconds). Leave out the first of several batches, which is slower."""
    timed = passes[1:] or passes
    return sum(count for count, _ in timed) / sum(seconds for _, seconds in timed) if timed else 0.0
