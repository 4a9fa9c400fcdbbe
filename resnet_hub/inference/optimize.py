"""Make networks for inference only: the same logits in less time."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from resnet_hub.registry.loading import as_model
from resnet_hub.runtimes.exported import ExportedNetwork
from resnet_hub.utils.errors import InputError, ResnetHubError

CALIBRATION_IMAGES = 300  #: number of training images that set the ranges of the activations for int8


class InferenceModel(nn.Module):
    """A network for inference only, as `optimize` returns it.

    Call it like `model`, with images (N, C, H, W). It records no gradients. Its other attributes (`num_classes`,
    `pretrained_cfg`, …) are those of `model`.

    Args:
        model: the network. It must not be used elsewhere.
        dtype: the dtype of the computation, under autocast; the logits (N, num_classes) are then float32. None computes
            in the dtype of the model, and returns logits of this dtype.
        graph: a graph that computes what `model` does. It is compiled, with its weights as constants, and runs in place
            of `model`.
        run: a function that computes the logits in place of `model`: a network converted for another runtime.
    """

    def __init__(
        self,
        model: nn.Module,
        dtype: torch.dtype | None = None,
        graph: fx.GraphModule | None = None,
        run: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.model = model.requires_grad_(False)
        self.dtype = dtype
        self.run = run
        # PyTorch keeps eight compilations of each code object. A graph has its own code object, while all networks of
        # one class share that of the class.
        self.compiled = torch.compile(graph.forward) if graph else None
        self.eval()

    def forward(self, x: Tensor) -> Any:
        if self.run:
            return self.run(x)
        x = x.contiguous(memory_format=torch.channels_last)
        with ExitStack() as stack:
            stack.enter_context(torch.no_grad())
            if self.dtype:
                stack.enter_context(torch.autocast(x.device.type, self.dtype))
            if self.compiled:  # PyTorch reads this when it traces the network; options of torch.compile come too late
                stack.enter_context(torch._inductor.config.patch(freezing=True))
            out = (self.compiled or self.model)(x)
        return out.float() if self.dtype and isinstance(out, Tensor) else out

    def train(self, mode: bool = True) -> InferenceModel:
        """Stay in evaluation mode. `eval()` calls `train(False)`.

        Raises:
            ResnetHubError: `mode` is true.
        """
        if mode:
            raise ResnetHubError('an optimised network cannot be trained: train the network that optimize() was given')
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
    """Return a faster copy of a network, for inference only. It gives the same logits.

    `model` does not change and shares no tensor with the result. A norm is folded into the convolution before it if
    only this norm reads the output of the convolution. In a V1 network this applies to all norms. In a V2 network the
    final norm stays, and so do the norms that read the input of a block. Weights and feature maps are in channels_last
    order, whatever the order of the input.

    With `dtype` the logits are float32 too. Compute probabilities from them in float32 or float64: in bfloat16 most
    high probabilities round to 1.

    Args:
        model: a network that torch.fx can trace, on any device; or its name, see `load_model`. A network made with
            `features_only` works too; its feature maps are in `dtype`.
        example: an input (N, C, H, W). It is run once, so that compilation happens here and not at the first call.
        compile: compile the network with torch.compile, with its weights as constants. The first call then takes
            seconds to minutes. A second batch size compiles again (and covers other sizes), and so do a single image
            and tensors made in inference mode. Do not change the weights afterwards.
        dtype: torch.bfloat16 or torch.float16, for the convolutions and the classifier, under autocast. A CPU is
            fast in bfloat16 if `torch.cpu.get_capabilities()` has 'avx512_bf16'. None keeps the dtype of the model.
            With OpenVINO, torch.bfloat16 computes the whole network in bfloat16 on such a CPU, and in float32 on others;
            torch.float16 is not possible.
        backend: 'openvino' computes with OpenVINO on the CPU, in float32, bfloat16 or int8. None computes with PyTorch.
        int8: compute with 8-bit integers, and take their ranges from these images: float32 (N, C, H, W), preprocessed
            for the network, for example 300 training images, never test images. The logits then differ a little, and
            up to 1 % of the predictions of a network for 10 classes change. Without `backend`, torchao quantises the
            network for x86 CPUs and torch.compile compiles it, see `compile`. Both ways need the extra `export`.

    Returns:
        The network, in evaluation mode.

    Raises:
        InputError: torch.fx cannot trace the network; the network calls a norm that is to be folded, or the convolution
            before it, twice; `dtype` or `backend` is unknown; options contradict each other; int8 is asked of PyTorch on
            a GPU; or `model` is neither a network nor a known name.
        ResnetHubError: torch.compile does not work on this machine.
        MissingExtraError: the packages of the backend are not installed.
    """
    if backend not in (None, 'openvino'):
        raise InputError(f"backend must be 'openvino' or None, not {backend!r}")
    if dtype not in (None, torch.bfloat16, torch.float16):
        raise InputError(f'dtype must be torch.bfloat16, torch.float16 or None, not {dtype}')
    if backend and compile:
        raise InputError(f'the backend {backend} compiles the network itself: leave out compile')
    if backend and dtype is torch.float16:
        raise InputError(f'the backend {backend} computes in float32 or torch.bfloat16: use one of them')
    if int8 is not None and dtype and not backend:
        raise InputError(f"int8 and {dtype} contradict each other: leave out one of them, or use backend='openvino'")
    model = as_model(model)
    if isinstance(model, ExportedNetwork):
        raise InputError('an exported network cannot be optimised: optimize the network from which it was exported')
    device = next(model.parameters()).device
    if int8 is not None and not backend and device.type != 'cpu':
        raise InputError(f'PyTorch computes in int8 on a CPU only, and the network is on {device}: move it to the CPU')
    if compile or (int8 is not None and not backend):
        check_compiler(device)
    model = _fold_norms(copy.deepcopy(model)).to(memory_format=torch.channels_last)
    if backend:
        fast = InferenceModel(model, run=_convert(model, example, int8, dtype is torch.bfloat16))
    elif int8 is not None:
        from resnet_hub.inference import torchao

        fast = InferenceModel(model, graph=torchao.quantise(model, int8, has_vnni()))
    else:
        if dtype:
            for module in model.modules():
                if isinstance(module, nn.Conv2d | nn.Linear):
                    module.to(dtype)  # autocast alone would convert the weights at every call
        fast = InferenceModel(model, dtype, _trace(model) if compile else None)
    if example is not None:
        fast(example)
    return fast


def has_vnni() -> bool:
    """Return whether the processor adds products of 8-bit integers without overflow."""
    known = torch.cpu.get_capabilities()
    return bool(known.get('avx512_vnni') or known.get('avx_vnni'))


def _convert(model: nn.Module, example: Tensor | None, int8: Tensor | None, bf16: bool) -> Callable[[Tensor], Tensor]:
    """Return a function that computes the logits of a folded network with OpenVINO, for images of one size."""
    from resnet_hub.inference import openvino
    from resnet_hub.runtimes.openvino import compile_model

    like = int8 if int8 is not None else example
    cfg: Any = getattr(model, 'pretrained_cfg', {})
    if like is None and 'input_size' not in cfg:
        raise InputError('the network has no pretrained_cfg with the size of its images: give an example input')
    size = cfg['input_size'][1:] if like is None else like.shape[2:]
    channels = getattr(model, 'in_chans', 3) if like is None else like.shape[1]
    model = model.to(memory_format=torch.contiguous_format)
    return compile_model(openvino.convert(model, (-1, channels, *size), int8, has_vnni()), bf16)


class _Tracer(fx.Tracer):
    """Traces only modules that contain convolutions. Norms and activations may do what torch.fx cannot trace."""

    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        return super().is_leaf_module(module, name) or not any(isinstance(m, nn.Conv2d) for m in module.modules())


def _trace(model: nn.Module) -> fx.GraphModule:
    """Return the graph of the calls in `forward`, with the modules of the model.

    Raises:
        InputError: torch.fx cannot trace the model.
    """
    try:
        return fx.GraphModule(model, _Tracer().trace(model))
    except Exception as error:  # of any kind, because fx runs the network's own code with symbolic values
        raise InputError(
            f'torch.fx cannot trace {type(model).__name__} ({" ".join(str(error).split())}): use the network as it is'
        ) from error


@torch.no_grad()
def _fold_norms(model: nn.Module) -> nn.Module:
    """Fold norms into the convolutions before them, in place, and replace the norms by identities.

    Raises:
        InputError: torch.fx cannot trace the model, or it calls such a convolution or norm more than once.
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
            raise InputError(
                f'{shared} is called more than once, so that {norm} cannot be folded into {conv}: use the network as it is'
            )
        fused = fuse_conv_bn_eval(model.get_submodule(conv), model.get_submodule(norm))  # type: ignore[type-var, arg-type]
        model.set_submodule(conv, fused)
        model.set_submodule(norm, nn.Identity())
    return model.to(dtype)


def _pairs(traced: fx.GraphModule) -> Iterator[tuple[str, str]]:
    """Yield pairs of names: a convolution whose output only a norm reads, and this norm.

    Subclasses of Conv2d and BatchNorm2d are left out, because they may compute something else.
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
    """Check that torch.compile works on this machine by compiling a tiny function.

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
