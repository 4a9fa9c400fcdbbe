"""The assumptions of a conversion: properties that keys and shapes do not show, with the evidence for each."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from resnet_hub.checkpoints.recognise import Recognised
from resnet_hub.checkpoints.refusal import OTHER
from resnet_hub.conversion.bn_statistics import BatchNormStatistics
from resnet_hub.utils.errors import InputError, did_you_mean

SHOWN, CONTRADICTED, UNKNOWN = 'shown', 'contradicted', 'unknown'

#: the assumptions by name; `--assume` takes these names
NAMES = {
    'relu': 'the activations are ReLU',
    'bare-stem': 'nothing (no max pooling) stands between the stem and the blocks',
    'option-a': 'shortcuts without tensors are of option A: half of the zero channels come before the others, half after them',
    'activated-projections': 'projections read the activated input',
    'stride-in-3x3': 'the stride of a bottleneck is in its 3×3 convolution',
    'usual-layers': 'every stage but the first has stride 2, the stem is padded by 1, branches are added unscaled, the '
    'pooling is average pooling, and the norms have eps 1e-5',
}
_OTHERS = {
    'end': 'shortcuts are padded at the end of the channels',
    'front': 'shortcuts are padded at the front of the channels',
    'none': 'this is a plain net, without shortcuts',
    'raw': 'projections read the raw input',
    'a pooled stem': 'something (max pooling?) stands between the stem and the blocks',
}


@dataclass(frozen=True)
class Assumption:
    """One property of a network that keys and shapes do not show."""

    name: str
    text: str
    outcome: str  #: 'shown', 'contradicted' or 'unknown'
    evidence: str

    def __str__(self) -> str:
        return f'{self.text} ({self.outcome}: {self.evidence})'


def list_assumptions(found: Recognised, weights: str | None = None) -> list[Assumption]:
    """Return the assumptions about a file, and what its BatchNorm statistics show about them.

    Args:
        found: the network of the file.
        weights: name of the published weights if the file is one of them. Their code is known, and shows everything.
    """
    network = found.network
    statistics = None if weights else BatchNormStatistics(network, found.state_dict)
    names = ['relu']
    names += [] if network.family.norm_first else ['bare-stem']
    names += ['option-a'] if network.shortcut_type == 'A' else []
    names += ['activated-projections'] if network.family.norm_first and network.shortcut_type == 'B' else []
    names += ['stride-in-3x3'] if network.block == 'bottleneck' else []
    return [_judge(name, statistics, weights) for name in [*names, 'usual-layers']]


def _judge(name: str, statistics: BatchNormStatistics | None, weights: str | None) -> Assumption:
    text = NAMES[name]
    if statistics is None:
        return Assumption(name, text, SHOWN, f'the file is {weights}')
    tests = {
        'relu': ('ReLU', statistics.activation),
        'bare-stem': ('the bare stem', statistics.stem),
        'option-a': ('centre', statistics.padding),
        'activated-projections': ('activated', statistics.projection),
    }
    if name not in tests:
        return Assumption(name, text, UNKNOWN, 'nothing in the file shows it')
    expected, test = tests[name]
    fit = test()
    if fit.best in ('', expected):
        return Assumption(name, text, SHOWN if fit.best else UNKNOWN, fit.evidence)
    other = _OTHERS.get(fit.best, f'the activations are {fit.best}, not ReLU')
    return Assumption(name, text, CONTRADICTED, f'{other}: {fit.evidence}')


def check_names(names: Collection[str]) -> None:
    """Check the names given to `--assume`.

    Raises:
        InputError: a name is unknown.
    """
    for name in names:
        if name not in NAMES:
            raise InputError(f'unknown assumption {name!r}: use one of {", ".join(NAMES)}{did_you_mean(name, NAMES)}')


def refuse_contradicted(assumptions: list[Assumption], assume: Collection[str] = (), accuracy: str = '') -> None:
    """Refuse a file that contradicts an assumption, unless `assume` names the assumption.

    Args:
        assumptions: result of `list_assumptions`.
        assume: names of assumptions to accept although the evidence is against them.
        accuracy: text for the message about an accuracy that does not outweigh the evidence; '' without a check.

    Raises:
        InputError: the file contradicts an assumption.
    """
    for item in assumptions:
        if item.outcome == CONTRADICTED and item.name not in assume:
            raise InputError(
                f'{item.evidence}{accuracy}. This contradicts the assumption that {item.text}. So {OTHER}; or, if you know '
                f'better, add --assume {item.name}, or measure it on test images with --check'
            )
