"""What norms remember: their running means testify to what keys and shapes cannot show.

In a trained network a norm's running mean is the mean of what it read. Where another norm, an activation and a
convolution come right before it, that mean follows from their parameters: behind a norm of scale g and shift b a
channel is about N(b, g²), so act(N(b, g²)) has a known mean, and the convolution is linear. The hypothesis that
predicts the recorded means is what the network computed when it was trained; on real checkpoints the right one errs
by 0.01 to 0.1 standard deviations, and wrong ones by 0.2 to 6. Statistics that fit no hypothesis decide nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from resnet_hub.checkpoints.network import Network

_SIZE = 32  #: of the images, which decides how often a kernel reads padding
_FITS = 0.12  #: errors in standard deviations: a hypothesis explains the statistics …
_CLEARLY = 2.5  #: … and another does not, if it errs so many times as much
_STEM_FITS, _STEM_CLEARLY = 0.25, 1.5  #: the same of what the first block reads, where pixels are of natural images
_MOST = 24  #: layers to look at; a sample of a deep network is as good as all


def _numeric(act: Callable[[Tensor], Tensor], largest_of: int = 1) -> Callable[[Tensor, Tensor], Tensor]:
    """The mean of an activation of N(b, g²), or of the largest of several such numbers, by a sum over a grid."""
    grid = torch.linspace(-4.5, 4.5, 91, dtype=torch.float64)
    mass = torch.exp(-grid.square() / 2) * torch.special.ndtr(grid) ** (largest_of - 1)
    mass /= mass.sum()
    return lambda b, g: act(b[:, None] + g.abs()[:, None] * grid) @ mass


def _relu(b: Tensor, g: Tensor) -> Tensor:
    g = g.abs().clamp_min(1e-12)
    z = b / g
    return b * (1 + torch.erf(z / math.sqrt(2))) / 2 + g * torch.exp(-z.square() / 2) / math.sqrt(2 * math.pi)


#: the mean of act(N(b, g²)) by activation; those that come close to each other (ReLU6, a slope of 0.01) are no rivals
ACTIVATIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    'ReLU': _relu,
    'leaky ReLU (0.1)': lambda b, g: _relu(b, g) - 0.1 * _relu(-b, g),
    'leaky ReLU (0.2)': lambda b, g: _relu(b, g) - 0.2 * _relu(-b, g),
    'no activation': lambda b, g: b,
    'SiLU': _numeric(F.silu),
    'GELU': _numeric(F.gelu),
    'ELU': _numeric(F.elu),
    'Mish': _numeric(F.mish),
    'Hardswish': _numeric(F.hardswish),
    'tanh': _numeric(torch.tanh),
    'hardtanh': _numeric(F.hardtanh),
    'softplus': _numeric(F.softplus),
}


#: of maxima over 3×3 pixels, which are worth 2 to 5 independent numbers
_POOLED = [_numeric(F.relu, largest_of) for largest_of in (2, 3, 5)]


class Testimony(NamedTuple):
    """The hypotheses that the statistics speak for; '' where they are silent."""

    activation: str = ''  #: a key of ACTIVATIONS
    stem: str = ''  #: of a post-activation network: 'direct', or 'pooled' before the first block
    shortcut: str = ''  #: of a network without shortcut tensors: 'centre', 'end', 'front' or 'none'
    projection: str = ''  #: of a pre-activation network: 'activated' or 'raw'


def hear(network: Network, state_dict: Mapping[str, Tensor]) -> Testimony:
    """What the running statistics of a state dict (native names) show."""
    means = [tensor for key, tensor in state_dict.items() if key.endswith('running_mean')]
    if any(mean.is_meta for mean in means) or not any(bool(mean.any()) for mean in means):
        return Testimony()  # no numbers, or those that untrained norms begin with
    norms = _Statistics(network, state_dict)
    errors = {name: _median(norms.branch_errors(mean)) for name, mean in ACTIVATIONS.items()}
    activation = _verdict(errors)
    post = network.family == 'CifarResNet'
    stem = norms.stem() if post and errors['ReLU'] < _FITS else ''  # one layer of meaningless numbers may fit by chance
    if network.shortcut_type == 'A':
        return Testimony(activation, stem, shortcut=norms.padding_v1() if post else norms.padding_v2())
    return Testimony(activation, stem, projection='' if post else norms.projection())


def _median(errors: list[Tensor]) -> float:
    return float(torch.cat(errors).abs().median()) if errors else math.inf


def _rms(errors: Tensor, unknowns: int = 0) -> float:
    return float((errors.square().sum() / max(1, len(errors) - unknowns)).sqrt())


def _verdict(errors: Mapping[str, float]) -> str:
    """The hypothesis that fits, if no other comes near it."""
    ranked = sorted(errors, key=lambda name: errors[name])
    if len(ranked) < 2 or not errors[ranked[0]] < _FITS or errors[ranked[1]] < _CLEARLY * errors[ranked[0]]:
        return ''
    return ranked[0]


class _Statistics:
    """The norms and convolutions of a state dict, and what the former should have seen."""

    def __init__(self, network: Network, state_dict: Mapping[str, Tensor]) -> None:
        self.network = network
        self.tensors = state_dict
        self.last = 2 if network.block == 'basic' else 3  # number of the last convolution of a branch

    def affine(self, norm: str) -> tuple[Tensor, Tensor]:
        return self.tensors[f'{norm}.bias'].double(), self.tensors[f'{norm}.weight'].double()

    def seen(self, norm: str) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of what a norm read; a dead channel counts as little as the others do."""
        deviation = self.tensors[f'{norm}.running_var'].double().add(1e-5).sqrt()
        return self.tensors[f'{norm}.running_mean'].double(), deviation.clamp_min(1e-2 * float(deviation.median()))

    def matrix(self, conv: str, stage: int, stride: int) -> Tensor:
        """A convolution's effect on channel means: its kernel's sum, less what falls on the padding."""
        weight = self.tensors[f'{conv}.weight'].double()
        if weight.shape[2] == 1:
            return weight[:, :, 0, 0]
        inside = 1 - stride / (_SIZE >> stage - (stride > 1))  # share of the positions where an outer tap is inside
        taps = torch.tensor([inside, 1, inside if stride == 1 else 1], dtype=torch.float64)
        return (weight * taps[:, None] * taps).sum((2, 3))

    def blocks(self) -> Iterator[tuple[int, int, str]]:
        for stage, count in enumerate(self.network.layers):
            for index in range(count):
                yield stage, index, f'layer{stage + 1}.{index}'

    def branch_errors(self, mean: Callable[[Tensor, Tensor], Tensor]) -> list[Tensor]:
        """Errors, in standard deviations, of the means behind norm, activation and convolution within the branches."""
        post = self.network.family == 'CifarResNet'
        blocks = list(self.blocks())
        errors = []
        for stage, index, name in blocks[:: max(1, len(blocks) // _MOST)]:
            for k in range(1, self.last):
                conv = k + 1 if post else k
                strided = stage > 0 and index == 0 and conv == (1 if self.last == 2 else 2)
                matrix = self.matrix(f'{name}.conv{conv}', stage, 2 if strided else 1)
                seen, deviation = self.seen(f'{name}.bn{k + 1}')
                if not bool(seen.any()):
                    continue  # never trained, or fed by zeros
                errors.append((matrix @ mean(*self.affine(f'{name}.bn{k}')) - seen) / deviation)
        return errors

    def stem(self) -> str:
        """Whether the first block reads what the stem's norm and activation give, or maxima of it.

        On 14 real networks without pooling the first errs by 0.01 to 0.15 and the second by 0.3 to 0.7; where their
        stems are pooled, by 0.24 to 0.52 and 0.06 to 0.16.
        """
        seen, deviation = self.seen('layer1.0.bn1')
        matrix, stem = self.matrix('layer1.0.conv1', 0, 1), self.affine('bn1')
        direct, *pooled = (_median([(matrix @ mean(*stem) - seen) / deviation]) for mean in (_relu, *_POOLED))
        errors = {'direct': direct, 'pooled': min(pooled)}
        best, other = sorted(errors, key=lambda name: errors[name])
        return best if errors[best] < _STEM_FITS and errors[other] > _STEM_CLEARLY * errors[best] else ''

    def first_blocks(self) -> Iterator[tuple[int, str, str, int]]:
        """The stages whose first block widens: number, that block, the next one ('' after the last), its stage."""
        names = [(stage, name) for stage, _, name in self.blocks()]
        chs = self.network.stem_width
        for position, (stage, name) in enumerate(names):
            width = self.network.widths[stage] * (4 if self.last == 3 else 1)
            if name.endswith('.0') and width > chs:
                after = names[position + 1] if position + 1 < len(names) else (stage, '')
                yield chs, name, after[1], after[0]
            chs = width

    @staticmethod
    def paddings(chs: int, width: int) -> dict[str, list[int]]:
        """Channels that carry the shortcut, by hypothesis."""
        before = (width - chs) // 2
        return {
            'centre': list(range(before, before + chs)),
            'end': list(range(chs)),
            'front': list(range(width - chs, width)),
            'none': [],
        }

    def padding_v1(self) -> str:
        """Where a channel carries no shortcut, the block's output is the activation of its last norm alone.

        The means of the other channels are free: as many unknowns as shortcut channels, fitted to the next norm's
        means. A plain net is one where nothing is gained by them.
        """
        errors: dict[str, list[float]] = {}
        for chs, name, after, stage in self.first_blocks():
            if not after:
                continue
            own = _relu(*self.affine(f'{name}.bn{self.last}'))
            matrix = self.matrix(f'{after}.conv1', stage, 2 if after.endswith('.0') and self.last == 2 else 1)
            seen, deviation = self.seen(f'{after}.bn1')
            if matrix.shape[0] < 1.5 * chs:
                continue  # too few means for the unknowns
            for padding, carried in self.paddings(chs, len(own)).items():
                free = torch.zeros(len(own), dtype=torch.bool)
                free[carried] = True
                rest = (seen - matrix[:, ~free] @ own[~free]) / deviation
                if carried:
                    unknown = matrix[:, free] / deviation[:, None]
                    rest = rest - unknown @ torch.linalg.lstsq(unknown, rest[:, None]).solution[:, 0]
                errors.setdefault(padding, []).append(_rms(rest, len(carried)))
        if not errors:
            return ''
        plain = errors.pop('none')
        for number, error in enumerate(plain):
            if error < _FITS and error < 1.5 * min(others[number] for others in errors.values()) + 0.02:
                return 'none'
        return _verdict({padding: max(values) for padding, values in errors.items()})

    def branch_mean(self, name: str, stage: int) -> Tensor:
        """The mean of a pre-activation branch."""
        matrix = self.matrix(f'{name}.conv{self.last}', stage, 1)
        return matrix @ _relu(*self.affine(f'{name}.bn{self.last}'))

    def next_norm(self, after: str) -> str:
        return f'{after}.bn1' if after else ('norm' if self.network.final_norm else '')

    def padding_v2(self) -> str:
        """The next norm reads the sum of the branch and the padded input, whose means are both known."""
        errors: dict[str, list[Tensor]] = {}
        for chs, name, after, _ in self.first_blocks():
            norm = self.next_norm(after)
            if not norm:
                continue
            branch = self.branch_mean(name, int(name[5]) - 1)
            seen, deviation = self.seen(norm)
            for padding, carried in self.paddings(chs, len(branch)).items():
                predicted = branch.clone()
                if carried:
                    predicted[carried] += self.seen(f'{name}.bn1')[0]
                errors.setdefault(padding, []).append((predicted - seen) / deviation)
        return _verdict({padding: _rms(torch.cat(values)) for padding, values in errors.items()})

    def projection(self) -> str:
        """The next norm reads the sum of the branch and the projection, of the activated or of the raw input.

        Each block is asked on its own, since there are networks that do both.
        """
        verdicts = set()
        for _, name, after, _ in self.first_blocks():
            norm = self.next_norm(after)
            if not norm:
                continue
            branch = self.branch_mean(name, int(name[5]) - 1)
            matrix = self.matrix(f'{name}.downsample.0', 0, 1)
            seen, deviation = self.seen(norm)
            inputs = {'activated': _relu(*self.affine(f'{name}.bn1')), 'raw': self.seen(f'{name}.bn1')[0]}
            errors = {kind: _rms((branch + matrix @ mean - seen) / deviation) for kind, mean in inputs.items()}
            verdicts.add(_verdict(errors))
        return next((kind for kind in ('raw', 'activated') if kind in verdicts), '')
