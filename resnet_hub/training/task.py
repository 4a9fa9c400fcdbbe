"""The task of a network: the classes of its images and their normalisation.

They come from the table of data sets; for other data they are measured on the training images.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from resnet_hub.data.images import Images
from resnet_hub.data.labelled import LabelledImages
from resnet_hub.tables.datasets import DATASETS, find_dataset

_LARGEST_AS_IS = 64  #: square images up to this height and width, in pixels, keep their size
_USUAL_SIZE = 32  #: height and width, in pixels, to which other images are resized


@dataclass(frozen=True)
class Task:
    """The classes of a data set, and the normalisation of its images."""

    classes: tuple[str, ...]
    mean: tuple[float, ...]  #: mean of each channel, for pixels scaled to 0 … 1
    std: tuple[float, ...]  #: standard deviation of each channel

    @classmethod
    def of(cls, images: Images, dataset: str) -> Task:
        """Return the task of a known data set from its table row, or measure it on `images`.

        Args:
            images: the training images.
            dataset: name of a known data set, or '' to measure.
        """
        if dataset:
            row = find_dataset(dataset)
            return cls(row.classes, row.mean, row.std)
        classes = images.classes or tuple(map(str, range(int(images.labels.max()) + 1)))
        return cls(classes, *measure_pixels(images.pixels))


def measure_pixels(pixels: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation of each channel of pixels, uint8 (N, H, W, C).

    The pixels are scaled to 0 … 1, and the results rounded to four decimals.
    """
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
    """Return the height and width of the training images: those of the first one if it is square and small, else 32."""
    width, height = images.open(0, channels).size
    return width if width == height <= _LARGEST_AS_IS else _USUAL_SIZE


def split(labels: Tensor, holdout: int) -> tuple[Tensor, Tensor]:
    """Split images into those to train on and those to hold out. Both parts have the same share of every class.

    The split is random but always the same, so that runs with different seeds hold out the same images.

    Args:
        labels: int64 (N,).
        holdout: number of images to hold out.

    Returns:
        Positions of the images to train on, int64 (N - holdout,), and of those held out, int64 (holdout,).
    """
    place = np.empty(len(labels))  # relative position of each image in its class, from 0 to 1
    shuffled = np.random.default_rng(0).permutation(len(labels))
    classes = labels.cpu().numpy()[shuffled]
    for label in np.unique(classes):
        members = shuffled[classes == label]
        place[members] = (np.arange(len(members)) + 0.5) / len(members)
    order = torch.from_numpy(np.argsort(place, kind='stable'))
    count = len(labels) - holdout
    return order[:count].sort().values, order[count:].sort().values


def describe_classes(counts: Tensor, task: Task) -> str:
    """Return a line with the number of images of each class, the most frequent first. Of many classes it shows some."""
    ordered = sorted(zip(counts.tolist(), task.classes, strict=True), key=lambda pair: -pair[0])
    shown = [f'{name} {count:,}' for count, name in ordered]
    if len(shown) > 12:
        shown = [*shown[:6], '…', *shown[-5:]]
    return f'{len(ordered)} classes: {", ".join(shown)}'


def balancing_weights(counts: Tensor) -> Tensor:
    """Return a weight for the loss of each class, float32 (classes,), so that each class has the same total weight.

    The weight is N / (classes · count), which scikit-learn calls 'balanced'.
    """
    return counts.sum() / (len(counts) * counts.clamp(min=1).float())
