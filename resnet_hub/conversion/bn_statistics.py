"""What the running statistics of BatchNorm show about the function that a network computed in training.

A norm's running mean is the mean of its input, channel by channel. Where a norm of scale g and shift b, an activation
and a convolution W come right before it, that mean follows from their parameters. The output of the first norm is
about normal, N(b, g²), so that the next running mean is about

    W · E[act(N(b, g²))],    for ReLU  E = b Φ(b/g) + g φ(b/g),

Φ and φ being the standard normal distribution and density. A hypothesis about the network (another activation, a
raw shortcut …) predicts other means. Its error is the difference from the recorded means, in standard deviations of
each channel. On real checkpoints of a dozen authors the right hypothesis errs by 0.01 to 0.1, wrong ones by 0.2 to 6.
The thresholds lie between: a hypothesis is shown if it errs by less than 0.12, and every other one by 2.5 times as much.

Statistics say nothing while they are young, or where the weights changed afterwards (pruning, quantisation). After t
batches with momentum 0.1 a running mean is only 1 - 0.9^t of the true mean. The recorded means are therefore
regressed on the predicted ones, and anything but a slope near 1 makes all answers unknown.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from resnet_hub.checkpoints.network import Network

_SIZE = 32  #: of the images in training, which decides how often a kernel reads padding
_FITS = 0.12
_CLEARLY = 2.5
_SLOPE = (0.8, 1.25)  #: 0.8: 16 batches with momentum 0.1
#: the same thresholds for the first block, which reads the stem, and the stem reads pixels, which are far from normal
_STEM_FITS, _STEM_CLEARLY = 0.25, 1.5
_MOST = 24  #: blocks to look at: a sample of a deep network says as much as all of it

Mean = Callable[[Tensor, Tensor], Tensor]  #: from b and g, E[act(N(b, g²))]


class Fit(NamedTuple):
    """How well hypotheses predict the running means."""

    best: str  #: the hypothesis that is shown; '' where none is
    evidence: str = 'the BatchNorm statistics do not tell'


class _Pair(NamedTuple):
    """Two norms with an activation and a convolution between them."""

    shift: Tensor
    scale: Tensor
    matrix: Tensor
    deviation: Tensor
    seen: Tensor  #: running means of the second norm, in standard deviations

    def predict(self, mean: Mean) -> Tensor:
        return self.matrix @ mean(self.shift, self.scale) / self.deviation


def _relu(b: Tensor, g: Tensor) -> Tensor:
    g = g.abs().clamp_min(1e-12)
    z = b / g
    return b * torch.special.ndtr(z) + g * torch.exp(-z.square() / 2) / math.sqrt(2 * math.pi)


def _numeric(act: Callable[[Tensor], Tensor], largest_of: int = 1) -> Mean:
    """Integrate over a grid; with `largest_of`, the mean of the activation of the largest of several numbers."""
    grid = torch.linspace(-4.5, 4.5, 91, dtype=torch.float64)
    mass = torch.exp(-grid.square() / 2) * torch.special.ndtr(grid) ** (largest_of - 1)
    mass /= mass.sum()
    return lambda b, g: act(b[:, None] + g.abs()[:, None] * grid) @ mass


#: activations that the means can tell from ReLU; ReLU6 or a slope of 0.01 come too close to it
ACTIVATIONS: dict[str, Mean] = {
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
#: maxima over 3×3 pixels, which depend on each other and are worth 2 to 5 independent numbers
_POOLED = [_numeric(F.relu, largest_of) for largest_of in (2, 3, 5)]


def _rms(errors: Tensor, unknowns: int = 0) -> float:
    return float((errors.square().sum() / max(1, len(errors) - unknowns)).sqrt())


def _choose(errors: Mapping[str, float], fits: float = _FITS, clearly: float = _CLEARLY) -> Fit:
    """Return the hypothesis that fits while no other comes near it."""
    if len(errors) < 2:
        return Fit('')
    best, other = sorted(errors, key=lambda name: errors[name])[:2]
    if not errors[best] < fits or errors[other] < clearly * errors[best]:
        return Fit('')
    return Fit(
        best,
        f'the BatchNorm means are {errors[best]:.2f} standard deviations from those of {best}, and {errors[other]:.2f} '
        f'from those of {other}',
    )


class BatchNormStatistics:
    """The norms and convolutions of a state dict under native names."""

    def __init__(self, network: Network, state_dict: Mapping[str, Tensor]) -> None:
        self.network = network
        self.tensors = state_dict
        self.last = 2 if network.block == 'basic' else 3  # number of the last convolution of a branch

    @cached_property
    def errors(self) -> dict[str, float]:
        """The error of each activation: the median over the channels, in standard deviations."""
        return {
            name: float(torch.cat([pair.predict(mean) - pair.seen for pair in self.pairs]).abs().median())
            for name, mean in ACTIVATIONS.items()
        }

    @cached_property
    def silent(self) -> str:
        """Why the statistics say nothing at all; '' if they may say something."""
        if not self.pairs:
            return 'the norms have seen no images'
        best = min(self.errors, key=lambda name: self.errors[name])
        predicted = torch.cat([pair.predict(ACTIVATIONS[best]) for pair in self.pairs])
        seen = torch.cat([pair.seen for pair in self.pairs])
        slope = float(predicted @ seen / (predicted @ predicted).clamp_min(1e-12))
        low, high = _SLOPE
        return '' if low <= slope <= high else 'the BatchNorm statistics are young, or older than the weights'

    def activation(self) -> Fit:
        """Tell the activation, a key of ACTIVATIONS."""
        return _choose(self.errors)

    def stem(self) -> Fit:
        """Tell whether the first block (V1) reads what the stem's norm and activation give, or maxima of it.

        On 14 real networks without pooling the direct hypothesis errs by 0.01 to 0.15 and the pooled one by 0.3 to
        0.7; where the stem is pooled, by 0.24 to 0.52 and by 0.06 to 0.16.
        """
        if self.errors['ReLU'] >= _FITS:  # meaningless numbers may fit by chance in one layer
            return Fit('')
        pair = self.pair('bn1', 'layer1.0.conv1', 'layer1.0.bn1', 0, 1)
        direct, *pooled = (float((pair.predict(act) - pair.seen).abs().median()) for act in (_relu, *_POOLED))
        return _choose({'the bare stem': direct, 'a pooled stem': min(pooled)}, _STEM_FITS, _STEM_CLEARLY)

    def padding(self) -> Fit:
        """Tell which channels a shortcut without tensors fills: 'centre', 'end', 'front' or 'none'."""
        return self._padding_v2() if self.network.family.norm_first else self._padding_v1()

    def projection(self) -> Fit:
        """Tell whether projections (V2) read the 'activated' or the 'raw' input of their block.

        The next norm reads the sum of branch and projection, whose means are both known. Each block is asked on its
        own, since there are networks that do both.
        """
        fits = {}
        for name, branch, mean, deviation in self.sums():
            matrix = self.matrix(f'{name}.downsample.0', 0, 1)
            inputs = {'activated': _relu(*self.affine(f'{name}.bn1')), 'raw': self.seen(f'{name}.bn1')[0]}
            fit = _choose({kind: _rms((branch + matrix @ x - mean) / deviation) for kind, x in inputs.items()})
            fits[fit.best] = fit
        return fits.get('raw') or fits.get('activated') or Fit('')

    def _padding_v1(self) -> Fit:
        """Where a channel carries no shortcut, a block's output is the activation of its last norm alone.

        The means of the other channels are free: as many unknowns as shortcut channels, fitted to the next norm's
        means. In a plain net nothing is gained by them.
        """
        errors: dict[str, list[float]] = defaultdict(list)
        for chs, name, after, stage in self.widening_blocks():
            if not after:
                continue
            own = _relu(*self.affine(f'{name}.bn{self.last}'))
            matrix = self.matrix(f'{after}.conv1', stage, 2 if after.endswith('.0') and self.last == 2 else 1)
            mean, deviation = self.seen(f'{after}.bn1')
            if matrix.shape[0] < 1.5 * chs:
                continue  # too few means for the unknowns
            for padding, carried in _paddings(chs, len(own)).items():
                free = torch.zeros(len(own), dtype=torch.bool)
                free[carried] = True
                rest = (mean - matrix[:, ~free] @ own[~free]) / deviation
                if carried:
                    unknown = matrix[:, free] / deviation[:, None]
                    rest = rest - unknown @ torch.linalg.lstsq(unknown, rest[:, None]).solution[:, 0]
                errors[padding].append(_rms(rest, len(carried)))
        plain = errors.pop('none', [])
        for number, error in enumerate(plain):
            others = min(values[number] for values in errors.values())
            if error < _FITS and error < 1.5 * others + 0.02:
                return Fit('none', f'without shortcuts the BatchNorm means are {error:.2f} standard deviations off')
        return _choose({padding: max(values) for padding, values in errors.items()})

    def _padding_v2(self) -> Fit:
        """The next norm reads the sum of the branch and the padded input, whose means are both known."""
        errors: dict[str, list[Tensor]] = defaultdict(list)
        for name, branch, mean, deviation in self.sums():
            carried_mean, _ = self.seen(f'{name}.bn1')
            for padding, carried in _paddings(len(carried_mean), len(branch)).items():
                predicted = branch.clone()
                predicted[carried] += carried_mean if carried else 0
                errors[padding].append((predicted - mean) / deviation)
        return _choose({padding: _rms(torch.cat(values)) for padding, values in errors.items()})

    def affine(self, norm: str) -> tuple[Tensor, Tensor]:
        return self.tensors[f'{norm}.bias'].double(), self.tensors[f'{norm}.weight'].double()

    def seen(self, norm: str) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation of a norm's input; a dead channel counts as little as the others do."""
        deviation = self.tensors[f'{norm}.running_var'].double().add(1e-5).sqrt()
        return self.tensors[f'{norm}.running_mean'].double(), deviation.clamp_min(1e-2 * float(deviation.median()))

    def matrix(self, conv: str, stage: int, stride: int) -> Tensor:
        """Return a convolution's effect on channel means: the sum of its kernel, less what falls on the padding."""
        weight = self.tensors[f'{conv}.weight'].double()
        if weight.shape[2] == 1:
            return weight[:, :, 0, 0]
        inside = 1 - stride / (_SIZE >> stage - (stride > 1))  # share of the positions where an outer tap is inside
        taps = torch.tensor([inside, 1, inside if stride == 1 else 1], dtype=torch.float64)
        return (weight * taps[:, None] * taps).sum((2, 3))

    def pair(self, first: str, conv: str, second: str, stage: int, stride: int) -> _Pair:
        mean, deviation = self.seen(second)
        return _Pair(*self.affine(first), self.matrix(conv, stage, stride), deviation, mean / deviation)

    def blocks(self) -> list[tuple[int, str]]:
        layers = self.network.layers
        return [(stage, f'layer{stage + 1}.{index}') for stage, count in enumerate(layers) for index in range(count)]

    @cached_property
    def pairs(self) -> list[_Pair]:
        """The neighbouring norms within the branches."""
        blocks, result = self.blocks(), []
        for stage, name in blocks[:: max(1, len(blocks) // _MOST)]:
            for k in range(1, self.last):
                conv = k if self.network.family.norm_first else k + 1
                strided = stage > 0 and name.endswith('.0') and conv == (1 if self.last == 2 else 2)
                mean = self.tensors[f'{name}.bn{k + 1}.running_mean']
                if not mean.is_meta and bool(mean.any()):  # else it was never trained, or is fed by zeros
                    stride = 2 if strided else 1
                    result.append(self.pair(f'{name}.bn{k}', f'{name}.conv{conv}', f'{name}.bn{k + 1}', stage, stride))
        return result

    def widening_blocks(self) -> Iterator[tuple[int, str, str, int]]:
        """Yield where a stage widens: channels before, its first block, the next block ('' after the last), its stage."""
        blocks, chs = self.blocks(), self.network.stem_width
        for (stage, name), (after_stage, after) in zip(blocks, [*blocks[1:], (blocks[-1][0], '')], strict=True):
            width = self.network.widths[stage] * (4 if self.last == 3 else 1)
            if name.endswith('.0') and width > chs:
                yield chs, name, after, after_stage
            chs = width

    def sums(self) -> Iterator[tuple[str, Tensor, Tensor, Tensor]]:
        """Yield where a stage widens (V2): its first block, its branch's mean, mean and deviation of branch + shortcut."""
        for _, name, after, _ in self.widening_blocks():
            if norm := f'{after}.bn1' if after else 'norm' * self.network.final_norm:
                matrix = self.matrix(f'{name}.conv{self.last}', int(name[5]) - 1, 1)
                yield name, matrix @ _relu(*self.affine(f'{name}.bn{self.last}')), *self.seen(norm)


def _paddings(chs: int, width: int) -> dict[str, list[int]]:
    """Return the channels that carry the shortcut, by hypothesis."""
    before = (width - chs) // 2
    centre, end, front = range(before, before + chs), range(chs), range(width - chs, width)
    return {'centre': list(centre), 'end': list(end), 'front': list(front), 'none': []}
