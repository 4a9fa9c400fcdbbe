"""Pre-activation ResNet (V2) and wide residual nets for small images.

He, Zhang, Ren, Sun: Identity Mappings in Deep Residual Networks, 2016, https://arxiv.org/abs/1603.05027.
Zagoruyko, Komodakis: Wide Residual Networks, 2016, https://arxiv.org/abs/1605.07146.

A projection reads the activated input, which both paths share; an identity, zero-padded or not, carries x itself.
"""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn

from .base import Architecture, LayerMaker, ResidualNet


class PreActBasicBlock(nn.Module):
    """Two 3×3 convolutions, each after its norm and activation, x + F(x): eq. 3 with an identity for f."""

    expansion = 1
    last = 'conv2'

    def __init__(self, in_chs: int, width: int, stride: int, drop_path: float, make: LayerMaker) -> None:
        super().__init__()
        self.bn1 = make.norm(in_chs)
        self.act1 = make.act(inplace=False)  # in place it would change x where the norm is an identity
        self.conv1 = make.conv3x3(in_chs, width, stride)
        self.bn2 = make.norm(width)
        self.act2 = make.act()
        self.conv2 = make.conv3x3(width, width)
        self.drop_path = make.drop_path(drop_path)
        self.downsample = make.shortcut(in_chs, width, stride, norm=False)
        self.projects = isinstance(self.downsample, nn.Sequential)

    def forward(self, x: Tensor) -> Tensor:
        preact = self.act1(self.bn1(x))
        branch = self.conv2(self.act2(self.bn2(self.conv1(preact))))
        branch = self.drop_path(branch)
        branch += self.downsample(preact if self.projects else x)
        return branch


class PreActBottleneck(nn.Module):
    """1×1, 3×3 (with the stride), 1×1 convolutions to four times the width, each after its norm and activation."""

    expansion = 4
    last = 'conv3'

    def __init__(self, in_chs: int, width: int, stride: int, drop_path: float, make: LayerMaker) -> None:
        super().__init__()
        self.bn1 = make.norm(in_chs)
        self.act1 = make.act(inplace=False)  # as above
        self.conv1 = make.conv1x1(in_chs, width)
        self.bn2 = make.norm(width)
        self.act2 = make.act()
        self.conv2 = make.conv3x3(width, width, stride)
        self.bn3 = make.norm(width)
        self.act3 = make.act()
        self.conv3 = make.conv1x1(width, 4 * width)
        self.drop_path = make.drop_path(drop_path)
        self.downsample = make.shortcut(in_chs, 4 * width, stride, norm=False)
        self.projects = isinstance(self.downsample, nn.Sequential)

    def forward(self, x: Tensor) -> Tensor:
        preact = self.act1(self.bn1(x))
        branch = self.act2(self.bn2(self.conv1(preact)))
        branch = self.conv3(self.act3(self.bn3(self.conv2(branch))))
        branch = self.drop_path(branch)
        branch += self.downsample(preact if self.projects else x)
        return branch


class PreActResNet(ResidualNet):
    """Pre-activation: a bare convolution as stem, `final_norm` after the last block. Arguments: `ResidualNet`.

    The paper's appendix has the final norm. The widely copied CIFAR code of preact_resnet18…152 has none, and so
    have those rows; its users report NaN losses at high learning rates, and `final_norm=True` trains stably.
    """

    blocks: ClassVar[dict[str, Any]] = {'basic': PreActBasicBlock, 'bottleneck': PreActBottleneck}

    def __init__(
        self, block: str, layers: tuple[int, ...], widths: tuple[int, ...], final_norm: bool = True, **kwargs: Any
    ) -> None:
        super().__init__(block, layers, widths, stem_norm=False, final_norm=final_norm, **kwargs)


def _wide_resnet(n: int, k: int, params: int) -> Architecture:
    args = {'stem_width': 16}
    return Architecture('basic', (n, n, n), (16 * k, 32 * k, 64 * k), params, 'https://arxiv.org/abs/1605.07146', args)


_HE = 'https://arxiv.org/abs/1603.05027'
_WIDE = (64, 128, 256, 512)
_THIN = (16, 32, 64)
_NO_NORM = {'final_norm': False}

ARCHITECTURES = {
    'preact_resnet18': Architecture('basic', (2, 2, 2, 2), _WIDE, 11171146, _HE, _NO_NORM),
    'preact_resnet34': Architecture('basic', (3, 4, 6, 3), _WIDE, 21279306, _HE, _NO_NORM),
    'preact_resnet50': Architecture('bottleneck', (3, 4, 6, 3), _WIDE, 23509066, _HE, _NO_NORM),
    'preact_resnet101': Architecture('bottleneck', (3, 4, 23, 3), _WIDE, 42501194, _HE, _NO_NORM),
    'preact_resnet152': Architecture('bottleneck', (3, 8, 36, 3), _WIDE, 58144842, _HE, _NO_NORM),
    'preact_resnet20': Architecture('basic', (3, 3, 3), _THIN, 272282, _HE),
    'preact_resnet32': Architecture('basic', (5, 5, 5), _THIN, 466714, _HE),
    'preact_resnet44': Architecture('basic', (7, 7, 7), _THIN, 661146, _HE),
    'preact_resnet56': Architecture('basic', (9, 9, 9), _THIN, 855578, _HE),
    'preact_resnet110': Architecture('basic', (18, 18, 18), _THIN, 1730522, _HE),
    'preact_resnet1202': Architecture('basic', (200, 200, 200), _THIN, 19423834, _HE),
    'preact_resnet164': Architecture('bottleneck', (18, 18, 18), _THIN, 1703258, _HE),
    'preact_resnet272': Architecture('bottleneck', (30, 30, 30), _THIN, 2816090, _HE),
    'preact_resnet542': Architecture('bottleneck', (60, 60, 60), _THIN, 5598170, _HE),
    'preact_resnet1001': Architecture('bottleneck', (111, 111, 111), _THIN, 10327706, _HE),
    'wide_resnet16_2': _wide_resnet(2, 2, 691674),
    'wide_resnet16_4': _wide_resnet(2, 4, 2748890),
    'wide_resnet16_8': _wide_resnet(2, 8, 10961370),
    'wide_resnet16_10': _wide_resnet(2, 10, 17116634),
    'wide_resnet28_2': _wide_resnet(4, 2, 1467610),
    'wide_resnet28_10': _wide_resnet(4, 10, 36479194),
    'wide_resnet34_10': _wide_resnet(5, 10, 46160474),
    'wide_resnet40_1': _wide_resnet(6, 1, 563930),
    'wide_resnet40_2': _wide_resnet(6, 2, 2243546),
    'wide_resnet40_4': _wide_resnet(6, 4, 8949210),
    'wide_resnet40_8': _wide_resnet(6, 8, 35748314),
}
