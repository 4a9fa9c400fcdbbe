"""The table of pretrained weights: weights.csv, and what its columns mean.

The name of a row is `<architecture>.<tag>`. A tag has up to three parts: the publisher if it is not this project, the
data set, and the kind of training if it is special. So 'osmr_cifar10' are weights for CIFAR-10 that osmr published, and
'cifar10_mix' are ours, trained with mixup and cutmix. The table has only weights that can be downloaded and whose
digest is known. `scripts/maintenance/publish.py` writes the rows of our weights.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from resnet_hub.tables.architectures import ARCHITECTURES
from resnet_hub.tables.datasets import DATASETS, Dataset, Triple

REPOSITORY = 'org/repo'  #: this project on GitHub
RAW = f'https://github.com/{REPOSITORY}/raw'  #: f'{RAW}/{branch or tag}/{path}' is the URL of a file of this project
OWNER = REPOSITORY.partition('/')[0]  #: the account on the Hub that our model cards name
TABLE = Path(__file__).with_suffix('.csv')
_ROOT = Path(__file__).parents[2]  # the clone, or the folder that the package is installed in
_PACKAGED = 'resnet_hub/weights/'  # the folder of the weights that come with the package


class Publisher(NamedTuple):
    """Who published weights, and under which licence."""

    name: str
    page: str
    license: str  #: SPDX
    copyright: str

    @property
    def notice(self) -> str:
        """Return the notice, as Markdown, that other publishers' licences require beside their weights; '' for ours."""
        return self.page and (
            f'The weights are those that [{self.name}]({self.page}) published. {self.copyright}. Licence: '
            f'{self.license}; its text is there. Only the names and the format of the tensors were changed.'
        )


RESNET_HUB = Publisher('resnet-hub', '', 'Apache-2.0', 'Copyright the authors of resnet-hub')
PUBLISHERS = {
    publisher.name: publisher
    for publisher in (
        RESNET_HUB,
        Publisher('osmr', 'https://github.com/osmr/imgclsmob', 'MIT', 'Copyright (c) 2018-2026 Oleg Sémery'),
        Publisher(
            'chenyaofo',
            'https://github.com/chenyaofo/pytorch-cifar-models',
            'BSD-3-Clause',
            'Copyright (c) 2021, chenyaofo',
        ),
        Publisher(
            'akamaster',
            'https://github.com/akamaster/pytorch_resnet_cifar10',
            'BSD-2-Clause',
            'Copyright (c) 2018, Yerlan Idelbayev',
        ),
    )
}


class Weights(NamedTuple):
    """A row: the file that `<architecture>.<tag>` loads, and how accurate it is.

    `resnet-hub evaluate` measured the figures of our weights on this file, in float32, on all test images. The top-1 of
    other publishers' weights is the one that they published.
    """

    name: str  #: '<architecture>.<tag>'
    dataset: str  #: gives the classes; also mean and std unless the row has its own
    publisher: Publisher
    digest: str  #: 'sha256:' or 'sha1:' and the digest of the file in hexadecimal, complete or its beginning
    file: str  #: path in this project's repository, or a URL; in a zip, the digest is that of its only file
    top1: float  #: %
    top5: float | None = None  #: %
    nll: float | None = None  #: mean negative log-likelihood in nats
    ece: float | None = None  #: expected calibration error in %, 15 bins
    auroc: float | None = None  #: % of the energy score, against the test images of `Dataset.unknown`
    seed: int | None = None
    further_top1: tuple[float, ...] = ()  #: %, from runs of the same recipe with other seeds; not published
    model_args: Mapping[str, Any] = MappingProxyType({})
    mean: Triple | None = None
    std: Triple | None = None

    @property
    def architecture(self) -> str:
        return self.name.partition('.')[0]

    @property
    def tag(self) -> str:
        return self.name.partition('.')[2]

    @property
    def data(self) -> Dataset:
        return DATASETS[self.dataset]

    @property
    def normalisation(self) -> tuple[Triple, Triple]:
        """Return the mean and std with which the network was trained, for pixels scaled to 0 … 1."""
        return self.mean or self.data.mean, self.std or self.data.std

    @property
    def path(self) -> Path | None:
        """Return where our file is: in the package, or in the folder weights/ of a clone. None for other publishers."""
        return _ROOT / self.file if self.publisher is RESNET_HUB else None

    @property
    def in_package(self) -> bool:
        """Return whether the package contains the file. Our larger files are only in the folder weights/ of a clone."""
        return self.file.startswith(_PACKAGED)

    def addresses(self, *refs: str) -> list[str]:
        """Return the URLs of the file: that of its publisher, or for ours one for each branch or tag in `refs`."""
        if self.publisher is not RESNET_HUB:
            return [self.file]
        return [f'{RAW}/{ref}/{self.file}' for ref in refs]

    @property
    def url(self) -> str | None:
        """Return the URL of the file; None if the package contains it."""
        return None if self.in_package else self.addresses('main')[0]

    @property
    def repo_id(self) -> str | None:
        """Return the Hub repository 'OWNER/NAME' of one of our larger files, if RESNET_HUB_OWNER is set; else None."""
        owner = os.environ.get('RESNET_HUB_OWNER')
        return f'{owner}/{self.name}' if owner and self.path and not self.in_package else None

    @property
    def source(self) -> dict[str, str]:
        """Return the field of timm's cfg that gives the place of the weights: a file, a Hub repository, or a URL."""
        if self.path and (self.in_package or self.path.is_file()):
            return {'file': str(self.path)}
        return {'hf_hub_id': self.repo_id} if self.repo_id else {'url': str(self.url)}


def _numbers(cell: str) -> Any:
    return tuple(map(float, cell.split()))


def _arguments(cell: str) -> dict[str, Any]:
    """Parse 'shortcut_type=A final_norm=True' as keyword arguments."""
    words = dict(item.split('=') for item in cell.split())
    return {key: {'True': True, 'False': False}.get(value, value) for key, value in words.items()}


#: the columns of the table: a function that reads a cell, and one that writes it
_COLUMNS: dict[str, tuple[Callable[[str], Any], Callable[[Any], str]]] = {
    'name': (str, str),
    'dataset': (str, str),
    'publisher': (PUBLISHERS.__getitem__, lambda publisher: publisher.name),
    'top1': (float, '{:.2f}'.format),
    'top5': (float, '{:.2f}'.format),
    'nll': (float, '{:.4f}'.format),
    'ece': (float, '{:.2f}'.format),
    'auroc': (float, '{:.1f}'.format),
    'seed': (int, str),
    'further_top1': (_numbers, lambda values: ' '.join(f'{value:.2f}' for value in values)),
    'model_args': (_arguments, lambda args: ' '.join(f'{key}={value}' for key, value in args.items())),
    'mean': (_numbers, lambda values: ' '.join(f'{value:.4f}' for value in values)),
    'std': (_numbers, lambda values: ' '.join(f'{value:.4f}' for value in values)),
    'digest': (str, str),
    'file': (str, str),
}


def read_table(path: Path = TABLE) -> dict[str, Weights]:
    """Read a table, and return its rows by name. An empty cell stands for the default of its field."""
    with open(path, newline='', encoding='utf-8') as file:
        rows = [
            Weights(**{column: _COLUMNS[column][0](cell) for column, cell in line.items() if cell})
            for line in csv.DictReader(file)
        ]
    return {row.name: row for row in rows}


def write_table(path: Path, rows: Iterable[Weights]) -> None:
    """Write rows in the format of `read_table`, sorted by architecture, each with its default weights first."""
    order = list(ARCHITECTURES)
    with open(path, 'w', newline='', encoding='utf-8') as file:
        writer = csv.writer(file, lineterminator='\n')
        writer.writerow(_COLUMNS)
        for row in sorted(rows, key=lambda row: (order.index(row.architecture), _rank(row))):
            values = ((write, getattr(row, column)) for column, (_, write) in _COLUMNS.items())
            writer.writerow('' if value is None else write(value) for write, value in values)


def _rank(row: Weights) -> tuple[Any, ...]:
    """Return the sort key of the weights of one architecture. The first ones are its default.

    CIFAR-10 comes first. Weights that change the architecture's arguments come later: as the default they would make
    `create_model(architecture, pretrained=True)` another network than without `pretrained`. Then ours come before
    those of other publishers, and the more accurate ones before the others.
    """
    return [*DATASETS].index(row.dataset), bool(row.model_args), row.publisher is not RESNET_HUB, -row.top1


WEIGHTS: dict[str, Weights] = read_table()


def tags(architecture: str) -> list[str]:
    """Return the tags of an architecture's weights, the default first."""
    rows = [row for name, row in WEIGHTS.items() if name.startswith(f'{architecture}.')]
    return [row.tag for row in sorted(rows, key=_rank)]


def weights_file(name: str) -> Path:
    """Return the path in the package of the weights `name` ('cifar_resnet20.cifar10')."""
    return _ROOT / _PACKAGED / f'{name}.safetensors'


def weights_folder(name: str) -> Path:
    """Return the folder in a clone for the weights `name`, if they are too large for the package."""
    return _ROOT / 'weights' / name


def recipe_file(name: str) -> Path:
    """Return the path in the package of the recipe that trained the weights `name`."""
    return _ROOT / _PACKAGED / f'{name}.toml'
