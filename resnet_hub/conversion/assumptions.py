"""What keys and shapes cannot show: one list of assumptions, each with its outcome and the evidence for it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from resnet_hub.checkpoints.recognise import Recognised
from resnet_hub.checkpoints.refusal import OTHER
from resnet_hub.conversion.bn_statistics import BatchNormStatistics, Fit
from resnet_hub.utils.errors import InputError, did_you_mean

SHOWN, CONTRADICTED, UNKNOWN = 'shown', 'contradicted', 'unknown'

#: what `--assume` takes
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
    """One thing that keys and shapes do not show."""

    name: str
    text: str
    outcome: str  #: 'shown', 'contradicted' or 'unknown'
    evidence: str

    def __str__(self) -> str:
        return f'{self.text} ({self.outcome}: {self.evidence})'


def list_assumptions(found: Recognised, weights: str | None = None) -> list[Assumption]:
    """List what a file of this network leaves open, and what its BatchNorm statistics say about it.

    Args:
        found: the network of the file.
        weights: the published weights that the file is, whose code is known; the statistics are not needed then.
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
        return Assumption(name, text, UNKNOWN, 'nothing in the file tells')
    expected, test = tests[name]
    fit = Fit('', statistics.silent) if statistics.silent else test()
    if fit.best in ('', expected):
        return Assumption(name, text, SHOWN if fit.best else UNKNOWN, fit.evidence)
    other = _OTHERS.get(fit.best, f'the activations are {fit.best}, not ReLU')
    return Assumption(name, text, CONTRADICTED, f'{other}: {fit.evidence}')


def check_names(names: Collection[str]) -> None:
    """Refuse a name that `--assume` does not know."""
    for name in names:
        if name not in NAMES:
            raise InputError(f'unknown assumption {name!r}: use one of {", ".join(NAMES)}{did_you_mean(name, NAMES)}')


def refuse_contradicted(assumptions: list[Assumption], assume: Collection[str] = (), accuracy: str = '') -> None:
    """Refuse a network that an assumption is wrong about, unless `assume` names the assumption.

    Args:
        assumptions: what `list_assumptions` gave.
        assume: assumptions to hold although the evidence is against them.
        accuracy: what a check on images said, where it was not good enough to outweigh the evidence.
    """
    for item in assumptions:
        if item.outcome == CONTRADICTED and item.name not in assume:
            raise InputError(
                f'{item.evidence}{accuracy}. This contradicts the assumption that {item.text}. So {OTHER}; or, if you know '
                f'better, add --assume {item.name}, or measure it on test images with --check'
            )
