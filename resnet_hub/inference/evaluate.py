"""Measure how good a classifier is on labelled images."""

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
from resnet_hub.registry.loading import as_model
from resnet_hub.runtimes.exported import ExportedNetwork
from resnet_hub.tables.datasets import DATASETS, find_dataset
from resnet_hub.utils.errors import InputError
from resnet_hub.utils.files import digest, encode, halve

LOG_COLUMNS = ('model', 'dataset', 'split', 'top1', 'top5', 'nll', 'ece', 'images', 'sha256')
_SUMMARY = ('top1', 'top5', 'nll', 'ece', 'images')


@dataclass(frozen=True)
class Metrics:
    """The figures that `evaluate` measures. Comparisons with == leave out the speed."""

    top1: float  #: accuracy in %
    top5: float  #: share of the images whose class is among the five likeliest, in %
    nll: float  #: mean negative log-likelihood of the true class, in nats
    ece: float  #: expected calibration error over 15 bins, in %
    images: int  #: number of images
    #: number of images of each true class (row) and predicted class (column)
    confusion: tuple[tuple[int, ...], ...] = field(repr=False)
    images_per_second: float = field(default=0.0, compare=False)  #: speed of the network alone, without decoding

    @classmethod
    def from_logits(cls, logits: Tensor, labels: Tensor, images_per_second: float = 0.0) -> Metrics:
        """Compare logits with labels.

        Args:
            logits: (N, C), any floating dtype.
            labels: int64 (N,), 0 … C - 1.
            images_per_second: the speed to store in the result.
        """
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
        """Return the accuracy in % of each class; None for a class without images."""
        return tuple(
            round(100 * row[label] / sum(row), 4) if any(row) else None for label, row in enumerate(self.confusion)
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the figures that make one row of a table: all but the confusion and the speed."""
        return {name: getattr(self, name) for name in _SUMMARY}


def expected_calibration_error(confidence: Tensor, correct: Tensor, bins: int = 15) -> float:
    """Return the expected calibration error, from 0 to 1.

    The predictions are sorted by confidence into M bins ((m - 1) / M, m / M]. The error is the mean over the bins of
    |accuracy - mean confidence|, weighted by the number of predictions in the bin. Guo et al. 2017, On Calibration of
    Modern Neural Networks, eq. 3.

    Args:
        confidence: probability of the predicted class, float64 (N,).
        correct: whether the predicted class is the true one, bool (N,).
        bins: the number M of bins.
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

    For example, `evaluate('cifar_resnet20.cifar10', 'cifar10/').top1` is an accuracy in %.

    The model runs in evaluation mode, and is afterwards in the mode in which it was before. If both the images and the
    model name their classes, classes are matched by name, else by position.

    If torch.distributed is initialised, its processes share the batches. All of them must call this function with the
    same model and images, and all get the result that one process alone would get.

    Args:
        model: a network from float32 (B, C, H, W) to logits (B, classes), or its name, see `load_model`.
        data: a file, a folder or a name, see `read_labelled`; `Images`; `LabelledImages`; or a pair of pixels, uint8
            (N, H, W, C), and labels, int64 (N,).
        mean: subtracted from the pixels, which are scaled to 0 … 1; None takes the model's own.
        std: by which the pixels are then divided; None takes the model's own. If `mean` and `std` are given, the
            model's `pretrained_cfg` is not used: `Images` keep their size, and classes are matched by position. Else
            images of another size go through the model's own transform.
        batch_size: number of images in a batch.
        split: 'train', 'val' or 'test', if `data` is read from files.
        bf16: compute in bfloat16 autocast; the logits are float32 in any case.
        transform: a function from a PIL image to float32 (C, H, W), which replaces the model's own transform.
        temperature: divides the logits, see `inference.temperature.fit_temperature`.

    Returns:
        The accuracy and other figures.

    Raises:
        InputError: there are no images, they are unusable, or they have classes that the model does not have.
        ResnetHubError: the logits are not finite.
    """
    model, images = as_model(model), as_images(data, split)
    labels: list[Tensor] = []

    def check(classes: int) -> None:
        labels.append(match_labels(images, (), classes) if mean and std else labels_for(model, images, classes))

    outputs = compute_outputs(model, images, mean, std, batch_size, bf16=bf16, transform=transform, check=check)
    return Metrics.from_logits(outputs.logits.double() / temperature, labels[0], outputs.images_per_second)


def labels_for(model: nn.Module, images: Images | LabelledImages, count: int) -> Tensor:
    """Return the labels as positions in the `count` classes of a model, int64 (N,), see `match_labels`."""
    return match_labels(images, class_names(model, count), count)


def match_labels(images: Images | LabelledImages, names: Sequence[str], count: int) -> Tensor:
    """Return the labels as positions in a model's classes, int64 (N,).

    If both the images and the model name their classes, classes are matched by name. Case, spaces and underscores do
    not matter. Else classes are matched by position.

    Args:
        images: the images to classify.
        names: names of the model's classes; empty if it has none.
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
            f'the model has {count} classes without names, but {images.name} has {len(images.classes)}: '
            f'{_listed(images.classes)}; use images of the classes that the model was trained on'
        )
    outside = labels[(labels < 0) | (labels >= count)]
    if len(outside):
        raise InputError(
            f'the model has {count} classes, but the images have the label {int(outside[0])}: labels must be from 0 to '
            f'{count - 1}'
        )
    return labels


def _plain(name: str) -> str:
    return re.sub(r'[\W_]+', ' ', name).strip().casefold()


def _listed(names: Sequence[str]) -> str:
    return ', '.join(names) if len(names) <= 12 else f'{", ".join(names[:10])} … ({len(names)} classes)'


def dataset_of(cfg: Mapping[str, Any], name: str | None = None) -> str:
    """Return the name of the data set on which to measure a network.

    It is the known data set whose classes the network names, else the first one with the same number of classes.

    Args:
        cfg: timm's `pretrained_cfg` of the network.
        name: a data set to use instead; None leaves the choice to this function.

    Raises:
        InputError: the data set is unknown, no data set has the network's number of classes, or the network takes
            images that do not have three channels.
    """
    candidates = {name: find_dataset(name)} if name else DATASETS
    fitting = [key for key, dataset in candidates.items() if len(dataset.classes) == cfg['num_classes']]
    if not fitting:
        counts = ', '.join(f'{key} has {len(dataset.classes)}' for key, dataset in candidates.items())
        remedy = 'leave out --dataset' if name else 'give images with --data'
        raise InputError(f'the model has {cfg["num_classes"]} classes, but {counts}: {remedy}')
    if cfg['input_size'][0] != 3:
        raise InputError(
            f'the model takes images of {cfg["input_size"][0]} channels, but the known data sets have 3: give images '
            'with --data'
        )
    labels = tuple(cfg.get('label_names') or ())
    return next((key for key in fitting if DATASETS[key].classes == labels), fitting[0])


def find_source(
    cfg: Mapping[str, Any], data: str | Path | None = None, dataset: str | None = None
) -> tuple[str | Path, str | None]:
    """Return what to read for a network, as arguments for `read_labelled`: the source and the known data set, if any.

    Args:
        cfg: timm's `pretrained_cfg` of the network, with the number of its classes.
        data: the images that the user gives; None chooses the data set with the network's classes, on the Hub.
        dataset: the known data set that the images must be; None leaves the choice to this function.

    Raises:
        InputError: see `dataset_of`. Without `dataset`, any images may be given.
    """
    if data is None:
        name = dataset_of(cfg, dataset)
        return name, name
    if dataset:
        return data, dataset_of(cfg, dataset)
    try:
        name = dataset_of(cfg)
    except InputError:  # it is of another data set, which `data` may hold
        return data, None
    return data, name if (Path(data) / name).is_dir() else None


def log_evaluation(path: str | Path, result: Mapping[str, Any], model: nn.Module) -> None:
    """Append a result to a CSV file. A new file gets the columns `LOG_COLUMNS`.

    Args:
        path: of the CSV file; folders are created.
        result: values by column.
        model: the network. The column sha256 gets the digest of its weights as a half-precision safetensors file, or
            the digest of an exported file.

    Raises:
        InputError: the file exists and has other columns.
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
            raise InputError(f'{path} is another table, with the columns {", ".join(columns)}: give another file')
        writer = csv.DictWriter(file, columns or LOG_COLUMNS, extrasaction='ignore')
        if not columns:
            writer.writeheader()
        writer.writerow(row)
