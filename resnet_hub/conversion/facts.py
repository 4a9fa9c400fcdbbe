"""What a state dict cannot say: normalisation and label names, by the catalog, the file, options, config.json or default."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from resnet_hub.checkpoints.folder import CONFIG_FILE
from resnet_hub.checkpoints.network import Network
from resnet_hub.checkpoints.read import Source
from resnet_hub.checkpoints.recognise import Recognised
from resnet_hub.tables.architectures import ARCHITECTURES
from resnet_hub.tables.datasets import DATASETS, Dataset, find_dataset
from resnet_hub.tables.weights import WEIGHTS
from resnet_hub.utils.errors import InputError


@dataclass(frozen=True)
class Facts:
    """What images and classes mean to the network."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    label_names: tuple[str, ...]
    normalisation: str  #: 'catalog', 'file', 'given', 'config' or 'assumed'
    assumptions: list[str]
    dataset: str | None
    notice: str  #: of the publisher's licence


def find_row(source: str | Path, content: Source) -> str | None:
    """The weights of the catalog that a source is: by their name, or a file with their digest."""
    if str(source) in WEIGHTS:
        return str(source)
    digests = {algorithm: content.digest(algorithm) for algorithm in ('sha256', 'sha1')}
    for name, row in WEIGHTS.items():
        algorithm, _, wanted = row.digest.partition(':')
        if digests[algorithm].startswith(wanted):
            return name
    return None


class Beside(NamedTuple):
    """What a config.json of timm's beside the file says."""

    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    label_names: tuple[str, ...] = ()


def read_beside(path: Path, network: Network) -> Beside:
    """Nothing, where there is no such file, or it is another program's, another network's, or itself a guess."""
    try:
        config = json.loads((path.parent / CONFIG_FILE).read_text(encoding='utf-8'))
        cfg = config['pretrained_cfg']
        mean, std = (tuple(map(float, cfg[key])) for key in ('mean', 'std'))
        labels = tuple(map(str, config.get('label_names') or cfg.get('label_names') or ()))
        same = config['architecture'] == network.architecture()[0] or config.get('model_args')
        of_another = config['architecture'] in ARCHITECTURES and not same
        classes = config.get('num_classes', cfg.get('num_classes', network.num_classes))
        if of_another or classes != network.num_classes or config.get('normalisation') == 'assumed':
            return Beside()
        _check_constants(mean, std, network.in_chans)
        return Beside(mean, std, labels if len(labels) == network.num_classes else ())
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return Beside()


def find_facts(
    found: Recognised,
    known: str | None,
    beside: Beside,
    dataset: str | None,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    labels: str | Path | None,
) -> Facts:
    """Normalisation and label names: of the catalog or the file, of the options, of config.json, by the number of classes.

    Args:
        found: the network of the file.
        known: the weights of the catalog that it is.
        beside: what config.json says.
        dataset, mean, std, labels: options, see `convert_checkpoint`; with `known` the first three can only say the same.

    Raises:
        InputError: an option that does not fit the network, or normalisation that nothing tells.
    """
    network = found.network
    if known and dataset not in (None, WEIGHTS[known].dataset):
        raise InputError(f'the file is {known}, which knows {WEIGHTS[known].dataset}: leave out --dataset')
    row_name, dataset_given = WEIGHTS[known].dataset if known else dataset, bool(known or dataset)
    assumptions = []
    if row_name is None:
        shape = network.num_classes, network.in_chans
        fitting = [name for name, row in DATASETS.items() if (len(row.classes), len(row.mean)) == shape]
        fitting.sort(key=lambda name: DATASETS[name].classes != beside.label_names)
        row_name = fitting[0] if fitting else None
    row = _dataset(row_name, network) if row_name else None
    mean, std, normalisation = _normalisation(found, known, beside, mean, std, row, dataset_given)
    if normalisation == 'assumed':
        assumptions.append(f'mean {mean} and std {std}, those of {row_name}, by the number of classes (--mean, --std)')
    if normalisation == 'config':
        assumptions.append(f'mean {mean} and std {std}, by {CONFIG_FILE} beside the file (--mean, --std)')
    if labels is not None:
        names = _read_labels(Path(labels), network.num_classes)
    elif not dataset_given and beside.label_names:
        names = beside.label_names
    else:
        names = row.classes if row else ()
        if row and not dataset_given:
            assumptions.append(f'label names of {row_name}, by the number of classes (--labels, --dataset)')
    notice = WEIGHTS[known].publisher.notice if known else ''
    return Facts(tuple(mean), tuple(std), tuple(names), normalisation, assumptions, row_name, notice)


def _dataset(name: str, network: Network) -> Dataset:
    row = find_dataset(name)
    if len(row.classes) != network.num_classes:
        raise InputError(
            f'{name} has {len(row.classes)} classes, the checkpoint {network.num_classes}: leave out --dataset, and '
            'give --mean and --std'
        )
    return row


def _normalisation(
    found: Recognised,
    known: str | None,
    beside: Beside,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    row: Dataset | None,
    dataset_given: bool,
) -> tuple[Sequence[float], Sequence[float], str]:
    in_chans = found.network.in_chans
    if (mean is None) != (std is None):
        raise InputError('give both --mean and --std, or neither')
    if mean is not None and std is not None:
        _check_constants(mean, std, in_chans)
        mean, std = tuple(map(float, mean)), tuple(map(float, std))
    if known:
        _check_same(*WEIGHTS[known].normalisation, mean, std, f'the file is {known}, whose images are normalised')
        return *WEIGHTS[known].normalisation, 'catalog'
    if found.mean:
        return *_own_constants(found, mean, std), 'file'
    if mean is not None and std is not None:
        return mean, std, 'given'
    if not dataset_given and beside.mean:
        return beside.mean, beside.std, 'config'
    if row is None or in_chans != len(row.mean):
        classes = found.network.num_classes
        raise InputError(
            f'normalisation unknown for {classes} classes and {in_chans} input channels: give --mean and --std'
        )
    return row.mean, row.std, 'given' if dataset_given else 'assumed'


def _own_constants(
    found: Recognised, mean: Sequence[float] | None, std: Sequence[float] | None
) -> tuple[Sequence[float], Sequence[float]]:
    """Those of a network that normalises its input itself; options may repeat them, or say that nothing else does."""
    _check_constants(found.mean, found.std, found.network.in_chans)
    channels = found.network.in_chans
    if (mean, std) != ((0.0,) * channels, (1.0,) * channels):
        _check_same(found.mean, found.std, mean, std, 'the network normalises its input itself,')
    return found.mean, found.std


def _check_same(
    mean: Sequence[float],
    std: Sequence[float],
    given_mean: Sequence[float] | None,
    given_std: Sequence[float] | None,
    what: str,
) -> None:
    """Options can only repeat the constants that are known."""
    given = (*(given_mean or mean), *(given_std or std))
    if any(abs(a - b) > 1e-3 for a, b in zip(given, (*mean, *std), strict=True)):
        raise InputError(f'{what} by mean {tuple(mean)} and std {tuple(std)}: leave out --mean and --std')


def _check_constants(mean: Sequence[float], std: Sequence[float], in_chans: int) -> None:
    for name, values in (('--mean', mean), ('--std', std)):
        if len(values) != in_chans:
            raise InputError(f'{name} needs one number for each of {in_chans} input channels, not {len(values)}')
        if not all(math.isfinite(value) and -1 <= value <= 1 for value in values):
            raise InputError(f'{name} must be in units of pixels from 0 to 1, not {tuple(values)}: divide by 255')
    if min(std) <= 0:
        raise InputError(f'--std must be positive, not {tuple(std)}')


def _read_labels(path: Path, num_classes: int) -> tuple[str, ...]:
    try:
        names = tuple(line.strip() for line in path.read_text(encoding='utf-8').splitlines() if line.strip())
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f'cannot read the labels in {path} ({error}): give a text file, one name per line') from None
    if len(names) != num_classes:
        raise InputError(f'{path} has {len(names)} labels, the checkpoint {num_classes} classes: one name per line')
    return names
