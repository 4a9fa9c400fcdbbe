"""ResNet (V1, post-activation) for small images.

He, Zhang, Ren, Sun: Deep Residual Learning for Image Recognition, 2015, https://arxiv.org/abs/1512.03385.
The thin networks come from §4.2 of this paper. The wide ones have the depths and widths of its Table 1 and a 3×3 stem.
"""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn

from resnet_hub.models.base import LayerMaker, ResidualNet, add_shortcut


class BasicBlock(nn.Module):
    """Two 3×3 convolutions: relu(F(x) + shortcut(x)), equations 1 and 2."""

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
        branch = self.act1(self.bn1(self.conv1(x)))
        branch = self.bn2(self.conv2(branch))
        branch = add_shortcut(self.drop_path(branch), self.downsample(x))
        return self.act2(branch)


class Bottleneck(nn.Module):
    """1×1, 3×3 and 1×1 convolutions; the last one has four times the width as output channels (Figure 5).

    The 3×3 convolution has the stride. A stride in the first 1×1 convolution would discard three quarters of the input.
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
        return self.act3(add_shortcut(branch, self.downsample(x)))


class CifarResNet(ResidualNet):
    """ResNet (V1): a norm and an activation follow the stem, but not the last block.

    It maps images, float32 (N, in_chans, H, W), to logits (N, num_classes). The arguments are those of `ResidualNet`,
    without `stem_norm`, `final_norm` and `conv_drop_rate`.

    Args:
        block: 'basic' or 'bottleneck'.
        layers: number of residual blocks in each stage; three or four stages.
        widths: base width of each stage; a bottleneck's output has four times as many channels.
        **kwargs: see `ResidualNet`.
    """

    blocks: ClassVar[dict[str, Any]] = {'basic': BasicBlock, 'bottleneck': Bottleneck}

    def __init__(self, block: str, layers: tuple[int, ...], widths: tuple[int, ...], **kwargs: Any) -> None:
        for name in ('final_norm', 'conv_drop_rate'):
            if name in kwargs:
                raise TypeError(f'a ResNet (V1) has no argument {name!r}; only PreActResNets have it')
        super().__init__(block, layers, widths, stem_norm=True, final_norm=False, conv_drop_rate=0.0, **kwargs)
