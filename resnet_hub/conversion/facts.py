"""Find the normalisation and the label names, which a state dict does not have.

The sources are the table of weights, the file itself, the options, a config.json beside the file, and the number of
classes. The first one that has them is used.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from resnet_hub.checkpoints.network import Network
from resnet_hub.checkpoints.read import Source
from resnet_hub.checkpoints.recognise import Recognised
from resnet_hub.conversion.assumptions import UNKNOWN, Assumption
from resnet_hub.tables.architectures import ARCHITECTURES
from resnet_hub.tables.datasets import DATASETS, find_dataset
from resnet_hub.tables.weights import WEIGHTS
from resnet_hub.utils.errors import InputError
from resnet_hub.weights.folder import CHECKPOINT_FILE, CONFIG_FILE

Numbers = Sequence[float]


@dataclass(frozen=True)
class Options:
    """What the user says about the images and classes, see `convert_checkpoint`."""

    dataset: str | None = None
    mean: Numbers | None = None
    std: Numbers | None = None
    labels: str | Path | None = None


@dataclass(frozen=True)
class Constants:
    """Normalisation of the input, label names, and where both come from."""

    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    label_names: tuple[str, ...] = ()
    normalisation: str = ''  #: 'published', 'file', 'given', 'config' or 'assumed'
    dataset: str | None = None
    assumptions: tuple[Assumption, ...] = ()
    image_size: int = 32  #: height and width of the images


def find_weights(given: str, source: Source, network: Network) -> str | None:
    """Return the name of the published weights that a source is, known by its name or digest; None if it is another."""
    if given in WEIGHTS:
        return given
    architecture, _ = network.architecture()
    for name, row in WEIGHTS.items():
        algorithm, _, wanted = row.digest.partition(':')
        # another digest takes time; algorithms other than SHA-256 are used for files in zip files
        likely = algorithm == 'sha256' or isinstance(source.file, bytes) or row.architecture == architecture
        if likely and source.digest(algorithm).startswith(wanted):
            return name
    return None


def read_config(path: Path, sha256: str, network: Network) -> Constants:
    """Return normalisation, label names and, after a training run, image size from a config.json beside the file.

    The result is empty if the config.json is missing, belongs to another program or network, or was a guess itself. Its
    architecture must be that of the file, or a ResNet of timm ('resnet18'), whose stem people replace for small images.
    If it has a digest, the file must have this digest, or be the checkpoint of the training run that wrote both.
    """
    try:
        config = json.loads((path.parent / CONFIG_FILE).read_text(encoding='utf-8'))
        cfg, name, args = config['pretrained_cfg'], config['architecture'], config.get('model_args') or {}
        mean, std = (tuple(map(float, cfg[key])) for key in ('mean', 'std'))
        labels = tuple(map(str, config.get('label_names') or cfg.get('label_names') or ()))
        args = {key: tuple(value) if isinstance(value, list) else value for key, value in args.items()}
        args.pop('in_chans', None)
        belongs = (
            ((name, args) == network.architecture() or (name.startswith(_OF_TIMM) and name not in ARCHITECTURES))
            and config.get('num_classes', cfg.get('num_classes', network.num_classes)) == network.num_classes
            and (config.get('sha256', sha256) == sha256 or ('recipe' in config and path.name == CHECKPOINT_FILE))
        )
        if not belongs or config.get('normalisation') == 'assumed':
            return Constants()
        _check_constants(mean, std, network.in_chans)
        size = int(cfg['input_size'][-1]) if 'recipe' in config else 32
        return Constants(mean, std, labels if len(labels) == network.num_classes else (), image_size=size)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):  # of another program, or broken
        return Constants()


_OF_TIMM = ('resnet', 'wide_resnet')


def find_constants(found: Recognised, weights: str | None, config: Constants, options: Options) -> Constants:
    """Find normalisation and label names.

    Args:
        found: the network of the file.
        weights: name of the published weights if the file is one of them.
        config: result of `read_config`.
        options: what the user says. It must not contradict `weights`.

    Raises:
        InputError: an option does not fit the network, or the normalisation is unknown.
    """
    network, channels = found.network, found.network.in_chans
    known = WEIGHTS[weights].dataset if weights else options.dataset
    if options.dataset not in (None, known):
        raise InputError(f'the file is {weights}, which knows {known}: leave out --dataset')
    if (options.mean is None) != (options.std is None):
        raise InputError('give both --mean and --std, or neither')
    name = known or _guess_dataset(network, config.label_names)
    row = find_dataset(name) if name else None
    if row and len(row.classes) != network.num_classes:
        raise InputError(
            f'{name} has {len(row.classes)} classes, but the checkpoint has {network.num_classes}: leave out --dataset, '
            'and give --mean and --std'
        )
    places: list[tuple[str, Numbers | None, Numbers | None]] = [
        ('published', *(WEIGHTS[weights].normalisation if weights else (None, None))),
        ('file', found.mean, found.std),
        ('given', options.mean, options.std),
        ('config', *((None, None) if known else (config.mean, config.std))),
        (
            'given' if known else 'assumed',
            *((row.mean, row.std) if row and len(row.mean) == channels else (None, None)),
        ),
    ]
    origin, mean, std = next(
        ((origin, tuple(map(float, mean)), tuple(map(float, std))) for origin, mean, std in places if mean and std),
        ('', (), ()),
    )
    if not origin:
        shape = f'{network.num_classes} classes and {channels} input channels'
        raise InputError(f'the normalisation of a network with {shape} is unknown: give --mean and --std')
    _check_constants(mean, std, channels)
    if options.mean is not None and options.std is not None:
        _check_constants(options.mean, options.std, channels)
        given, nothing = (*options.mean, *options.std), (*[0] * channels, *[1] * channels)
        same = all(abs(a - b) <= 1e-3 for a, b in zip(given, mean + std, strict=True))
        if not same and not (origin == 'file' and given == nothing):
            what = (
                f'{weights}, whose images are normalised' if weights else 'a network that normalises its input itself,'
            )
            raise InputError(f'the file is {what} by mean {mean} and std {std}: leave out --mean and --std')
    assumptions = []
    if origin in ('config', 'assumed'):
        evidence = f'by {CONFIG_FILE} beside the file' if origin == 'config' else f'as {name}, by the number of classes'
        text = f'images are normalised by mean {mean} and std {std}'
        assumptions.append(Assumption('normalisation', text, UNKNOWN, f'{evidence}; --mean and --std set them'))
    if options.labels is not None:
        names = _read_labels(Path(options.labels), network.num_classes)
    elif not known and config.label_names:
        names = config.label_names
    else:
        names = row.classes if row else ()
        if names and not known:
            evidence = 'by the number of classes; --labels or --dataset sets them'
            assumptions.append(Assumption('labels', f'the classes are those of {name}', UNKNOWN, evidence))
    return Constants(mean, std, names, origin, name, tuple(assumptions), config.image_size)


def _guess_dataset(network: Network, label_names: tuple[str, ...]) -> str | None:
    shape = network.num_classes, network.in_chans
    fitting = [name for name, row in DATASETS.items() if (len(row.classes), len(row.mean)) == shape]
    return min(fitting, key=lambda name: DATASETS[name].classes != label_names, default=None)


def _check_constants(mean: Numbers, std: Numbers, in_chans: int) -> None:
    for name, values in (('--mean', mean), ('--std', std)):
        if len(values) != in_chans:
            raise InputError(f'{name} needs {in_chans} numbers, one for each input channel, not {len(values)}')
        if not all(math.isfinite(value) and -1 <= value <= 1 for value in values):
            raise InputError(f'{name} must be in units of pixels from 0 to 1, not {tuple(values)}: divide by 255')
    if min(std) <= 0:
        raise InputError(f'--std must be positive, not {tuple(std)}')


def _read_labels(path: Path, num_classes: int) -> tuple[str, ...]:
    try:
        names = tuple(line.strip() for line in path.read_text(encoding='utf-8').splitlines() if line.strip())
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(f'cannot read the labels in {path} ({reason}): give a text file, one name per line') from error
    if len(names) != num_classes:
        raise InputError(f'{path} has {len(names)} labels, but the checkpoint has {num_classes} classes')
    return names
