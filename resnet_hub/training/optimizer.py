"""The optimizer, its learning rate, and the moving average of the weights."""

from __future__ import annotations

import inspect
import math
from collections import defaultdict
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import torch
from timm.optim import (
    Muon,
    create_optimizer_v2,
    get_optimizer_class,
    param_groups_layer_decay,
    param_groups_weight_decay,
)
from timm.optim.muon import get_lr_scale, zeropower_via_newtonschulz
from torch import Tensor, nn

from resnet_hub.training.recipe import Recipe

#: coefficients of the five Newton-Schulz iterations, https://leloykun.github.io/ponder/muon-opt-coeffs/; as in timm
COEFFICIENTS = [
    (4.0848, -6.8946, 2.9270),
    (3.9505, -6.3029, 2.6377),
    (3.7418, -5.5913, 2.3037),
    (2.8769, -3.1427, 1.2046),
    (2.8366, -3.0525, 1.2012),
]

#: options of a parameter group that depend on the device; a checkpoint from another device must not set them
DEVICE_OPTIONS = ('lr', 'fused', 'capturable')


class StackedMuon(Muon):
    """timm's Muon, but it orthogonalises all matrices of one shape at once, in the dtype `dtype`.

    timm's Muon orthogonalises the matrices one by one, always in bfloat16. Here too, the same parameters count as
    matrices, and the update and the state are the same. timm's step still updates all other parameters (norms, biases).

    Args:
        params: see timm's Muon.
        dtype: dtype of the orthogonalisation.
        **options: see timm's Muon.
    """

    def __init__(self, params: Any, *, dtype: torch.dtype, **options: Any) -> None:
        super().__init__(params, **options)
        self.dtype = dtype

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Any:
        for group in self.param_groups:
            same_shape = defaultdict(list)
            for p in group['params']:
                if p.grad is not None and _is_matrix(p):
                    same_shape[p.shape].append(p)
            for params in same_shape.values():
                self._step_matrices(params, group)
        return super().step(closure)

    def _step_matrices(self, params: list[Tensor], group: dict[str, Any]) -> None:
        """Update parameters of one shape, and remove their gradients, so that timm's step skips them."""
        gradients, momentum = [p.grad for p in params if p.grad is not None], group['momentum']
        averages = [self._momentum_of(p) for p in params]
        torch._foreach_lerp_(averages, gradients, 1 - momentum)
        updates = torch._foreach_lerp(gradients, averages, momentum) if group['nesterov'] else averages
        matrices = torch.stack([_to_matrix(update) for update in updates])
        if self.dtype == torch.float32:
            orthogonal = orthogonalise(matrices)
        else:
            orthogonal = zeropower_via_newtonschulz(matrices, len(COEFFICIENTS), COEFFICIENTS, dtype=self.dtype)
        lr = group['lr']
        changes = orthogonal.float() * (-lr * get_lr_scale(orthogonal.shape))
        torch._foreach_mul_(params, 1 - lr * group['weight_decay'])
        torch._foreach_add_(params, [_from_matrix(change, p) for change, p in zip(changes, params, strict=True)])
        for p in params:
            p.grad = None

    def _momentum_of(self, p: Tensor) -> Tensor:
        state = self.state[p]
        if 'momentum_buffer' not in state:
            state['momentum_buffer'] = torch.zeros_like(p)
        return state['momentum_buffer']


def orthogonalise(matrices: Tensor) -> Tensor:
    """Return nearly orthogonal matrices by five Newton-Schulz iterations, as timm's function in float32 does.

    An iteration replaces the matrix X by ZX, with Z = a + bA + cA² and A = XXᵀ. Here only the small square matrix A is
    iterated, and the product of all Z is applied to X at the end. This is 2.7 times as fast for 3×3 convolutions, whose
    X has nine columns for each row. It needs float32: in bfloat16 the errors in A would grow too large.

    Args:
        matrices: float32 (N, rows, columns).
    """
    if matrices.size(-2) > matrices.size(-1):
        return orthogonalise(matrices.mT).mT
    x = matrices / torch.linalg.matrix_norm(matrices, keepdim=True).clamp(min=1e-7)
    gram, product = x @ x.mT, None
    for a, b, c in COEFFICIENTS:
        z = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        z.diagonal(dim1=-2, dim2=-1).add_(a)
        product = z if product is None else z @ product
        gram = z @ gram @ z
    return product @ x


def _is_matrix(p: Tensor) -> bool:
    """Return whether timm's Muon orthogonalises a parameter. It updates the others with AdamW or NAdamW."""
    if p.ndim < 2 or 1 in p.shape[:2]:
        return False
    small, large = sorted(p.flatten(1).shape)
    return small >= 4 and large <= 128 * small


def _to_matrix(weight: Tensor) -> Tensor:
    """Reshape a weight (out, in, …) to a matrix (out, …·in).

    The order of the columns does not change the result of the orthogonalisation. This order is that of channels_last
    memory, so that such a weight is not copied.
    """
    return weight.movedim(1, -1).flatten(1) if weight.ndim > 2 else weight


def _from_matrix(matrix: Tensor, weight: Tensor) -> Tensor:
    """Undo `_to_matrix`: reshape a matrix to the shape of `weight`."""
    return matrix.view_as(weight.movedim(1, -1)).movedim(-1, 1) if weight.ndim > 2 else matrix


def make_optimizer(model: nn.Module, recipe: Recipe, dtype: torch.dtype = torch.float32) -> torch.optim.Optimizer:
    """Make the optimizer of a recipe. Norms and biases get no weight decay.

    On a GPU, if a CUDA graph can record the optimizer's step, the learning rate of every group is a tensor.

    Args:
        model: the network, on its device.
        recipe: names the optimizer, any of timm's. A `layer_decay` below 1 gives earlier layers a lower learning rate.
        dtype: dtype of Muon's orthogonalisation.
    """
    if recipe.layer_decay < 1:
        groups = param_groups_layer_decay(model, recipe.weight_decay, layer_decay=recipe.layer_decay)
    else:
        groups = param_groups_weight_decay(model, recipe.weight_decay)
    options: dict[str, Any] = {'lr': recipe.lr, 'momentum': recipe.momentum}
    on_gpu = next(model.parameters()).device.type == 'cuda'
    if recipe.opt in ('muon', 'nmuon'):
        nesterov = recipe.opt == 'nmuon'
        optimizer: Any = StackedMuon(groups, dtype=dtype, nesterov=nesterov, capturable=on_gpu, **options)
    else:
        known = inspect.signature(get_optimizer_class(recipe.opt, bind_defaults=False)).parameters
        wanted = {
            'fused': not (on_gpu and recipe.opt == 'adagrad'),
            'capturable': on_gpu,
        }  # Adagrad is fused on CPUs only
        options |= {name: True for name in wanted if wanted[name] and name in known}
        optimizer = create_optimizer_v2(groups, recipe.opt, **options)
    if on_gpu and is_capturable(optimizer):
        for group in optimizer.param_groups:
            group['lr'] = torch.tensor(group['lr'], device=group['params'][0].device)
        # PyTorch warns of steps outside a graph; the first three steps are outside
        optimizer._warned_capturable_if_run_uncaptured = True
    return optimizer


def is_capturable(optimizer: torch.optim.Optimizer) -> bool:
    """Return whether a CUDA graph can record the optimizer's step."""
    return any(optimizer.defaults.get(name) for name in ('fused', 'capturable'))


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: Tensor) -> None:
    """Set the learning rate of every group: `rate` times the group's lr_scale, if `layer_decay` gave it one."""
    for group in optimizer.param_groups:
        scaled = rate * group.get('lr_scale', 1.0)
        if isinstance(group['lr'], Tensor):
            group['lr'].copy_(scaled)
        else:
            group['lr'] = scaled.item()


def learning_rate(recipe: Recipe, step: int, steps_per_epoch: int) -> float:
    """Return the learning rate of a step, counted from 0: linear warm-up from 1 % of the peak, then cosine to 0."""
    warm_up, total = recipe.warmup_epochs * steps_per_epoch, recipe.epochs * steps_per_epoch
    if step < warm_up:
        return recipe.lr * (0.01 + 0.99 * step / warm_up)
    return recipe.lr * 0.5 * (1 + math.cos(math.pi * (step - warm_up) / (total - warm_up)))


class Average:
    """The exponential moving average of a network's parameters and running statistics.

    Args:
        model: the network; `module` starts as a copy of it.
    """

    def __init__(self, model: nn.Module) -> None:
        self.module = deepcopy(model).eval().requires_grad_(False)
        pairs = list(zip(self.module.state_dict().values(), model.state_dict().values(), strict=True))
        self.floats = [(mean, value) for mean, value in pairs if value.is_floating_point()]
        self.counters = [(mean, value) for mean, value in pairs if not value.is_floating_point()]

    @torch.no_grad()
    def update(self, share: Tensor) -> None:
        """Move the average towards the present values; `share` is the weight of the present, float32 ()."""
        means, values = map(list, zip(*self.floats, strict=True))
        changes = torch._foreach_sub(values, means)
        torch._foreach_mul_(changes, share)
        torch._foreach_add_(means, changes)
        for mean, value in self.counters:
            mean.copy_(value)


def average_share(decay: float, step: int) -> float:
    """Return the weight of the present values in the average at a step, counted from 0.

    It is 1 - decay, or (step + 1)^(-2/3) in the first steps, where this is larger (the warm-up of timm's ModelEmaV3).
    Otherwise the random weights of the start would dominate the average of a short run.
    """
    return max(1 - decay, (step + 1) ** (-2 / 3))
