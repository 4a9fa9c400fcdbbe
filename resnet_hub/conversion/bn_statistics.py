"""Find out from the running statistics of BatchNorm which function a network computed in training.

The running mean of a norm is the mean of its input, for each channel. Consider a norm with scale g and shift b, followed
by an activation, a convolution W and a second norm. The output of the first norm has about the normal distribution
N(b, g²). Therefore the running mean of the second norm is about

    W · E[act(N(b, g²))],    for ReLU  E = b Φ(b/g) + g φ(b/g),

where Φ and φ are the standard normal distribution and density. Another hypothesis about the network (another
activation, a raw shortcut …) predicts other means. The error of a hypothesis is the difference between predicted and
recorded means, in standard deviations of each channel. On real checkpoints of a dozen authors, the right hypothesis has
errors of 0.01 to 0.1, and wrong ones have errors of 0.2 to 6. The thresholds are in between: a hypothesis counts as
shown if its error is below 0.12 and every other error is at least 2.5 times as large.

The statistics show nothing after too few batches of training, or if the weights changed afterwards (pruning,
quantisation). After t batches with momentum 0.1 a running mean is only 1 - 0.9^t of the true mean. Therefore the
recorded means are regressed on the predicted ones. If the slope is not near 1, all answers are unknown.
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

_SIZE = 32  #: height and width of the training images; it determines how often a kernel reads padding
_FITS = 0.12  #: largest error of the right hypothesis
_CLEARLY = 2.5  #: smallest ratio of the second-best error to the best
_SLOPE = (0.8, 1.25)  #: range of slopes near 1; 0.8 is reached after 16 batches with momentum 0.1
#: the same thresholds for the first block, whose input comes from the stem: pixels are far from normally distributed
_STEM_FITS, _STEM_CLEARLY = 0.25, 1.5
_MOST = 24  #: of a deeper network, about this number of blocks is looked at

Mean = Callable[[Tensor, Tensor], Tensor]  #: a function from b and g to E[act(N(b, g²))]


class Fit(NamedTuple):
    """How well hypotheses predict the running means."""

    best: str  #: the hypothesis that the statistics show; '' if they show none
    evidence: str = 'the BatchNorm statistics do not show it'


class _Pair(NamedTuple):
    """Two successive norms, with an activation and a convolution in between."""

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
    """Return the function from b and g to E[act(N(b, g²))], integrated on a grid.

    With `largest_of` it is the mean of act(the largest of several independent numbers).
    """
    grid = torch.linspace(-4.5, 4.5, 91, dtype=torch.float64)
    mass = torch.exp(-grid.square() / 2) * torch.special.ndtr(grid) ** (largest_of - 1)
    mass /= mass.sum()
    return lambda b, g: act(b[:, None] + g.abs()[:, None] * grid) @ mass


#: activations that the means can distinguish from ReLU; ReLU6 and leaky ReLU (0.01) are too similar to it
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
#: maxima over 3×3 pixels; these depend on each other and correspond to 2 to 5 independent numbers
_POOLED = [_numeric(F.relu, largest_of) for largest_of in (2, 3, 5)]


def _rms(errors: Tensor, unknowns: int = 0) -> float:
    return float((errors.square().sum() / max(1, len(errors) - unknowns)).sqrt())


def _choose(errors: Mapping[str, float], fits: float = _FITS, clearly: float = _CLEARLY) -> Fit:
    """Return the hypothesis whose error is small and clearly smaller than all others."""
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
    """Tests hypotheses with the norms and convolutions of a native state dict."""

    def __init__(self, network: Network, state_dict: Mapping[str, Tensor]) -> None:
        self.network = network
        self.tensors = state_dict
        self.last = 2 if network.block == 'basic' else 3  # number of the last convolution of a branch

    @cached_property
    def errors(self) -> dict[str, float]:
        """Return the error of each activation: the median over the channels, in standard deviations."""
        return {
            name: float(torch.cat([pair.predict(mean) - pair.seen for pair in self.pairs]).abs().median())
            for name, mean in ACTIVATIONS.items()
        }

    @cached_property
    def silent(self) -> str:
        """Return why the statistics cannot show anything; '' if they can."""
        if not self.pairs:
            return 'the norms have seen no images'
        best = min(self.errors, key=lambda name: self.errors[name])
        predicted = torch.cat([pair.predict(ACTIVATIONS[best]) for pair in self.pairs])
        seen = torch.cat([pair.seen for pair in self.pairs])
        slope = float(predicted @ seen / (predicted @ predicted).clamp_min(1e-12))
        low, high = _SLOPE
        return (
            '' if low <= slope <= high else 'the BatchNorm statistics have seen few images, or do not fit the weights'
        )

    def activation(self) -> Fit:
        """Return which activation the statistics show, a key of ACTIVATIONS."""
        return _choose(self.errors)

    def stem(self) -> Fit:
        """Return whether the first block (V1) reads the stem's output directly, or maxima of it (pooling).

        On 14 real networks without pooling, the errors of the direct hypothesis are 0.01 to 0.15, and those of the
        pooled one 0.3 to 0.7. On networks with a pooled stem they are 0.24 to 0.52, and 0.06 to 0.16.
        """
        if self.errors['ReLU'] >= _FITS:  # in one layer, wrong predictions may fit by chance
            return Fit('')
        pair = self.pair('bn1', 'layer1.0.conv1', 'layer1.0.bn1', 0, 1)
        direct, *pooled = (float((pair.predict(act) - pair.seen).abs().median()) for act in (_relu, *_POOLED))
        return _choose({'the bare stem': direct, 'a pooled stem': min(pooled)}, _STEM_FITS, _STEM_CLEARLY)

    def padding(self) -> Fit:
        """Return where a shortcut without tensors puts its channels.

        'centre' pads on both sides, 'end' at the end, 'front' at the front; 'none' means that there is no shortcut.
        """
        return self._padding_v2() if self.network.family.norm_first else self._padding_v1()

    def projection(self) -> Fit:
        """Return whether projections (V2) read the 'activated' or the 'raw' input of their block.

        The next norm reads the sum of branch and projection, and the means of both are known. Each block is tested
        separately, because some networks have both kinds.
        """
        fits = {}
        for name, branch, mean, deviation in self.sums():
            matrix = self.matrix(f'{name}.downsample.0', 0, 1)
            inputs = {'activated': _relu(*self.affine(f'{name}.bn1')), 'raw': self.seen(f'{name}.bn1')[0]}
            fit = _choose({kind: _rms((branch + matrix @ x - mean) / deviation) for kind, x in inputs.items()})
            fits[fit.best] = fit
        return fits.get('raw') or fits.get('activated') or Fit('')

    def _padding_v1(self) -> Fit:
        """Test the paddings of V1.

        In a channel without a shortcut, a block's output is only the activation of its last norm. The means of the other
        channels are unknown: they are fitted to the next norm's means. In a network without shortcuts this does not
        reduce the error.
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
        """Test the paddings of V2. The next norm reads the sum of branch and padded input; the means of both are known."""
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
        """Return mean and standard deviation of a norm's input.

        Very small deviations are raised, so that a dead channel does not dominate the errors.
        """
        deviation = self.tensors[f'{norm}.running_var'].double().add(1e-5).sqrt()
        return self.tensors[f'{norm}.running_mean'].double(), deviation.clamp_min(1e-2 * float(deviation.median()))

    def matrix(self, conv: str, stage: int, stride: int) -> Tensor:
        """Return the matrix from input means to output means: the sum over the kernel, without its part on padding."""
        weight = self.tensors[f'{conv}.weight'].double()
        if weight.shape[2] == 1:
            return weight[:, :, 0, 0]
        inside = 1 - stride / (_SIZE >> stage - (stride > 1))  # share of positions where an outer tap is in the image
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
        """Return the pairs of successive norms in the branches."""
        blocks, result = self.blocks(), []
        for stage, name in blocks[:: max(1, len(blocks) // _MOST)]:
            for k in range(1, self.last):
                conv = k if self.network.family.norm_first else k + 1
                strided = stage > 0 and name.endswith('.0') and conv == (1 if self.last == 2 else 2)
                mean = self.tensors[f'{name}.bn{k + 1}.running_mean']
                if not mean.is_meta and bool(mean.any()):  # else the norm was never trained, or its input is zero
                    stride = 2 if strided else 1
                    result.append(self.pair(f'{name}.bn{k}', f'{name}.conv{conv}', f'{name}.bn{k + 1}', stage, stride))
        return result

    def widening_blocks(self) -> Iterator[tuple[int, str, str, int]]:
        """Yield blocks that widen: channels before, the block, the next block ('' after the last), its stage."""
        blocks, chs = self.blocks(), self.network.stem_width
        for (stage, name), (after_stage, after) in zip(blocks, [*blocks[1:], (blocks[-1][0], '')], strict=True):
            width = self.network.widths[stage] * (4 if self.last == 3 else 1)
            if name.endswith('.0') and width > chs:
                yield chs, name, after, after_stage
            chs = width

    def sums(self) -> Iterator[tuple[str, Tensor, Tensor, Tensor]]:
        """Yield blocks that widen (V2): the block, its branch's mean, mean and deviation of branch + shortcut."""
        for _, name, after, _ in self.widening_blocks():
            if norm := f'{after}.bn1' if after else 'norm' * self.network.final_norm:
                matrix = self.matrix(f'{name}.conv{self.last}', int(name[5]) - 1, 1)
                yield name, matrix @ _relu(*self.affine(f'{name}.bn{self.last}')), *self.seen(norm)


def _paddings(chs: int, width: int) -> dict[str, list[int]]:
    """Return the channels that carry the shortcut, for each hypothesis."""
    before = (width - chs) // 2
    centre, end, front = range(before, before + chs), range(chs), range(width - chs, width)
    return {'centre': list(centre), 'end': list(end), 'front': list(front), 'none': []}
