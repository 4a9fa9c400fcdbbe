"""Networks that only infer: the same logits, sooner."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from resnet_hub.registry import as_model
from resnet_hub.runtimes.exported import ExportedNetwork
from resnet_hub.utils.errors import InputError, ResnetHubError


class InferenceModel(nn.Module):
    """A network that only infers, as `optimize` returns it.

    It is called as `model` is, records no gradients, and returns logits (N, num_classes) in float32 whatever type it
    computes in. Its other attributes (`num_classes`, `pretrained_cfg`, …) are those of `model`.

    Args:
        model: the network; it must not be used elsewhere.
        dtype: type to compute in, under autocast; None: that of the model, which is then also that of the logits.
        compile: compile it with its weights as constants.
        run: what computes the logits in the place of `model`: a network converted for another runtime.
    """

    def __init__(
        self,
        model: nn.Module,
        dtype: torch.dtype | None = None,
        compile: bool = False,
        run: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.model = model.requires_grad_(False)
        self.dtype = dtype
        self.run = run
        # PyTorch keeps eight compilations of each code object. A trace has its own code object, while all networks of
        # one class share that of the class.
        self.compiled = torch.compile(_trace(model).forward) if compile else None
        self.eval()

    def forward(self, x: Tensor) -> Any:
        if self.run:
            return self.run(x)
        x = x.contiguous(memory_format=torch.channels_last)
        with ExitStack() as stack:
            stack.enter_context(torch.no_grad())
            if self.dtype:
                stack.enter_context(torch.autocast(x.device.type, self.dtype))
            if self.compiled:  # PyTorch reads this when it traces the network; an option of torch.compile is too late
                stack.enter_context(torch._inductor.config.patch(freezing=True))
            out = (self.compiled or self.model)(x)
        return out.float() if self.dtype and isinstance(out, Tensor) else out

    def train(self, mode: bool = True) -> InferenceModel:
        """Do nothing, for `train(False)`, which `eval()` calls.

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
    model: nn.Module | str,
    example: Tensor | None = None,
    compile: bool = False,
    dtype: torch.dtype | None = None,
    backend: str | None = None,
    int8: Tensor | None = None,
) -> InferenceModel:
    """Return a network that only infers and gives the same logits, sooner.

    `model` stays as it is and shares no tensor with the result. A norm is folded into the convolution before it where
    nothing else reads what this convolution gives. In a V1 network these are all norms; in a V2 network the final norm
    stays and so do the norms that read the input of a block. Weights are in channels_last order, and so are all feature
    maps, whatever the order of the input.

    Logits are float32 also with `dtype`. Compute probabilities from them, better in float64: in bfloat16 most
    confident probabilities round to 1.

    Args:
        model: a network that torch.fx can trace, on any device; or a name that `load_model` takes. Networks made with
            `features_only` are fine too; their feature maps come in `dtype`.
        example: an input (N, C, H, W) to run once, so that compilation happens here and not at the first call.
        compile: compile the network, with its weights as constants, by torch.compile. This takes seconds to minutes at
            the first call. It happens again at a second batch size (which then serves others too), for a single image,
            and for tensors made in inference mode. Do not change the weights after that.
        dtype: torch.bfloat16 or torch.float16, for the convolutions and the classifier, under autocast. Processors are
            fast in bfloat16 if `torch.cpu.get_capabilities()` has 'avx512_bf16'. None: the type of the model.
        backend: 'openvino' lets OpenVINO compute, in float32 or int8, on the processor; it needs the extra `export`.
            None: PyTorch computes.
        int8: images as the network takes them, float32 (N, C, H, W), 300 for example, which set the ranges of the
            activations: compute with 8-bit integers. Logits then differ a little, and so does up to 1 % of the
            predictions. Do not take test images. Needs `backend`.

    Raises:
        InputError: torch.fx cannot trace the network; a norm to fold, or the convolution before it, is called twice;
            another dtype or backend; options that do not go together; or `model` is neither a network nor a known name.
        ResnetHubError: torch.compile does not work on this machine.
        MissingExtraError: the packages of the backend are not installed.
    """
    if backend not in (None, 'openvino'):
        raise InputError(f"backend must be 'openvino' or None, not {backend!r}")
    if backend and (compile or dtype):
        raise InputError(f'the backend {backend} compiles the network itself: leave out compile and dtype')
    if int8 is not None and not backend:
        raise InputError("int8 needs backend='openvino'")
    if dtype not in (None, torch.bfloat16, torch.float16):
        raise InputError(f'dtype must be torch.bfloat16, torch.float16 or None, not {dtype}')
    model = as_model(model)
    if isinstance(model, ExportedNetwork):
        raise InputError('an exported network runs as it is: optimize the network that was exported')
    if compile:
        check_compiler(next(model.parameters()).device)
    model = _fold_norms(copy.deepcopy(model)).to(memory_format=torch.channels_last)
    if dtype:
        for module in model.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                module.to(dtype)  # once; autocast alone would do it at every call
    fast = InferenceModel(model, dtype, compile, _convert(model, example, int8) if backend else None)
    if example is not None:
        fast(example)
    return fast


def _convert(model: nn.Module, example: Tensor | None, int8: Tensor | None) -> Callable[[Tensor], Tensor]:
    """Return a function that computes the logits of a folded network with OpenVINO, for images of one size."""
    from resnet_hub.inference import openvino
    from resnet_hub.runtimes.openvino import compile_model

    like = int8 if int8 is not None else example
    cfg: Any = getattr(model, 'pretrained_cfg', {})
    if like is None and 'input_size' not in cfg:
        raise InputError('the network does not say which size its images have: give example')
    size = cfg['input_size'][1:] if like is None else like.shape[2:]
    channels = getattr(model, 'in_chans', 3) if like is None else like.shape[1]
    model = model.to(memory_format=torch.contiguous_format)
    return compile_model(openvino.convert(model, (-1, channels, *size), int8))


class _Tracer(fx.Tracer):
    """Traces down to the convolutions and no deeper, so that norms and activations may do what fx cannot follow."""

    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        return super().is_leaf_module(module, name) or not any(isinstance(m, nn.Conv2d) for m in module.modules())


def _trace(model: nn.Module) -> fx.GraphModule:
    """Return the calls that `forward` makes, with the modules of the model.

    Raises:
        InputError: torch.fx cannot follow it.
    """
    try:
        return fx.GraphModule(model, _Tracer().trace(model))
    except Exception as error:  # of any kind: fx runs the network's own code with stand-ins for tensors
        raise InputError(f'torch.fx cannot trace {type(model).__name__}: {" ".join(str(error).split())}') from error


@torch.no_grad()
def _fold_norms(model: nn.Module) -> nn.Module:
    """Fold norms into the convolutions before them, in place, and put identities in their place.

    Raises:
        InputError: torch.fx cannot follow it, or one of such a pair is called more than once.
    """
    model.eval()
    checkpointing: Any = getattr(model, 'set_grad_checkpointing', None)
    if checkpointing:
        checkpointing(False)
    dtype = next(model.parameters()).dtype
    model.to(torch.promote_types(dtype, torch.float32))  # so that half precision is rounded once, at the end
    traced = _trace(model)
    calls = Counter(node.target for node in traced.graph.nodes if node.op == 'call_module')
    for conv, norm in _pairs(traced):
        shared = next((name for name in (conv, norm) if calls[name] > 1), None)
        if shared:
            raise InputError(f'{shared} is called more than once: {norm} cannot be folded into {conv}')
        fused = fuse_conv_bn_eval(model.get_submodule(conv), model.get_submodule(norm))  # type: ignore[type-var, arg-type]
        model.set_submodule(conv, fused)
        model.set_submodule(norm, nn.Identity())
    return model.to(dtype)


def _pairs(traced: fx.GraphModule) -> Iterator[tuple[str, str]]:
    """Yield the names of each convolution whose output only a norm reads, and of that norm.

    Subclasses are left out, since they may compute something else than their base.
    """
    modules = dict(traced.named_modules())
    for node in traced.graph.nodes:
        before = node.args[0] if node.args else None
        if node.op == 'call_module' and isinstance(before, fx.Node) and before.op == 'call_module':
            conv, norm = modules[str(before.target)], modules[str(node.target)]
            kinds = type(conv) is nn.Conv2d and type(norm) is nn.BatchNorm2d and norm.track_running_stats
            if kinds and len(before.users) == 1:
                yield str(before.target), str(node.target)


def _negative(x: Tensor) -> Tensor:
    return -x


def check_compiler(device: torch.device) -> None:
    """Check that torch.compile works on this machine, by compiling a negation.

    Raises:
        ResnetHubError: it does not.
    """
    try:
        torch.compile(_negative)(torch.ones(1, device=device))
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[0]
        raise ResnetHubError(
            f'torch.compile does not work here ({reason}): install a C++ compiler, or leave out compile'
        ) from error
