"""The base class of both families, and what their blocks share: layers and shortcuts."""

# No `from __future__ import annotations` here: TorchScript could not read the types in a torch.fx trace of `forward`.
from collections.abc import Callable
from math import gcd
from typing import Any, ClassVar, NamedTuple

import timm  # noqa: F401 - before its submodules, or a thread that imports timm at the same time may fail
import torch
import torch.nn.functional as F
from timm.layers import DropPath, GroupNorm, calculate_drop_path_rates, create_act_layer, create_classifier
from timm.layers import get_norm_layer as timm_norm_layer
from timm.models import checkpoint_seq
from torch import Tensor, nn

from resnet_hub.models.timm_api import TimmModel


class PadShortcut(nn.Module):
    """The shortcut without parameters, option A of He et al. 2015, §4.2: subsample, then add zero channels.

    Half of the zero channels come before the input's channels, and half after them.
    """

    def __init__(self, in_chs: int, out_chs: int, stride: int) -> None:
        super().__init__()
        if out_chs < in_chs:
            raise ValueError(f"shortcut_type 'A' cannot narrow a stage from {in_chs} to {out_chs} channels; use 'B'")
        before = (out_chs - in_chs) // 2
        self.stride = stride
        self.pad = (0, 0, 0, 0, before, out_chs - in_chs - before)

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, :: self.stride, :: self.stride], self.pad)


class LayerMaker(NamedTuple):
    """Makes the layers of a network. It holds those arguments of the network that determine its layers."""

    shortcut_type: str
    act_layer: Any
    norm_layer: Callable[..., nn.Module]
    dd: dict[str, Any]  #: device and dtype
    conv_drop_rate: float = 0.0

    def conv3x3(self, in_chs: int, out_chs: int, stride: int = 1) -> nn.Module:
        return nn.Conv2d(in_chs, out_chs, 3, stride, padding=1, bias=False, **self.dd)

    def conv1x1(self, in_chs: int, out_chs: int, stride: int = 1) -> nn.Module:
        return nn.Conv2d(in_chs, out_chs, 1, stride, bias=False, **self.dd)

    def norm(self, chs: int) -> nn.Module:
        return self.norm_layer(chs, **self.dd)

    def act(self) -> nn.Module:
        """Make an activation. It does not work in place, because in-place operations break backward hooks."""
        return create_act_layer(self.act_layer)

    def drop(self) -> nn.Module:
        return nn.Dropout(self.conv_drop_rate) if self.conv_drop_rate else nn.Identity()

    def drop_path(self, rate: float) -> nn.Module:
        return DropPath(rate) if rate else nn.Identity()

    def shortcut(self, in_chs: int, out_chs: int, stride: int, norm: bool) -> nn.Module:
        """Make the shortcut of a block.

        If the stride is 1 and the width does not change, it is the identity. Otherwise it is option A, or option B: a 1×1
        convolution, with a norm after it (V1) or without (V2).
        """
        if stride == 1 and in_chs == out_chs:
            return nn.Identity()
        if self.shortcut_type == 'A':
            return PadShortcut(in_chs, out_chs, stride)
        return nn.Sequential(self.conv1x1(in_chs, out_chs, stride), *([self.norm(out_chs)] if norm else []))


def get_norm_layer(norm_layer: Any) -> Callable[..., nn.Module]:
    """Return a function that makes a norm for a number of channels.

    It is timm's function, except for group norm. There the number of groups is the greatest common divisor of 32 and the
    number of channels, because timm's 32 groups do not fit the thin networks.
    """
    layer = timm_norm_layer(norm_layer)
    return _group_norm if layer in (GroupNorm, nn.GroupNorm) else layer


def _group_norm(chs: int, **dd: Any) -> nn.Module:
    return GroupNorm(chs, gcd(32, chs), **dd)


def add_shortcut(branch: Tensor, shortcut: Tensor) -> Tensor:
    """Return branch + shortcut, both (N, C, H, W).

    Without gradients the sum is written into `branch`, which makes thin networks a fifth faster. With gradients this is
    not possible: a full backward hook turns the output of a module into a view that PyTorch does not let us change.
    torch.jit checks a trace without gradients and needs the same operations, so that tracing does not change `branch`
    either.
    """
    if torch.is_grad_enabled() or torch.jit.is_tracing():
        return branch + shortcut
    return branch.add_(shortcut)


class ResidualNet(TimmModel):
    """A 3×3 stem, three or four stages of residual blocks, global pooling and a linear classifier.

    The first stage has stride 1, the others have stride 2. The network maps images (N, in_chans, H, W), H and W at least 8, to
    logits (N, num_classes).

    Args:
        block: 'basic' or 'bottleneck'.
        layers: number of residual blocks in each stage; three or four stages.
        widths: base width of each stage; a bottleneck's output has four times as many channels.
        stem_width: output channels of the stem; None takes `widths[0]`.
        num_classes: number of classes; 0 gives the pooled features (N, C).
        in_chans: channels of the images.
        global_pool: any pooling of timm; '' together with num_classes=0 gives the feature map (N, C, H, W).
        drop_rate: dropout rate before the classifier.
        drop_path_rate: stochastic depth rate of the last block; it grows linearly from 0 at the first block.
        act_layer: any activation of timm, by name or as a class.
        norm_layer: any norm of timm, by name or as a class.
        shortcut_type: shortcut of blocks that change the shape: 'B', 1×1 convolution, or 'A', zero padding.
        zero_init_last: initialise the last layer of every residual branch to zero.
        conv_drop_rate: dropout rate between the convolutions of a block. Only `PreActResNet` has this argument.
        stem_norm: whether norm and activation follow the stem. Each family sets it.
        final_norm: whether norm and activation follow the last block. Only `PreActResNet` has this argument.
        device: device of the parameters.
        dtype: dtype of the parameters.

    Raises:
        ValueError: an unknown block or shortcut type, or layers and widths that do not fit each other.
    """

    blocks: ClassVar[dict[str, Any]]

    def __init__(
        self,
        block: str,
        layers: tuple[int, ...],
        widths: tuple[int, ...],
        stem_width: int | None = None,
        num_classes: int = 10,
        in_chans: int = 3,
        global_pool: str = 'avg',
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        act_layer: str | type[nn.Module] = nn.ReLU,
        norm_layer: str | type[nn.Module] = nn.BatchNorm2d,
        shortcut_type: str = 'B',
        zero_init_last: bool = True,
        conv_drop_rate: float = 0.0,
        stem_norm: bool = True,
        final_norm: bool = False,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if block not in self.blocks:
            raise ValueError(f'block must be one of {", ".join(map(repr, self.blocks))}, not {block!r}')
        if shortcut_type not in ('A', 'B'):
            raise ValueError(f"shortcut_type must be 'A' or 'B', not {shortcut_type!r}")
        if len(layers) != len(widths) or len(layers) not in (3, 4) or min(layers) < 1:
            raise ValueError(
                'layers and widths must be of three or four stages with at least one block each, '
                f'not layers={layers}, widths={widths}'
            )
        dd = {'device': device, 'dtype': dtype}
        make = LayerMaker(shortcut_type, act_layer, get_norm_layer(norm_layer), dd, conv_drop_rate)
        chs = stem_width or widths[0]
        self.num_classes, self.in_chans, self.drop_rate = num_classes, in_chans, drop_rate
        self.grad_checkpointing = False

        self.conv1 = make.conv3x3(in_chans, chs)
        self.bn1 = make.norm(chs) if stem_norm else nn.Identity()
        self.act1 = make.act() if stem_norm else nn.Identity()
        self.feature_info = [{'num_chs': chs, 'reduction': 1, 'module': 'act1'}]
        drop_paths = iter(calculate_drop_path_rates(drop_path_rate, sum(layers)))
        for i, width in enumerate(widths):
            stage = nn.Sequential()
            for j in range(layers[i]):
                stride = 2 if i > 0 and j == 0 else 1
                stage.append(self.blocks[block](chs, width, stride, next(drop_paths), make))
                chs = width * self.blocks[block].expansion
            self.add_module(f'layer{i + 1}', stage)
            self.feature_info.append({'num_chs': chs, 'reduction': 2**i, 'module': f'layer{i + 1}'})
        self.norm = make.norm(chs) if final_norm else nn.Identity()
        self.act = make.act() if final_norm else nn.Identity()
        self.num_features = chs
        self.global_pool, self.fc = create_classifier(chs, num_classes, global_pool, **make.dd)
        self.head_hidden_size = chs * self.global_pool.feat_mult()
        self.init_weights(zero_init_last)

    def forward_features(self, x: Tensor) -> Tensor:
        """Return the last feature map (N, C, H, W) of images (N, in_chans, H, W), after the final norm if it exists."""
        x = self.conv1(x)
        x = self.act1(
            self.bn1(x)
        )  # a separate line keeps the feature map longer, which saves page faults, 10 % of time
        if self.grad_checkpointing and not torch.jit.is_scripting():
            x = checkpoint_seq(self._stages(), x, flatten=True)
        else:
            x = self.layer1(x)
            x = self.layer2(x)
            x = self.layer3(x)
            if hasattr(self, 'layer4'):  # TorchScript evaluates this when it compiles; it cannot loop over names
                x = self.layer4(x)
        return self.act(self.norm(x))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Return the logits (N, num_classes) of a feature map, or with `pre_logits` its pooled features (N, C)."""
        x = F.dropout(self.global_pool(x), self.drop_rate, self.training)
        return x if pre_logits else self.fc(x)

    def forward(self, x: Tensor) -> Tensor:  # no docstring, because torch.fx would keep it, and TorchScript would fail
        return self.forward_head(self.forward_features(x))
