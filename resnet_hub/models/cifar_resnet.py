"""ResNet (V1, post-activation) for small images.

He, Zhang, Ren, Sun: Deep Residual Learning for Image Recognition, 2015, https://arxiv.org/abs/1512.03385.
The thin nets are those of its §4.2; the wide ones have the depths and widths of its Table 1 behind a 3×3 stem.
"""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn

from .base import Architecture, LayerMaker, ResidualNet


class BasicBlock(nn.Module):
    """Two 3×3 convolutions, relu(F(x) + shortcut(x)): eq. 1 and 2."""

    expansion = 1
    last = 'bn2'

    def __init__(self, in_chs: int, width: int, stride: int, drop_path: float, make: LayerMaker) -> None:
        super().__init__()
        self.conv1 = make.conv3x3(in_chs, width, stride)
        self.bn1 = make.norm(width)
        self.act1 = make.act()
        self.conv2 = make.conv3x3(width, width)
        self.bn2 = make.norm(width)
        self.drop_path = make.drop_path(drop_path)
        self.downsample = make.shortcut(in_chs, width, stride, norm=True)
        self.act2 = make.act()

    def forward(self, x: Tensor) -> Tensor:
        branch = self.bn2(self.conv2(self.act1(self.bn1(self.conv1(x)))))
        branch = self.drop_path(branch)
        branch += self.downsample(x)  # in place: memory for another map costs a thin net a fifth of its speed
        return self.act2(branch)


class Bottleneck(nn.Module):
    """1×1, 3×3, 1×1 convolutions to four times the width (Figure 5).

    The stride sits on the 3×3 convolution: on the first 1×1 it would discard three quarters of its input.
    """

    expansion = 4
    last = 'bn3'

    def __init__(self, in_chs: int, width: int, stride: int, drop_path: float, make: LayerMaker) -> None:
        super().__init__()
        self.conv1 = make.conv1x1(in_chs, width)
        self.bn1 = make.norm(width)
        self.act1 = make.act()
        self.conv2 = make.conv3x3(width, width, stride)
        self.bn2 = make.norm(width)
        self.act2 = make.act()
        self.conv3 = make.conv1x1(width, 4 * width)
        self.bn3 = make.norm(4 * width)
        self.drop_path = make.drop_path(drop_path)
        self.downsample = make.shortcut(in_chs, 4 * width, stride, norm=True)
        self.act3 = make.act()

    def forward(self, x: Tensor) -> Tensor:
        branch = self.act2(self.bn2(self.conv2(self.act1(self.bn1(self.conv1(x))))))
        branch = self.bn3(self.conv3(branch))
        branch = self.drop_path(branch)
        branch += self.downsample(x)
        return self.act3(branch)


class CifarResNet(ResidualNet):
    """Post-activation: norm and activation after the stem, none after the last block. Arguments: `ResidualNet`."""

    blocks: ClassVar[dict[str, Any]] = {'basic': BasicBlock, 'bottleneck': Bottleneck}

    def __init__(self, block: str, layers: tuple[int, ...], widths: tuple[int, ...], **kwargs: Any) -> None:
        super().__init__(block, layers, widths, stem_norm=True, final_norm=False, **kwargs)


_HE = 'https://arxiv.org/abs/1512.03385'
_TIAN = 'https://arxiv.org/abs/1910.10699'  # distillation: four times the thin widths behind a stem of 32
_WIDE = (64, 128, 256, 512)
_THIN = (16, 32, 64)

ARCHITECTURES = {
    'cifar_resnet18': Architecture('basic', (2, 2, 2, 2), _WIDE, 11173962, _HE),
    'cifar_resnet34': Architecture('basic', (3, 4, 6, 3), _WIDE, 21282122, _HE),
    'cifar_resnet50': Architecture('bottleneck', (3, 4, 6, 3), _WIDE, 23520842, _HE),
    'cifar_resnet101': Architecture('bottleneck', (3, 4, 23, 3), _WIDE, 42512970, _HE),
    'cifar_resnet152': Architecture('bottleneck', (3, 8, 36, 3), _WIDE, 58156618, _HE),
    'cifar_resnet8': Architecture('basic', (1, 1, 1), _THIN, 78042, _HE),
    'cifar_resnet14': Architecture('basic', (2, 2, 2), _THIN, 175258, _HE),
    'cifar_resnet20': Architecture('basic', (3, 3, 3), _THIN, 272474, _HE),
    'cifar_resnet32': Architecture('basic', (5, 5, 5), _THIN, 466906, _HE),
    'cifar_resnet44': Architecture('basic', (7, 7, 7), _THIN, 661338, _HE),
    'cifar_resnet56': Architecture('basic', (9, 9, 9), _THIN, 855770, _HE),
    'cifar_resnet110': Architecture('basic', (18, 18, 18), _THIN, 1730714, _HE),
    'cifar_resnet1202': Architecture('basic', (200, 200, 200), _THIN, 19424026, _HE),
    'cifar_resnet164': Architecture('bottleneck', (18, 18, 18), _THIN, 1704154, _HE),
    'cifar_resnet272': Architecture('bottleneck', (30, 30, 30), _THIN, 2816986, _HE),
    'cifar_resnet542': Architecture('bottleneck', (60, 60, 60), _THIN, 5599066, _HE),
    'cifar_resnet1001': Architecture('bottleneck', (111, 111, 111), _THIN, 10328602, _HE),
    'cifar_resnet8x4': Architecture('basic', (1, 1, 1), (64, 128, 256), 1210410, _TIAN, {'stem_width': 32}),
    'cifar_resnet32x4': Architecture('basic', (5, 5, 5), (64, 128, 256), 7410730, _TIAN, {'stem_width': 32}),
}
