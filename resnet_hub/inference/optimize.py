"""Networks that only infer: the same logits, sooner."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, fx, nn

from resnet_hub.runtimes.exported import ExportedNetwork
from resnet_hub.utils.errors import InputError, ResnetHubError


class InferenceModel(nn.Module):
    """A network that cannot be trained; what else it has (`num_classes`, `pretrained_cfg`, …) is that of `model`.

    Called as `model` is. No gradients are kept.
    """

    def __init__(self, model: nn.Module, dtype: torch.dtype | None = None, compile: bool = False) -> None:
        super().__init__()
        self.model = model.requires_grad_(False)
        self.dtype = dtype
        # of each code object PyTorch keeps eight compilations; a trace has its own, the networks of a class share theirs
        self.compiled = torch.compile(_trace(model).forward) if compile else None
        self.eval()

    def forward(self, x: Tensor) -> Any:
        x = x.contiguous(memory_format=torch.channels_last)
        with ExitStack() as stack:
            stack.enter_context(torch.no_grad())
            if self.dtype:
                stack.enter_context(torch.autocast(x.device.type, self.dtype))
            if self.compiled:  # read when the network is traced: an option of torch.compile would come too late
                stack.enter_context(torch._inductor.config.patch(freezing=True))
            return (self.compiled or self.model)(x)

    def train(self, mode: bool = True) -> InferenceModel:
        """Only `train(False)`, which `eval()` calls.

        Raises:
            ResnetHubError: `mode` is true.
        """
        if mode:
            raise ResnetHubError('an optimised network only infers: train the one that optimize() was given')
        return super().train(False)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__('model'), name)


def optimize(
    model: nn.Module, example: Tensor | None = None, compile: bool = False, dtype: torch.dtype | None = None
) -> InferenceModel:
    """A network that only infers, with the same logits; `model` stays as it is, and shares no tensor with the result.

    Norms are folded into the convolutions before them, where nothing else reads what the convolution gives: all norms
    of a V1 net; of a V2 net all but those that read a block's input, and the final one. Weights are in channels_last
    order, and so is then everything after the first convolution, whatever the order of the input.

    Args:
        model: any network that torch.fx can trace, or its `features_only` form, on any device.
        example: an input (N, C, H, W) to run once, so that compilation is done on return, not at the first call.
        compile: torch.compile the network with its weights as constants. It takes seconds to minutes, at the first
            call, and again at a second batch size (which then serves others too), for a single image, and for tensors
            made in inference mode. Do not change the weights after that.
        dtype: torch.bfloat16 or torch.float16: convolutions and the classifier in it, under autocast (logits come in
            it too; for processors see `torch.cpu._is_avx512_bf16_supported`). None: as the model is.

    Raises:
        InputError: torch.fx cannot trace the network, or it calls a convolution before a norm twice; another dtype.
        ResnetHubError: torch.compile does not work on this machine.
    """
    if dtype not in (None, torch.bfloat16, torch.float16):
        raise InputError(f'dtype must be torch.bfloat16, torch.float16 or None, not {dtype}')
    if isinstance(model, ExportedNetwork):
        raise InputError('an exported network runs as it is: optimize the network that was exported')
    if compile:
        check_compiler(next(model.parameters()).device)
    model = _fold_norms(copy.deepcopy(model)).to(memory_format=torch.channels_last)
    if dtype:
        for module in model.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                module.to(dtype)  # once, where autocast alone would do it at every call
    fast = InferenceModel(model, dtype, compile)
    if example is not None:
        fast(example)
    return fast


class _Tracer(fx.Tracer):
    """Looks no deeper than to the convolutions, so that norms and activations may do what fx cannot follow."""

    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        return super().is_leaf_module(module, name) or not any(isinstance(m, nn.Conv2d) for m in module.modules())


def _trace(model: nn.Module) -> fx.GraphModule:
    """The calls of `forward`, of the same modules.

    Raises:
        InputError: fx cannot follow it.
    """
    try:
        return fx.GraphModule(model, _Tracer().trace(model))
    except Exception as error:  # of any kind, from wherever tracing led
        raise InputError(f'torch.fx cannot trace {type(model).__name__}: {" ".join(str(error).split())}') from error


@torch.no_grad()
def _fold_norms(model: nn.Module) -> nn.Module:
    """Put the convolutions of PyTorch's fusion in place of the model's own, and identities in place of their norms.

    Raises:
        InputError: fx cannot follow it, or half of such a pair is called twice, which the fusion would get wrong.
    """
    from torch.fx.experimental.optimization import fuse

    model.eval()
    checkpointing: Any = getattr(model, 'set_grad_checkpointing', None)
    if checkpointing:
        checkpointing(False)
    dtype = next(model.parameters()).dtype
    model.to(torch.promote_types(dtype, torch.float32))  # halves are rounded once, after the fusion
    traced = _trace(model)
    names = Counter(node.target for node in traced.graph.nodes if node.op == 'call_module')
    for pair in _folded(traced):
        shared = next((name for name in pair if names[name] > 1), None)
        if shared:
            raise InputError(f'{shared} is called more than once: {pair[1]} cannot be folded into {pair[0]}')
    left = dict(fuse(traced, inplace=True, no_trace=True).named_modules())
    for name in names:
        model.set_submodule(name, left.get(name, nn.Identity()))
    return model.to(dtype)


def _folded(traced: fx.GraphModule) -> Iterator[tuple[str, str]]:
    """The convolutions, by name, that a norm follows, and these norms."""
    modules = dict(traced.named_modules())
    for node in traced.graph.nodes:
        before = node.args[0] if node.args else None
        if node.op == 'call_module' and isinstance(before, fx.Node) and before.op == 'call_module':
            conv, norm = str(before.target), str(node.target)
            if isinstance(modules.get(conv), nn.Conv2d) and isinstance(modules.get(norm), nn.BatchNorm2d):
                yield conv, norm


def _negative(x: Tensor) -> Tensor:
    return -x


def check_compiler(device: torch.device) -> None:
    """Compile next to nothing, so that a machine without a (working) compiler is found out here.

    Raises:
        ResnetHubError: torch.compile does not work.
    """
    try:
        torch.compile(_negative)(torch.ones(1, device=device))
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[0]
        raise ResnetHubError(
            f'torch.compile does not work here ({reason}): install a C++ compiler, or leave out compile'
        ) from error
