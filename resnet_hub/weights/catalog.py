"""The table of pretrained weights. A row stands here only once its bytes can be had and their digest is known."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from ..datasets import DATASETS, Dataset, Triple


class Weights(NamedTuple):
    """A row: what `<architecture>.<tag>` loads, and how good it is."""

    sha256: str  #: of the file
    dataset: str  #: gives the classes, and mean and std unless the row says otherwise
    top1: float  #: % of the test images, measured on this very file
    top5: float
    nll: float  #: mean negative log-likelihood in nats
    seed: int
    license: str = 'apache-2.0'
    publisher: str = 'resnet-hub'
    model_args: Mapping[str, Any] = MappingProxyType({})
    mean: Triple | None = None
    std: Triple | None = None

    @property
    def data(self) -> Dataset:
        return DATASETS[self.dataset]


WEIGHTS: dict[str, Weights] = {}


def weights_file(name: str) -> Path:
    """Where the weights `name` ('cifar_resnet20.cifar10') lie in the package."""
    return Path(__file__).with_name(f'{name}.safetensors')


def recipe_file(name: str) -> Path:
    """The recipe that trained them, beside them."""
    return Path(__file__).with_name(f'{name}.toml')


def tags(architecture: str) -> list[str]:
    """The tags that an architecture has weights for, the default first."""
    return [name.partition('.')[2] for name in WEIGHTS if name.partition('.')[0] == architecture]
