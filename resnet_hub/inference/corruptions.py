"""Measure a network on corrupted images: the files of CIFAR-10-C and CIFAR-100-C.

Hendrycks and Dietterich 2019, https://arxiv.org/abs/1903.12261. Each file has the test images at five severities.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from torch import nn

from resnet_hub.data.sources import read_labelled
from resnet_hub.inference.evaluate import match_labels
from resnet_hub.inference.logits import compute_outputs
from resnet_hub.inference.transform import class_names
from resnet_hub.registry.loading import as_model
from resnet_hub.utils.errors import InputError

SEVERITIES = 5

#: the corruptions of the paper; published means are over these 15
CORRUPTIONS = (
    *('gaussian_noise', 'shot_noise', 'impulse_noise'),
    *('defocus_blur', 'glass_blur', 'motion_blur', 'zoom_blur'),
    *('snow', 'frost', 'fog', 'brightness'),
    *('contrast', 'elastic_transform', 'pixelate', 'jpeg_compression'),
)

#: four more corruptions, which the paper keeps for validation; they are not part of the mean
EXTRA_CORRUPTIONS = ('speckle_noise', 'gaussian_blur', 'spatter', 'saturate')


@dataclass(frozen=True)
class CorruptionMetrics:
    """Accuracy on corrupted images, as `evaluate_corruptions` measures it."""

    data: str  #: name of the folder
    top1: dict[str, tuple[float, ...]]  #: for each corruption, the accuracy in % at the severities 1 to 5

    @property
    def mean_top1(self) -> float | None:
        """Return the mean in % over the corruptions of the paper and all severities; None if the folder has none."""
        values = [fmean(self.top1[name]) for name in CORRUPTIONS if name in self.top1]
        return round(fmean(values), 4) if values else None

    @property
    def missing(self) -> tuple[str, ...]:
        """Return the corruptions of the paper that the folder lacks."""
        return tuple(name for name in CORRUPTIONS if name not in self.top1)

    def to_dict(self) -> dict[str, Any]:
        """Return what `resnet-hub evaluate --data CIFAR-10-C/ --json` prints for a model."""
        top1 = {name: [*values] for name, values in self.top1.items()}
        return {'data': self.data, 'mean_top1': self.mean_top1, 'missing': [*self.missing], 'top1': top1}


def corruption_files(folder: str | Path) -> dict[str, Path]:
    """Return the file of each corruption in a folder, those of the paper first; {} if there is no labels.npy."""
    files = {name: Path(folder) / f'{name}.npy' for name in (*CORRUPTIONS, *EXTRA_CORRUPTIONS)}
    if not (Path(folder) / 'labels.npy').is_file():
        return {}
    return {name: file for name, file in files.items() if file.is_file()}


def evaluate_corruptions(model: nn.Module | str, folder: str | Path, *, batch_size: int = 500) -> CorruptionMetrics:
    """Measure a network on every corruption in a folder. Only one corruption is in memory at a time.

    Args:
        model: a classifier with a timm `pretrained_cfg`, or its name, see `load_model`.
        folder: the unpacked folder CIFAR-10-C or CIFAR-100-C.
        batch_size: number of images in a batch.

    Returns:
        The accuracy at each corruption and severity.

    Raises:
        InputError: the folder has no such files, or the network has other classes.
    """
    files = corruption_files(folder)
    if not files:
        raise InputError(f'{folder} has no corrupted images: expected labels.npy, gaussian_noise.npy and others')
    model = as_model(model)
    return CorruptionMetrics(
        Path(folder).resolve().name, {name: _by_severity(model, file, batch_size) for name, file in files.items()}
    )


def _by_severity(model: nn.Module, file: Path, batch_size: int) -> tuple[float, ...]:
    images = read_labelled(file).load()
    if len(images) % SEVERITIES:
        raise InputError(
            f'{file} has {len(images):,} images, which cannot be {SEVERITIES} severities of equal size: download it again'
        )
    logits = compute_outputs(model, images, batch_size=batch_size).logits
    labels = match_labels(images, class_names(model, logits.shape[1]), logits.shape[1])
    hits = (logits.argmax(1) == labels).double().view(SEVERITIES, -1)
    return tuple(round(100 * value, 4) for value in hits.mean(1).tolist())
