"""What a network is trained for: the classes of the images and their normalisation, measured where no table has them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from resnet_hub.data.images import Images
from resnet_hub.data.labelled import LabelledImages
from resnet_hub.tables.datasets import DATASETS, find_dataset

_LARGEST_AS_IS = 64  #: side of images, in pixels, up to which square images keep their size
_USUAL_SIZE = 32  #: what larger images, and images that are not square, are resized to


@dataclass(frozen=True)
class Task:
    """The classes of a data set, and what its images are normalised by."""

    classes: tuple[str, ...]
    mean: tuple[float, ...]  #: of each channel, pixels scaled to 0 … 1
    std: tuple[float, ...]

    @classmethod
    def of(cls, images: Images, dataset: str) -> Task:
        """Return the task of a known data set by its table row; that of any other is measured on `images`.

        Args:
            images: the training images.
            dataset: a known data set, or '' for any other.
        """
        if dataset:
            row = find_dataset(dataset)
            return cls(row.classes, row.mean, row.std)
        classes = images.classes or tuple(map(str, range(int(images.labels.max()) + 1)))
        return cls(classes, *measure_pixels(images.pixels))


def measure_pixels(pixels: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation of each channel of uint8 (N, H, W, C), scaled to 0 … 1, to four digits."""
    values = torch.arange(256, dtype=torch.float64) / 255
    means, deviations = [], []
    for channel in pixels.unbind(3):
        counts = torch.bincount(channel.flatten(), minlength=256).double()
        mean = float(counts @ values / counts.sum())
        variance = float(counts @ (values - mean) ** 2 / counts.sum())
        means.append(round(mean, 4))
        deviations.append(round(max(variance, 1e-8) ** 0.5, 4))
    return tuple(means), tuple(deviations)


def known_dataset(images: LabelledImages) -> str:
    """Return the name of the known data set that has the classes of `images`; '' if there is none."""
    return next((name for name, row in DATASETS.items() if row.classes == images.classes), '')


def usual_size(images: LabelledImages, channels: int) -> int:
    """Return the side to which images are resized: that of the first one if it is square and small, else 32."""
    width, height = images.open(0, channels).size
    return width if width == height <= _LARGEST_AS_IS else _USUAL_SIZE


def split(labels: Tensor, holdout: int) -> tuple[Tensor, Tensor]:
    """Split images into those to train on and those held out, so that both have the same share of every class.

    The split is random and always the same, so that runs of several seeds hold out the same images.

    Args:
        labels: int64 (N,).
        holdout: how many to hold out.

    Returns:
        Positions of the images to train on, int64 (N - holdout,), and of those held out, int64 (holdout,).
    """
    place = np.empty(len(labels))  # of each image in its class, from 0 to 1
    shuffled = np.random.default_rng(0).permutation(len(labels))
    classes = labels.cpu().numpy()[shuffled]
    for label in np.unique(classes):
        members = shuffled[classes == label]
        place[members] = (np.arange(len(members)) + 0.5) / len(members)
    order = torch.from_numpy(np.argsort(place, kind='stable'))
    count = len(labels) - holdout
    return order[:count].sort().values, order[count:].sort().values


def describe_classes(counts: Tensor, task: Task) -> str:
    """Say how many images each class has, the most frequent classes first; of many classes only some."""
    ordered = sorted(zip(counts.tolist(), task.classes, strict=True), key=lambda pair: -pair[0])
    shown = [f'{name} {count:,}' for count, name in ordered]
    if len(shown) > 12:
        shown = [*shown[:6], '…', *shown[-5:]]
    return f'{len(ordered)} classes: {", ".join(shown)}'


def balancing_weights(counts: Tensor) -> Tensor:
    """Return a weight of the loss for each class, float32 (classes,), that makes up for unequal counts.

    It is N / (classes · count), which scikit-learn calls 'balanced'.
    """
    return counts.sum() / (len(counts) * counts.clamp(min=1).float())
