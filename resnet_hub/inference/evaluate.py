"""How good a classifier is on labelled images."""

from __future__ import annotations

import csv
import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resnet_hub.data.images import Images, normalise
from resnet_hub.inference.mode import evaluation_mode
from resnet_hub.runtimes.exported import ExportedNetwork
from resnet_hub.tables.datasets import DATASETS, Triple, find_dataset
from resnet_hub.utils.distributed import all_sum, is_first, rank, world_size
from resnet_hub.utils.errors import InputError, ResnetHubError
from resnet_hub.utils.files import digest, encode, halve

LOG_COLUMNS = ('model', 'dataset', 'split', 'top1', 'top5', 'nll', 'ece', 'images', 'sha256')
_SUMMARY = ('top1', 'top5', 'nll', 'ece', 'images')


@dataclass(frozen=True)
class Metrics:
    """What is measured on labelled images; equal where the predictions are, whatever the speed."""

    top1: float  #: accuracy in %
    top5: float  #: images whose class is among the five likeliest, in %
    nll: float  #: mean negative log-likelihood of the true class, in nats
    ece: float  #: expected calibration error over 15 bins, in %
    images: int
    confusion: tuple[tuple[int, ...], ...] = field(repr=False)  #: images by true class (row) and predicted one (column)
    images_per_second: float = field(default=0.0, compare=False)  #: of the network's pass alone

    @classmethod
    def from_logits(cls, logits: Tensor, labels: Tensor, images_per_second: float = 0.0) -> Metrics:
        """Measure logits (N, C) of any floating dtype against labels, int64 (N,), 0 … C - 1."""
        logits = logits.double()
        count, classes = logits.shape
        ranked = logits.topk(min(5, classes)).indices
        hits = ranked == labels[:, None]
        confidence = logits.softmax(1).amax(1)
        pairs = torch.bincount(classes * labels + ranked[:, 0], minlength=classes**2)
        return cls(
            top1=round(100 * int(hits[:, 0].sum()) / count, 4),
            top5=round(100 * int(hits.sum()) / count, 4),
            nll=round(float(F.cross_entropy(logits, labels)), 4),
            ece=round(100 * expected_calibration_error(confidence, hits[:, 0]), 4),
            images=count,
            confusion=tuple(map(tuple, pairs.view(classes, classes).tolist())),
            images_per_second=images_per_second,
        )

    @property
    def per_class(self) -> tuple[float | None, ...]:
        """Accuracy in % by class; None for a class without images."""
        return tuple(
            round(100 * row[label] / sum(row), 4) if any(row) else None for label, row in enumerate(self.confusion)
        )

    def to_dict(self) -> dict[str, Any]:
        """The figures that fit into one row, the same at every evaluation."""
        return {name: getattr(self, name) for name in _SUMMARY}


def expected_calibration_error(confidence: Tensor, correct: Tensor, bins: int = 15) -> float:
    """|accuracy - mean confidence| of the predictions in each bin ((m - 1) / M, m / M], weighted by their share.

    Guo et al. 2017, On Calibration of Modern Neural Networks, eq. 3.

    Args:
        confidence: probability of the predicted class, float64 (N,).
        correct: whether it is the true one, bool (N,).
        bins: M.

    Returns:
        from 0 to 1.
    """
    edges = torch.arange(1, bins, dtype=torch.float64) / bins
    gaps = torch.bincount(torch.bucketize(confidence, edges), correct.double() - confidence, bins)
    return float(gaps.abs().sum()) / len(confidence)


def evaluate(
    model: nn.Module,
    images: Images,
    mean: Triple,
    std: Triple,
    batch_size: int = 500,
    *,
    bf16: bool = False,
    transform: Callable[[Any], Tensor] | None = None,
) -> Metrics:
    """Measure a classifier.

    The model runs in evaluation mode and is left as it was; images are moved to its device. Where torch.distributed
    is initialised its processes share the batches: all of them must call this, with the same model and images, and
    all get the result, which is that of one process.

    Args:
        model: a network from float32 (B, 3, H, W) to logits (B, C).
        images: at least one, see `load_images`.
        mean: subtracted from the pixels, scaled to 0 … 1.
        std: what they are then divided by.
        batch_size: images at a time.
        bf16: bfloat16 autocast; else in float32.
        transform: of a PIL image to float32 (3, H, W), in the place of `mean` and `std`; see `transform_for`.

    Raises:
        InputError: no images, or labels beyond the model's classes.
        ResnetHubError: logits that are not finite.
    """
    from tqdm.auto import tqdm

    if not len(images):
        raise InputError('there are no images to evaluate on')
    device = next(model.parameters()).device

    def forward(part: slice) -> tuple[Tensor, float]:
        """Logits, float32 (B, C), and the seconds that the network took."""
        x = _inputs(images.pixels[part], mean, std, transform, device)
        began = _clock(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            logits = model(x)
        return logits.float(), _clock(device) - began

    parts = [slice(start, start + batch_size) for start in range(0, len(images), batch_size)][rank() :: world_size()]
    passes = []
    with evaluation_mode(model), ieee_convolutions():
        classes = forward(slice(1))[0].shape[1]  # all processes know it, also one without a batch
        _check_labels(images.labels, classes)
        logits = torch.zeros(len(images), classes, device=device)
        for part in tqdm(parts, 'evaluate', unit='batch', leave=False, delay=1, disable=None if is_first() else True):
            logits[part], seconds = forward(part)
            passes.append((len(logits[part]), seconds))
    all_sum(logits)  # of each row, one process has the logits and the others zeros
    if not bool(logits.isfinite().all()):
        raise ResnetHubError('the logits are not finite: the weights have diverged, or are those of another network')
    speed = all_sum(torch.tensor(_speed(passes), device=device))
    return Metrics.from_logits(logits.cpu(), images.labels.cpu(), round(float(speed), 1))


def _inputs(
    pixels: Tensor, mean: Triple, std: Triple, transform: Callable[[Any], Tensor] | None, device: torch.device
) -> Tensor:
    """A batch for the network: uint8 (B, H, W, 3) to float32 (B, 3, H', W') on its device."""
    if transform is None:
        return normalise(pixels.to(device), mean, std)
    from PIL import Image

    images = torch.stack([transform(Image.fromarray(image)) for image in pixels.cpu().numpy()])
    return images.to(device, memory_format=torch.channels_last)


def _check_labels(labels: Tensor, classes: int) -> None:
    outside = labels[(labels < 0) | (labels >= classes)]
    if len(outside):
        raise InputError(f'the model has {classes} classes, the images have label {int(outside[0])}')


def _clock(device: torch.device) -> float:
    """Seconds, when all that the device was given is done."""
    if device.type != 'cpu':
        torch.accelerator.synchronize(device)
    return time.perf_counter()


def _speed(passes: Sequence[tuple[int, float]]) -> float:
    """Images per second of (images, seconds); a first batch among others is left out, as it prepares what follows."""
    timed = passes[1:] or passes
    return sum(count for count, _ in timed) / sum(seconds for _, seconds in timed) if timed else 0.0


@contextmanager
def ieee_convolutions() -> Iterator[None]:
    """No TF32, which PyTorch's default allows on GPUs: its 10 bits of mantissa change predictions as float16's do."""
    convolutions: Any = torch.backends.cudnn.conv  # type: ignore[attr-defined]
    before, convolutions.fp32_precision = convolutions.fp32_precision, 'ieee'
    try:
        yield
    finally:
        convolutions.fp32_precision = before


def transform_for(model: nn.Module, images: Images) -> Callable[[Any], Tensor] | None:
    """timm's transform of a network that takes another image size than `images` have; None where they fit as they are.

    Args:
        model: a network with a timm `pretrained_cfg`.
        images: what it is to classify.
    """
    from resnet_hub.inference.predict import make_transform

    cfg: Any = model.pretrained_cfg
    return None if tuple(cfg['input_size'][1:]) == images.pixels.shape[1:3] else make_transform(model)


def dataset_of(cfg: Mapping[str, Any], name: str | None = None) -> str:
    """The data set to measure a network on: the one whose classes it names, else the first with as many classes.

    Args:
        cfg: timm's `pretrained_cfg` of the network.
        name: the data set that is wanted, if one is.

    Raises:
        InputError: unknown data set; none, or not the one wanted, has the network's number of classes; images that are
            not in colour.
    """
    candidates = {name: find_dataset(name)} if name else DATASETS
    fitting = [key for key, dataset in candidates.items() if len(dataset.classes) == cfg['num_classes']]
    if not fitting:
        counts = ', '.join(f'{key} has {len(dataset.classes)}' for key, dataset in candidates.items())
        raise InputError(f'the model has {cfg["num_classes"]} classes, {counts}')
    if cfg['input_size'][0] != 3:
        raise InputError(f'the model takes images of {cfg["input_size"][0]} channels, these have 3')
    labels = tuple(cfg.get('label_names') or ())
    return next((key for key in fitting if DATASETS[key].classes == labels), fitting[0])


def log_evaluation(path: str | Path, result: Mapping[str, Any], model: nn.Module) -> None:
    """Append a result to a CSV file, with the SHA-256 of the weights as safetensors, or of an exported file.

    A new file gets `LOG_COLUMNS`.

    Raises:
        InputError: the file is another table.
    """
    if isinstance(model, ExportedNetwork):
        sha256 = digest(model.path)
    else:
        sha256 = hashlib.sha256(encode(halve(model.state_dict()))).hexdigest()
    row = {**result, 'sha256': sha256}
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, 'a+', newline='', encoding='utf-8') as file:
        file.seek(0)
        columns = next(csv.reader([file.readline()]))
        if not set(columns) <= set(LOG_COLUMNS):
            raise InputError(f'{path} is another table: its columns are {", ".join(columns)}')
        writer = csv.DictWriter(file, columns or LOG_COLUMNS, extrasaction='ignore')
        if not columns:
            writer.writeheader()
        writer.writerow(row)
