"""What a state dict cannot say: normalisation and label names, from the catalog, the file, the options or by default."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..data import find_dataset
from ..datasets import DATASETS, Dataset
from ..errors import InputError
from ..weights.catalog import WEIGHTS
from .network import Network
from .recognise import Recognised


@dataclass(frozen=True)
class Facts:
    """What images and classes mean to the network."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    label_names: tuple[str, ...]
    normalisation: str  #: 'catalog', 'file', 'given' or 'assumed'
    assumptions: list[str]
    dataset: str | None
    notice: str  #: of the publisher's licence


def known_facts(source: str | Path, digests: Sequence[str]) -> Mapping[str, Any]:
    """What the catalog says of its own name, or of a file with this digest; it wins over every option."""
    rows = [row for name, row in WEIGHTS.items() if name == str(source)]
    rows += [row for row in WEIGHTS.values() if any(digest.startswith(row.digest) for digest in digests)]
    if not rows:
        return {}
    mean, std = rows[0].normalisation
    return {'mean': mean, 'std': std, 'dataset': rows[0].dataset, 'notice': rows[0].publisher.notice}


def find_facts(
    found: Recognised,
    known: Mapping[str, Any],
    dataset: str | None,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    labels: str | Path | None,
) -> Facts:
    """Normalisation and label names: the catalog's or the file's, else the options', else by the number of classes.

    Raises:
        InputError: an option that does not fit the network, or normalisation that nothing tells.
    """
    network = found.network
    row_name, dataset_given = known.get('dataset') or dataset, bool(known or dataset)
    assumptions = []
    if row_name is None:
        row_name = next((name for name, row in DATASETS.items() if len(row.classes) == network.num_classes), None)
    row = _dataset(row_name, network) if row_name else None
    mean, std, normalisation = _normalisation(found, known, mean, std, row, dataset_given)
    if normalisation == 'assumed':
        assumptions.append(f'mean {mean} and std {std}, those of {row_name}, by the number of classes (--mean, --std)')
    if labels is not None:
        names = _read_labels(Path(labels), network.num_classes)
    else:
        names = row.classes if row else ()
        if row and not dataset_given:
            assumptions.append(f'label names of {row_name}, by the number of classes (--labels, --dataset)')
    return Facts(tuple(mean), tuple(std), tuple(names), normalisation, assumptions, row_name, known.get('notice', ''))


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
    known: Mapping[str, Any],
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    row: Dataset | None,
    dataset_given: bool,
) -> tuple[Sequence[float], Sequence[float], str]:
    in_chans = found.network.in_chans
    if 'mean' in known:
        return known['mean'], known['std'], 'catalog'
    if (mean is None) != (std is None):
        raise InputError('give both --mean and --std, or neither')
    if mean is not None and std is not None:
        _check_constants(mean, std, in_chans)
        mean, std = tuple(map(float, mean)), tuple(map(float, std))
    if found.mean:
        return *_own_constants(found, mean, std), 'file'
    if mean is not None and std is not None:
        return mean, std, 'given'
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
    if mean is not None and std is not None:
        given, own = (*mean, *std), (*found.mean, *found.std)
        identity = (0.0,) * len(mean) + (1.0,) * len(std)
        if given != identity and any(abs(a - b) > 1e-3 for a, b in zip(given, own, strict=True)):
            raise InputError(
                f'the network normalises its input itself, by mean {found.mean} and std {found.std}: leave out --mean '
                'and --std'
            )
    return found.mean, found.std


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
