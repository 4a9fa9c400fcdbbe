"""timm's model API: everything that timm asks of a network beyond its forward pass."""

from __future__ import annotations

from typing import Any

import torch
from timm.layers import create_classifier, get_device_dtype
from timm.models import checkpoint_seq
from timm.models._features import feature_take_indices
from torch import Tensor, nn


class TimmModel(nn.Module):
    """A network of conv1, bn1, act1, the stages that `feature_info` lists, norm, act, global_pool, fc."""

    feature_info: list[dict[str, Any]]  #: the stem, then each stage: num_chs, reduction, module
    num_features: int
    grad_checkpointing: bool
    conv1: nn.Module
    bn1: nn.Module
    act1: nn.Module
    layer1: nn.Module
    layer2: nn.Module
    layer3: nn.Module
    layer4: nn.Module  #: absent from a network of three stages
    norm: nn.Module
    act: nn.Module
    global_pool: Any
    fc: nn.Module

    @torch.jit.ignore
    def init_weights(self, zero_init_last: bool = True) -> None:
        """Convolutions from N(0, 2 / fan-out), the last layer of every branch zero; tensors on meta are left alone."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d) and not module.weight.is_meta:
                nn.init.kaiming_normal_(module.weight, mode='fan_out', nonlinearity='relu')
        for module in self.modules():
            last: Any = getattr(module, getattr(module, 'last', ''), None)  # a block names its branch's last layer
            if zero_init_last and getattr(last, 'weight', None) is not None:
                nn.init.zeros_(last.weight)

    @torch.jit.ignore
    def load_state_dict(self, state_dict: Any, strict: bool = True, assign: bool = False) -> Any:
        """As torch's, but a network on the meta device takes the tensors over instead of losing them.

        What the state dict does not cover (a new head) is then initialised on the CPU. Tensors of a safetensors file
        stay mapped to it: replace such a file as a whole, as all that write one here do, not its bytes in place.
        """
        own = self.state_dict()
        if not any(tensor.is_meta for tensor in own.values()):
            return super().load_state_dict(state_dict, strict, assign)
        cast = {k: v.to(own[k].dtype) if k in own else v for k, v in state_dict.items()}
        result = super().load_state_dict(cast, strict, assign=True)
        for module in self.modules():
            if any(t.is_meta for t in [*module.parameters(recurse=False), *module.buffers(recurse=False)]):
                module.to_empty(device='cpu', recurse=False).reset_parameters()  # type: ignore[operator]
        return result

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Parameter groups for layer-wise learning rates: the stem, then each stage (coarse) or block."""
        blocks = r'^layer(\d+)' if coarse else [(r'^layer(\d+)\.(\d+)', None), (r'^norm', (99999,))]
        return {'stem': r'^conv1|^bn1', 'blocks': blocks}

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute each block's activations in the backward pass instead of keeping them."""
        self.grad_checkpointing = enable

    @torch.jit.ignore
    def get_classifier(self) -> nn.Module:
        return self.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the classifier by a fresh one; 0 classes leave the pooled features."""
        self.num_classes = num_classes
        pool = self.global_pool.pool_type if global_pool is None else global_pool
        self.global_pool, self.fc = create_classifier(self.num_features, num_classes, pool, **get_device_dtype(self))
        self.head_hidden_size = self.num_features * self.global_pool.feat_mult()
        self.global_pool.train(self.training)
        self.fc.train(self.training)

    def _stages(self) -> list[nn.Module]:
        return [getattr(self, info['module']) for info in self.feature_info[1:]]

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = 'NCHW',
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Feature maps of the stem (index 0) and the stages (1 …): the last n if `indices` is an int, all if None.

        `norm` applies the final norm and activation to the last stage's map; `stop_early` runs no stage after the
        last one asked for. Returns (features as of `forward_features`, maps), or the maps alone.
        """
        if output_fmt != 'NCHW':
            raise ValueError(f"output_fmt must be 'NCHW', not {output_fmt!r}")
        take, last = feature_take_indices(len(self.feature_info), indices)
        x = self.act1(self.bn1(self.conv1(x)))
        maps = [x]
        for stage in self._stages()[: last if stop_early else None]:
            x = checkpoint_seq(stage, x) if self.grad_checkpointing else stage(x)
            maps.append(x)
        if len(maps) == len(self.feature_info):
            x = self.act(self.norm(x))
            maps[-1] = x if norm else maps[-1]
        intermediates = [maps[i] for i in take]
        return intermediates if intermediates_only else (x, intermediates)

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Drop what the feature maps at `indices` do not need; returns the indices kept."""
        take, last = feature_take_indices(len(self.feature_info), indices)
        pruned = self.feature_info[last + 1 :]
        for info in pruned:
            setattr(self, info['module'], nn.Sequential())
        if prune_norm or pruned:
            self.norm = self.act = nn.Identity()
        if pruned:
            self.num_features = self.head_hidden_size = self.feature_info[last]['num_chs']
        if prune_head or pruned:
            self.reset_classifier(0, '')
        return take
