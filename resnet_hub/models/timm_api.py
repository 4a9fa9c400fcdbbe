"""The methods and attributes, besides the forward pass, that timm expects of a network.

This module imports from private modules of timm the functions that `timm.models` does not export.
"""

from __future__ import annotations

from typing import Any

import torch
from timm.layers import create_classifier, get_device_dtype
from timm.models import checkpoint_seq
from timm.models._features import feature_take_indices
from timm.models._input import update_model_args as update_model_args
from torch import Tensor, nn


class TimmModel(nn.Module):
    """A network with the modules conv1, bn1, act1, the stages in `feature_info`, norm, act, global_pool and fc."""

    feature_info: list[dict[str, Any]]  #: the stem, then each stage: num_chs, reduction, module
    num_features: int
    grad_checkpointing: bool
    conv1: nn.Module
    bn1: nn.Module
    act1: nn.Module
    layer1: nn.Module
    layer2: nn.Module
    layer3: nn.Module
    layer4: nn.Module  #: missing in a network with three stages
    norm: nn.Module
    act: nn.Module
    global_pool: Any
    fc: nn.Module

    @torch.jit.ignore
    def init_weights(self, zero_init_last: bool = True) -> None:
        """Initialise the convolutions from N(0, 2 / fan-out), and the last layer of every branch to zero.

        The variance 2 / fan-out is that of He et al. 2015, https://arxiv.org/abs/1502.01852. Convolutions on the meta
        device are not initialised.
        """
        for module in self.modules():
            if isinstance(module, nn.Conv2d) and not module.weight.is_meta:
                nn.init.kaiming_normal_(module.weight, mode='fan_out', nonlinearity='relu')
        for module in self.modules():
            last: Any = getattr(module, getattr(module, 'last', ''), None)  # block.last is the name of its last layer
            if zero_init_last and getattr(last, 'weight', None) is not None:
                nn.init.zeros_(last.weight)

    @torch.jit.ignore
    def load_state_dict(self, state_dict: Any, strict: bool = True, assign: bool = False) -> Any:
        """Load a state dict like PyTorch. A network on the meta device uses the given tensors as its parameters.

        Modules that are not in the state dict (a new classifier) are then initialised on the CPU. Tensors from a
        safetensors file stay mapped to the file: replace the file as a whole, and do not change its bytes in place.
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
        """Return the patterns of timm's parameter groups, which layer-wise learning rates use.

        Args:
            coarse: make one group for each stage, not for each block.
        """
        blocks = r'^layer(\d+)' if coarse else [(r'^layer(\d+)\.(\d+)', None), (r'^norm', (99999,))]
        return {'stem': r'^conv1|^bn1', 'blocks': blocks}

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Turn gradient checkpointing on or off. It saves memory, because the backward pass recomputes activations."""
        self.grad_checkpointing = enable

    @torch.jit.ignore
    def get_classifier(self) -> nn.Module:
        """Return the classifier; an identity if there is none."""
        return self.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the classifier by a new one.

        Args:
            num_classes: number of classes; 0 gives the pooled features.
            global_pool: any pooling of timm; None keeps the present one.
        """
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
        """Return feature maps (N, C, H, W) of the stem and of the stages.

        Args:
            x: images (N, in_chans, H, W).
            indices: which maps to return: 0 is that of the stem, 1 that of the first stage; negative indices count from
                the end. An int n stands for the last n maps, None for all.
            norm: apply the final norm and activation to the map of the last stage.
            stop_early: do not run the stages after the last map in `indices`.
            output_fmt: only 'NCHW'.
            intermediates_only: return only the list of maps.

        Returns:
            The result of `forward_features`, and the list of maps.
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
        """Remove the modules that the feature maps at `indices` do not need.

        Args:
            indices: see `forward_intermediates`.
            prune_norm: remove the final norm, even if the last stage is kept.
            prune_head: remove the classifier, even if the last stage is kept.

        Returns:
            The indices, counted from the start.
        """
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
