"""PreActResNet (V2, pre-activation) and wide residual networks for small images.

He, Zhang, Ren, Sun: Identity Mappings in Deep Residual Networks, 2016, https://arxiv.org/abs/1603.05027.
Zagoruyko, Komodakis: Wide Residual Networks, 2016, https://arxiv.org/abs/1605.07146.

A projection shortcut reads the activated input of the block, like the branch. All other shortcuts read the input itself.
"""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn

from resnet_hub.models.base import LayerMaker, ResidualNet, add_shortcut


class PreActBasicBlock(nn.Module):
    """Two 3×3 convolutions, each after a norm and an activation: shortcut(x) + F(x), equation 3."""

    expansion = 1
    last = 'conv2'

    def __init__(self, in_chs: int, width: int, stride: int, drop_path: float, make: LayerMaker) -> None:
        super().__init__()
        self.bn1 = make.norm(in_chs)
        self.act1 = make.act()
        self.conv1 = make.conv3x3(in_chs, width, stride)
        self.bn2 = make.norm(width)
        self.act2 = make.act()
        self.drop = make.drop()  # of wide residual networks, §2.4
        self.conv2 = make.conv3x3(width, width)
        self.drop_path = make.drop_path(drop_path)
        self.downsample = make.shortcut(in_chs, width, stride, norm=False)
        self.projects = isinstance(self.downsample, nn.Sequential)

    def forward(self, x: Tensor) -> Tensor:
        preact = self.act1(self.bn1(x))
        branch = self.conv2(self.drop(self.act2(self.bn2(self.conv1(preact)))))
        branch = self.drop_path(branch)
        return add_shortcut(branch, self.downsample(preact if self.projects else x))


class PreActBottleneck(nn.Module):
    """1×1, 3×3 (with the stride) and 1×1 convolutions, each after a norm and an activation.

    The last convolution has four times the width as output channels.
    """

    expansion = 4
    last = 'conv3'

    def __init__(self, in_chs: int, width: int, stride: int, drop_path: float, make: LayerMaker) -> None:
        super().__init__()
        self.bn1 = make.norm(in_chs)
        self.act1 = make.act()
        self.conv1 = make.conv1x1(in_chs, width)
        self.bn2 = make.norm(width)
        self.act2 = make.act()
        self.drop2 = make.drop()
        self.conv2 = make.conv3x3(width, width, stride)
        self.bn3 = make.norm(width)
        self.act3 = make.act()
        self.drop3 = make.drop()
        self.conv3 = make.conv1x1(width, 4 * width)
        self.drop_path = make.drop_path(drop_path)
        self.downsample = make.shortcut(in_chs, 4 * width, stride, norm=False)
        self.projects = isinstance(self.downsample, nn.Sequential)

    def forward(self, x: Tensor) -> Tensor:
        preact = self.act1(self.bn1(x))
        branch = self.drop2(self.act2(self.bn2(self.conv1(preact))))
        branch = self.conv3(self.drop3(self.act3(self.bn3(self.conv2(branch)))))
        branch = self.drop_path(branch)
        return add_shortcut(branch, self.downsample(preact if self.projects else x))


class PreActResNet(ResidualNet):
    """PreActResNet (V2): the stem is only a convolution, and a norm and an activation follow the last block.

    It maps images, float32 (N, in_chans, H, W), to logits (N, num_classes).

    The paper's appendix has this final norm. The widely used CIFAR code for preact_resnet18 to preact_resnet152 does not
    have it, so that these architectures do not have it by default. Users of this code report NaN losses at high learning
    rates; with `final_norm=True` training is stable.

    Args:
        block: 'basic' or 'bottleneck'.
        layers: number of residual blocks in each stage; three or four stages.
        widths: base width of each stage; a bottleneck's output has four times as many channels.
        final_norm: whether norm and activation follow the last block.
        conv_drop_rate: dropout rate before each convolution of a block except the first, in training only (Zagoruyko and
            Komodakis, §2.4).
        **kwargs: see `ResidualNet`.
    """

    blocks: ClassVar[dict[str, Any]] = {'basic': PreActBasicBlock, 'bottleneck': PreActBottleneck}

    def __init__(
        self,
        block: str,
        layers: tuple[int, ...],
        widths: tuple[int, ...],
        final_norm: bool = True,
        conv_drop_rate: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            block,
            layers,
            widths,
            stem_norm=False,
            final_norm=final_norm,
            conv_drop_rate=conv_drop_rate,
            **kwargs,
        )
