"""Pre-activation ResNet (V2) and wide residual nets for small images.

He, Zhang, Ren, Sun: Identity Mappings in Deep Residual Networks, 2016, https://arxiv.org/abs/1603.05027.
Zagoruyko, Komodakis: Wide Residual Networks, 2016, https://arxiv.org/abs/1605.07146.

A projection reads the activated input, which both paths share; an identity, zero-padded or not, carries x itself.
"""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn

from resnet_hub.models.base import LayerMaker, ResidualNet


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
