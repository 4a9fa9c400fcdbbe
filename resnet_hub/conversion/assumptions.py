"""The assumptions of a conversion: properties that keys and shapes do not show, with the evidence for each."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import NamedTuple

from resnet_hub.checkpoints.network import Network
from resnet_hub.checkpoints.recognise import Recognised
from resnet_hub.checkpoints.refusal import OTHER
from resnet_hub.conversion.bn_statistics import BatchNormStatistics, Fit
from resnet_hub.utils.errors import InputError, did_you_mean

SHOWN, CONTRADICTED, UNKNOWN = 'shown', 'contradicted', 'unknown'


class _Row(NamedTuple):
    """An assumption, and the hypothesis about the BatchNorm statistics that shows it."""

    text: str
    applies: Callable[[Network], bool] = lambda network: True
    test: Callable[[BatchNormStatistics], Fit] = lambda statistics: Fit('', 'nothing in the file shows it')
    expected: str = ''


#: the assumptions by name; `--assume` takes these names
NAMES = {
    'relu': _Row('the activations are ReLU', test=BatchNormStatistics.activation, expected='ReLU'),
    'bare-stem': _Row(
        'nothing (no max pooling) stands between the stem and the blocks',
        lambda network: not network.family.norm_first,
        BatchNormStatistics.stem,
        'the bare stem',
    ),
    'activated-sums': _Row(
        'an activation follows each sum of a branch and a shortcut',
        lambda network: not network.family.norm_first and network.shortcut_type == 'B',
        BatchNormStatistics.sum_activation,
        'activated',
    ),
    'option-a': _Row(
        'shortcuts without tensors are of option A: half of the zero channels come before the others, half after them',
        lambda network: network.shortcut_type == 'A',
        BatchNormStatistics.padding,
        'centre',
    ),
    'activated-projections': _Row(
        'projections read the activated input',
        lambda network: network.family.norm_first and network.shortcut_type == 'B',
        BatchNormStatistics.projection,
        'activated',
    ),
    'stride-in-3x3': _Row(
        'the stride of a bottleneck is in its 3×3 convolution', lambda network: network.block == 'bottleneck'
    ),
    'usual-layers': _Row(
        'every stage but the first has stride 2, convolutions are padded by 1, branches are added unscaled, the pooling '
        'is average pooling, and the norms have eps 1e-5'
    ),
}
_OTHERS = {
    'end': 'shortcuts are padded at the end of the channels',
    'front': 'shortcuts are padded at the front of the channels',
    'none': 'this is a plain net, without shortcuts',
    'raw': 'projections read the raw input',
    'bare': 'nothing follows the sums of branches and shortcuts',
    'activated before': 'the activation is at the end of the branches, before the sums, and not after them',
    'a pooled stem': 'something (max pooling?) stands between the stem and the blocks',
}
#: code that is known by names of its tensors: a pattern, the assumption that it contradicts, and what it does instead
_KNOWN_CODE = [
    (r'.*\.conv_a\.weight', 'option-a', 'the names are those of D-X-Y/ResNeXt-DenseNet', 'end'),
    (
        r'.*\.batchnorm_0\.weight',
        'usual-layers',
        "the names are those of DeepMind's adversarial_robustness",
        'convolutions of stride 2 are padded only at the end',
    ),
]


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
    """Return the assumptions about a file, and what its BatchNorm statistics and its names show about them.

    Args:
        found: the network of the file.
        weights: name of the published weights if the file is one of them. Their code is known, and shows everything.
    """
    rows = {name: row for name, row in NAMES.items() if row.applies(found.network)}
    if weights:
        return [Assumption(name, row.text, SHOWN, f'the file is {weights}') for name, row in rows.items()]
    statistics = BatchNormStatistics(found.network, found.state_dict)
    return [_judge(name, row.test(statistics), found) for name, row in rows.items()]


def _judge(name: str, fit: Fit, found: Recognised) -> Assumption:
    text, _, _, expected = NAMES[name]
    if not fit.best:
        code = [
            row
            for row in _KNOWN_CODE
            if row[1] == name and any(re.fullmatch(row[0], key) for key in found.sources.values())
        ]
        fit = Fit(code[0][3], code[0][2]) if code else fit
    if fit.best in ('', expected):
        return Assumption(name, text, SHOWN if fit.best else UNKNOWN, fit.evidence)
    other = f'the activations are {fit.best}, not ReLU' if name == 'relu' else _OTHERS.get(fit.best, fit.best)
    return Assumption(name, text, CONTRADICTED, f'{other}: {fit.evidence}')


def check_names(names: Collection[str]) -> None:
    """Check the names given to `--assume`.

    Raises:
        InputError: a name is unknown.
    """
    for name in names:
        if name not in NAMES:
            hint = did_you_mean(name, NAMES) or f': use one of {", ".join(NAMES)}'
            raise InputError(f'unknown assumption {name!r}{hint}')


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
