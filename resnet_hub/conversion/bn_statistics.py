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
_ACTIVATION_CLEARLY = 1.3  #: smallest ratio of the error of ReLU, with the best share, to that of another activation
_ENOUGH = 100  #: number of means below which a small ratio may be chance; cifar_resnet8 has 112
_PLAIN = 0.25  #: largest error of a network without shortcuts, as a share of the means' size
_MOST = 24  #: of a deeper network, about this number of blocks is looked at

NOT_SHOWN = 'the BatchNorm statistics do not show it'

Mean = Callable[[Tensor, Tensor], Tensor]  #: a function from b and g to E[act(N(b, g²))]


class Fit(NamedTuple):
    """How well hypotheses predict the running means."""

    best: str  #: the hypothesis that the statistics show; '' if they show none
    evidence: str


class _Pair(NamedTuple):
    """Two successive norms, with an activation and a convolution in between."""

    shift: Tensor
    scale: Tensor
    matrix: Tensor  #: from the means of the activations to `seen`
    seen: Tensor  #: running means of the second norm, in standard deviations

    def predict(self, mean: Mean) -> Tensor:
        return self.matrix @ mean(self.shift, self.scale)


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


#: activations that the means can distinguish; ReLU6 and leaky ReLU (0.01) are too similar to ReLU
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


def _median(predicted: Tensor, seen: Tensor) -> float:
    return float((predicted - seen).abs().median())


def _rms(errors: Tensor, unknowns: int = 0) -> float:
    return float((errors.square().sum() / max(1, len(errors) - unknowns)).sqrt())


def _slope(predicted: Tensor, seen: Tensor) -> float:
    """Return the slope of the regression of recorded on predicted means."""
    return float(predicted @ seen / (predicted @ predicted).clamp_min(1e-12))


class BatchNormStatistics:
    """Tests hypotheses with the norms and convolutions of a native state dict."""

    def __init__(self, network: Network, state_dict: Mapping[str, Tensor]) -> None:
        self.network = network
        self.tensors = state_dict
        self.last = 2 if network.block == 'basic' else 3  # number of the last convolution of a branch
        self.blocks = [f'layer{s + 1}.{i}' for s, count in enumerate(network.layers) for i in range(count)]

    def means(self, activation: str) -> tuple[Tensor, Tensor]:
        """Return the means that an activation predicts in the branches, and the recorded ones."""
        mean = ACTIVATIONS[activation]
        return torch.cat([pair.predict(mean) for pair in self.pairs]), torch.cat([pair.seen for pair in self.pairs])

    @cached_property
    def errors(self) -> dict[str, float]:
        """Return the error of each activation: the median over the channels, in standard deviations."""
        return {name: _median(*self.means(name)) for name in ACTIVATIONS} if self.pairs else {}

    @cached_property
    def share(self) -> float:
        """Return the share of the true means that the running means are, if the activation is ReLU."""
        return _slope(*self.means('ReLU'))

    @cached_property
    def silent(self) -> str:
        """Return why the statistics cannot show anything; '' if they can."""
        if not self.pairs:
            return 'the norms have seen no images'
        slope = _slope(*self.means(min(self.errors, key=lambda name: self.errors[name])))
        return (
            ''
            if _SLOPE[0] <= slope <= _SLOPE[1]
            else 'the BatchNorm statistics have seen few images, or do not fit the weights'
        )

    def choose(self, errors: Mapping[str, float], fits: float = _FITS, clearly: float = _CLEARLY) -> Fit:
        """Return the hypothesis whose error is small and clearly smaller than all others."""
        if self.silent or len(errors) < 2:
            return Fit('', self.silent or NOT_SHOWN)
        best, other = sorted(errors, key=lambda name: errors[name])[:2]
        if not errors[best] < fits or errors[other] < clearly * errors[best]:
            return Fit('', NOT_SHOWN)
        return Fit(
            best,
            f'the BatchNorm means are {errors[best]:.2f} standard deviations from those of {best}, and {errors[other]:.2f} '
            f'from those of {other}',
        )

    def activation(self) -> Fit:
        """Return which activation the statistics show, a key of ACTIVATIONS.

        Early in training the running means are a share of the true means, so that those of ReLU look like those of an
        activation with smaller means. Therefore any other activation is compared with ReLU times the best share. In the
        first 30 steps its error is at most that of the best activation. On networks with leaky ReLU (0.1) it is 1.5 to 2
        times as large, with SiLU, GELU, ELU and tanh 2.8 times and more.
        """
        best = min(self.errors, key=lambda name: self.errors[name], default='ReLU')
        if best == 'ReLU' or self.silent:
            return self.choose(self.errors)
        relu, seen = self.means('ReLU')
        if len(seen) < _ENOUGH:
            return self.choose(self.errors)
        errors = {best: self.errors[best], 'ReLU': _median(self.share * relu, seen)}
        return self.choose(errors, _FITS / 2, _ACTIVATION_CLEARLY)

    def stem(self) -> Fit:
        """Return whether the first block (V1) reads the stem's output directly, or maxima of it (pooling).

        On 14 real networks without pooling, the errors of the direct hypothesis are 0.01 to 0.15, and those of the
        pooled one 0.3 to 0.7. On networks with a pooled stem they are 0.24 to 0.52, and 0.06 to 0.16.
        """
        if self.silent or self.errors['ReLU'] >= _FITS:  # in one layer, wrong predictions may fit by chance
            return self.choose({})
        pair = self.pair('bn1', 'layer1.0.conv1', 'layer1.0.bn1')
        direct, *pooled = (_median(pair.predict(act), pair.seen) for act in (_relu, *_POOLED))
        return self.choose({'the bare stem': direct, 'a pooled stem': min(pooled)}, _STEM_FITS, _STEM_CLEARLY)

    def sum_activation(self) -> Fit:
        """Return whether the sums of branches and projections (V1) are 'activated'.

        On 11 real networks the error of an activation after the sum is 0.07 to 0.19. Without one it is 0.26 to 4 ('bare'),
        and 0.10 to 1.6 with one at the end of the branch ('activated before'). An activation in both places cannot be
        distinguished.
        """
        if self.silent or self.errors['ReLU'] >= _FITS:
            return self.choose({})
        errors: dict[str, list[Tensor]] = defaultdict(list)
        for _, name, after in self.widening_blocks():
            if after:
                pair = self.pair(f'{name}.bn{self.last}', f'{after}.conv1', f'{after}.bn1')
                shift, scale = self.affine(f'{name}.downsample.1')
                for kind, mean in (
                    ('activated', _relu(pair.shift + shift, pair.scale.hypot(scale))),
                    ('bare', pair.shift + shift),
                    ('activated before', _relu(pair.shift, pair.scale) + shift),
                ):
                    errors[kind].append(self.share * (pair.matrix @ mean) - pair.seen)
        return self.choose({kind: float(torch.cat(values).abs().median()) for kind, values in errors.items()})

    def padding(self) -> Fit:
        """Return where a shortcut without tensors puts its channels.

        'centre' pads on both sides, 'end' at the end, 'front' at the front; 'none' means that there is no shortcut.
        """
        if not self.network.family.norm_first:
            return self._padding_v1()
        errors: dict[str, list[Tensor]] = defaultdict(list)
        for name, added, deviation in self.sums():
            carried_mean, _ = self.seen(f'{name}.bn1')
            for padding, carried in _paddings(len(carried_mean), len(added)).items():
                predicted = torch.zeros_like(added)
                predicted[carried] = carried_mean[: len(carried)]
                errors[padding].append((predicted - added) / deviation)
        return self.choose({padding: _rms(torch.cat(values)) for padding, values in errors.items()})

    def _padding_v1(self) -> Fit:
        """Test the paddings of V1.

        In a channel without a shortcut, a block's output is only the activation of its last norm. The means of the other
        channels are unknown: they are fitted to the next norm's means. In a network without shortcuts this does not
        reduce the error. There the known means explain the next ones by themselves, even in a pruned network. On real
        networks their error is 0.05 to 0.23 of the means' size without shortcuts, and 0.46 or more with shortcuts.
        """
        errors: dict[str, list[float]] = defaultdict(list)
        for chs, name, after in self.widening_blocks():
            if not after or len(self.tensors[f'{after}.bn1.bias']) < 1.5 * chs:
                continue  # too few means for the unknowns
            pair = self.pair(f'{name}.bn{self.last}', f'{after}.conv1', f'{after}.bn1')
            own = _relu(pair.shift, pair.scale)
            paddings = _paddings(chs, len(own))
            for padding, carried in paddings.items():
                known = own.clone()
                known[carried] = 0
                rest, unknown = pair.seen - pair.matrix @ known, pair.matrix[:, carried]
                fitted = torch.linalg.lstsq(unknown, rest[:, None]).solution[:, 0] if carried else rest[:0]
                errors[padding].append(_rms(rest - unknown @ fitted, len(carried)))
            plain, others = errors['none'][-1], min(errors[padding][-1] for padding in paddings if padding != 'none')
            near = _SLOPE[0] <= _slope(pair.matrix @ own, pair.seen) <= _SLOPE[1]
            explained = plain < _PLAIN * _rms(pair.seen) and near
            if explained and plain < 1.5 * others + 0.02:
                return Fit('none', f'without shortcuts the BatchNorm means are {plain:.2f} standard deviations off')
        errors.pop('none', None)
        return self.choose({padding: max(values) for padding, values in errors.items()})

    def projection(self) -> Fit:
        """Return whether projections (V2) read the 'activated' or the 'raw' input of their block.

        Each block is tested separately, because some networks have both kinds.
        """
        fits = {}
        for name, added, deviation in self.sums():
            inputs = {'activated': _relu(*self.affine(f'{name}.bn1')), 'raw': self.seen(f'{name}.bn1')[0]}
            matrix = self.matrix(f'{name}.downsample.0')
            fit = self.choose({kind: _rms((matrix @ x - added) / deviation) for kind, x in inputs.items()})
            fits[fit.best] = fit
        return fits.get('raw') or fits.get('activated') or self.choose({})

    def affine(self, norm: str) -> tuple[Tensor, Tensor]:
        return self.tensors[f'{norm}.bias'].double(), self.tensors[f'{norm}.weight'].double()

    def seen(self, norm: str) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation of a norm's input.

        Very small deviations are raised, so that a dead channel does not dominate the errors.
        """
        deviation = self.tensors[f'{norm}.running_var'].double().add(1e-5).sqrt()
        return self.tensors[f'{norm}.running_mean'].double(), deviation.clamp_min(1e-2 * float(deviation.median()))

    def matrix(self, conv: str) -> Tensor:
        """Return the matrix from input means to output means: the sum over the kernel, without its part on padding."""
        weight = self.tensors[f'{conv}.weight'].double()
        if weight.shape[2] == 1:
            return weight[:, :, 0, 0]
        stage = int(conv[5]) - 1
        stride = 2 if stage and conv.endswith(f'.0.conv{self.last - 1}') else 1
        inside = 1 - stride / (_SIZE >> stage - (stride > 1))  # share of positions where an outer tap is in the image
        taps = torch.tensor([inside, 1, inside if stride == 1 else 1], dtype=torch.float64)
        return (weight * taps[:, None] * taps).sum((2, 3))

    def pair(self, first: str, conv: str, second: str) -> _Pair:
        mean, deviation = self.seen(second)
        return _Pair(*self.affine(first), self.matrix(conv) / deviation[:, None], mean / deviation)

    @cached_property
    def pairs(self) -> list[_Pair]:
        """Return the pairs of successive norms in the branches."""
        shift = 0 if self.network.family.norm_first else 1
        names = [(name, k) for name in self.blocks[:: max(1, len(self.blocks) // _MOST)] for k in range(1, self.last)]
        means = [self.tensors[f'{name}.bn{k + 1}.running_mean'] for name, k in names]
        return [
            self.pair(f'{name}.bn{k}', f'{name}.conv{k + shift}', f'{name}.bn{k + 1}')
            for (name, k), mean in zip(names, means, strict=True)
            if not mean.is_meta and bool(mean.any())  # else the norm was never trained, or its input is zero
        ]

    def widening_blocks(self) -> Iterator[tuple[int, str, str]]:
        """Yield blocks that widen: channels before, the block, the next block ('' after the last)."""
        chs = self.network.stem_width
        for name, after in zip(self.blocks, [*self.blocks[1:], ''], strict=True):
            width = len(self.tensors[f'{name}.conv{self.last}.weight'])
            if name.endswith('.0') and width > chs:
                yield chs, name, after
            chs = width

    def sums(self) -> Iterator[tuple[str, Tensor, Tensor]]:
        """Yield blocks that widen (V2): the block, the mean of its shortcut, the deviation of branch + shortcut.

        The next norm reads the sum of branch and shortcut. The mean of the branch is known.
        """
        for _, name, after in self.widening_blocks():
            if norm := f'{after}.bn1' if after else 'norm' * self.network.final_norm:
                mean, deviation = self.seen(norm)
                branch = self.matrix(f'{name}.conv{self.last}') @ _relu(*self.affine(f'{name}.bn{self.last}'))
                yield name, mean - branch, deviation


def _paddings(chs: int, width: int) -> dict[str, list[int]]:
    """Return the channels that carry the shortcut, for each hypothesis."""
    before = (width - chs) // 2
    centre, end, front = range(before, before + chs), range(chs), range(width - chs, width)
    return {'centre': list(centre), 'end': list(end), 'front': list(front), 'none': []}
