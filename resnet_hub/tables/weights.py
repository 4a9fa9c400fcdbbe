"""The table of pretrained weights: weights.csv, and what its rows mean.

`<architecture>.<tag>` names a row. The tag says the data set, and before it whose weights they are where they are not
ours ('osmr_cifar10'), and behind it how they were trained where that matters ('cifar10_mix': mixup and cutmix). A row
stands in the table only if its bytes can be had and their digest is known. `scripts/maintenance/publish.py` writes our
rows.
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
RAW = f'https://github.com/{REPOSITORY}/raw'  #: followed by a branch or tag and a path: a file of this project
OWNER = REPOSITORY.partition('/')[0]  #: the account on the Hub that our model cards name
TABLE = Path(__file__).with_suffix('.csv')
_ROOT = Path(__file__).parents[2]  # the clone, or the folder that the package is installed in
_PACKAGED = 'resnet_hub/weights/'  # the folder of the weights that come with the package


class Publisher(NamedTuple):
    """Who trained some weights, and on what terms they may be passed on."""

    name: str
    page: str
    license: str  #: SPDX
    copyright: str

    @property
    def notice(self) -> str:
        """The notice that the licences of others ask to pass on with their weights, as Markdown; '' for our own."""
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
    """A row: what `<architecture>.<tag>` loads, and how good it is.

    Our figures were measured by `resnet-hub evaluate` on the very file, in float32, on all test images. Others' top-1
    is what they published.
    """

    name: str  #: '<architecture>.<tag>'
    dataset: str  #: gives the classes, and mean and std unless the row says otherwise
    publisher: Publisher
    digest: str  #: 'sha256:' or 'sha1:' of the file, in hexadecimal, whole or its beginning
    file: str  #: path in this project's repository, or an address; of a zip, the one file in it has the digest
    top1: float  #: %
    top5: float | None = None  #: %
    nll: float | None = None  #: mean negative log-likelihood in nats
    ece: float | None = None  #: expected calibration error in %, 15 bins
    auroc: float | None = None  #: % by the energy score, against the test images of `Dataset.unknown`
    seed: int | None = None
    further_top1: tuple[float, ...] = ()  #: of the same recipe with other seeds, whose weights are not published
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
        """Mean and std of the pixels, scaled to 0 … 1, that the network was trained with."""
        return self.mean or self.data.mean, self.std or self.data.std

    @property
    def path(self) -> Path | None:
        """Where our weights lie: in the package, or in the folder weights/ of a clone. None for others' weights."""
        return _ROOT / self.file if self.publisher is RESNET_HUB else None

    @property
    def in_package(self) -> bool:
        """Whether the file comes with the package. Our larger files are in the folder weights/ of a clone alone."""
        return self.file.startswith(_PACKAGED)

    def addresses(self, *refs: str) -> list[str]:
        """The addresses of the file: its publisher's, or in this project's repository one for each branch or tag."""
        if self.publisher is not RESNET_HUB:
            return [self.file]
        return [f'{RAW}/{ref}/{self.file}' for ref in refs]

    @property
    def url(self) -> str | None:
        """The address of the file; None if it comes with the package."""
        return None if self.in_package else self.addresses('main')[0]

    @property
    def repo_id(self) -> str | None:
        """'OWNER/NAME' of our larger files on the Hub, where RESNET_HUB_OWNER names an account that has them."""
        owner = os.environ.get('RESNET_HUB_OWNER')
        return f'{owner}/{self.name}' if owner and self.path and not self.in_package else None


def _numbers(cell: str) -> Any:
    return tuple(map(float, cell.split()))


def _arguments(cell: str) -> dict[str, Any]:
    """'shortcut_type=A final_norm=True' as keyword arguments."""
    words = dict(item.split('=') for item in cell.split())
    return {key: {'True': True, 'False': False}.get(value, value) for key, value in words.items()}


#: the columns of the table: how a cell is read, and how it is written
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
    """Read the rows of a table by their names. An empty cell means the field's default."""
    with open(path, newline='', encoding='utf-8') as file:
        rows = [
            Weights(**{column: _COLUMNS[column][0](cell) for column, cell in line.items() if cell})
            for line in csv.DictReader(file)
        ]
    return {row.name: row for row in rows}


def write_table(path: Path, rows: Iterable[Weights]) -> None:
    """Write rows as `read_table` reads them, in the order of the architectures and of their tags."""
    order = list(ARCHITECTURES)
    with open(path, 'w', newline='', encoding='utf-8') as file:
        writer = csv.writer(file, lineterminator='\n')
        writer.writerow(_COLUMNS)
        for row in sorted(rows, key=lambda row: (order.index(row.architecture), _rank(row))):
            values = ((write, getattr(row, column)) for column, (_, write) in _COLUMNS.items())
            writer.writerow('' if value is None else write(value) for write, value in values)


def _rank(row: Weights) -> tuple[Any, ...]:
    """The order of an architecture's weights: its default first.

    That is one of CIFAR-10 for the architecture's own arguments, else `create_model(architecture)` would be another
    network with weights than without. The most accurate of ours comes before the most accurate of others'.
    """
    return [*DATASETS].index(row.dataset), bool(row.model_args), row.publisher is not RESNET_HUB, -row.top1


WEIGHTS: dict[str, Weights] = read_table()


def tags(architecture: str) -> list[str]:
    """The tags that an architecture has weights for, the default first."""
    rows = [row for name, row in WEIGHTS.items() if name.startswith(f'{architecture}.')]
    return [row.tag for row in sorted(rows, key=_rank)]


def weights_file(name: str) -> Path:
    """Where the weights `name` ('cifar_resnet20.cifar10') lie in the package."""
    return _ROOT / _PACKAGED / f'{name}.safetensors'


def weights_folder(name: str) -> Path:
    """Where those that are too large for the package lie in a clone."""
    return _ROOT / 'weights' / name


def recipe_file(name: str) -> Path:
    """The recipe that trained the weights `name`, in the package."""
    return _ROOT / _PACKAGED / f'{name}.toml'
