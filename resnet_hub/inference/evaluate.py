"""How good a classifier is on labelled images."""

from __future__ import annotations

import csv
import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resnet_hub.data.images import Images
from resnet_hub.data.labelled import LabelledImages
from resnet_hub.inference.logits import Data, as_images, compute_outputs
from resnet_hub.inference.transform import class_names
from resnet_hub.registry import as_model
from resnet_hub.runtimes.exported import ExportedNetwork
from resnet_hub.tables.datasets import DATASETS, find_dataset
from resnet_hub.utils.errors import InputError
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
    model: nn.Module | str,
    data: Data,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    batch_size: int = 500,
    *,
    split: str = 'test',
    bf16: bool = False,
    transform: Callable[[Any], Tensor] | None = None,
    temperature: float = 1.0,
) -> Metrics:
    """Measure a classifier on labelled images.

    `evaluate('cifar_resnet20.cifar10', 'cifar10/')` is all that it takes. The model runs in evaluation mode and is left
    as it was. Classes are matched by name where both the images and the model name theirs, else by position. Where
    torch.distributed is initialised its processes share the batches: all of them must call this, with the same model
    and images, and all get the result, which is that of one process.

    Args:
        model: a network from float32 (B, C, H, W) to logits (B, classes), or a name that `load_model` takes.
        data: a file, folder or name that `read_labelled` takes; `Images`; `LabelledImages`; or a pair of pixels, uint8
            (N, H, W, C), and labels, int64 (N,).
        mean: subtracted from the pixels, scaled to 0 … 1; None takes the model's own.
        std: what they are then divided by. With both given nothing is asked of the model's `pretrained_cfg`: it gets
            `Images` in the size that they have, and classes are matched by position. Else images of another size go
            through the model's own transform.
        batch_size: images at a time.
        split: 'train', 'val' or 'test', of data that is read.
        bf16: compute in bfloat16 autocast; the logits are float32 all the same.
        transform: from a PIL image to float32 (C, H, W), in the place of the model's own.
        temperature: divides the logits; see `inference.temperature.fit_temperature`.

    Raises:
        InputError: no images, unusable images, or classes that the model does not have.
        ResnetHubError: logits that are not finite.
    """
    model, images = as_model(model), as_images(data, split)
    labels: list[Tensor] = []

    def check(classes: int) -> None:
        labels.append(match_labels(images, () if mean and std else class_names(model, classes), classes))

    outputs = compute_outputs(model, images, mean, std, batch_size, bf16=bf16, transform=transform, check=check)
    return Metrics.from_logits(outputs.logits.double() / temperature, labels[0], outputs.images_per_second)


def match_labels(images: Images | LabelledImages, names: Sequence[str], count: int) -> Tensor:
    """Return the labels as positions in a model's classes, int64 (N,).

    Classes that both sides name are matched by name, without regard to case, spaces and underscores. Else they are
    matched by position.

    Args:
        images: what is to be classified.
        names: of the model's classes; empty if it names none.
        count: the number of the model's classes.

    Raises:
        InputError: the images have a class that the model does not have; the message shows both.
    """
    labels = images.labels.cpu().long()
    if images.classes and names:
        places = {_plain(name): place for place, name in enumerate(names)}
        missing = [name for name in images.classes if _plain(name) not in places]
        if missing:
            raise InputError(
                f'the model has no class {", ".join(map(repr, missing[:5]))}{" …" * (len(missing) > 5)}: the classes of '
                f'{images.name} are {_listed(images.classes)}; those of the model are {_listed(names)}'
            )
        return torch.tensor([places[_plain(name)] for name in images.classes])[labels]
    if images.classes and len(images.classes) != count:
        raise InputError(
            f'the model has {count} classes without names, {images.name} has {len(images.classes)}: '
            f'{_listed(images.classes)}'
        )
    outside = labels[(labels < 0) | (labels >= count)]
    if len(outside):
        raise InputError(f'the model has {count} classes, the images have label {int(outside[0])}')
    return labels


def _plain(name: str) -> str:
    return re.sub(r'[\W_]+', ' ', name).strip().casefold()


def _listed(names: Sequence[str]) -> str:
    return ', '.join(names) if len(names) <= 12 else f'{", ".join(names[:10])} … ({len(names)} classes)'


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
