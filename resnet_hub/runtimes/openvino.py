"""Run OpenVINO IR and ONNX files with OpenVINO on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from resnet_hub.runtimes.session import METADATA_KEY, Session, parse_metadata, reason
from resnet_hub.utils.errors import InputError, MissingExtraError

try:
    import openvino
except ImportError:
    raise MissingExtraError('openvino', 'export') from None

SIZES = 4  #: number of batch sizes that get a compilation of their own


def open_session(path: str | Path) -> Session:
    """Load a file. It must have one input, and the logits as its first output.

    Raises:
        InputError: OpenVINO cannot read the file.
    """
    try:
        model = openvino.Core().read_model(str(path))
        run = compile_model(model)
    except Exception as error:  # of any type, because OpenVINO has one front end for each format
        raise InputError(f'{path}: OpenVINO cannot read it ({reason(error)})') from error
    return Session(
        run,
        tuple(size.get_length() if size.is_static else None for size in model.input(0).partial_shape),
        model.output(0).partial_shape[-1].get_length(),
        parse_metadata(path, _metadata(model)),
    )


def compile_model(model: Any, bf16: bool = False) -> Callable[[Tensor], Tensor]:
    """Return a function that runs an `openvino.Model` on the CPU.

    By default OpenVINO computes in bfloat16 if the CPU supports it, which changes logits by up to 0.4. Here it computes
    in float32. The int8 layers of a quantised network stay int8.

    A model compiled for one batch size is up to 1.3 times as fast as one for any. So if the model takes any number of
    images, each of the first `SIZES` batch sizes gets a compilation of its own.

    Args:
        model: the model. It must not be changed afterwards.
        bf16: compute in bfloat16 on a CPU that supports it.
    """
    any_size = _compile(model, bf16)
    sizes: dict[int, Callable[[Tensor], Tensor]] = {}
    shape = model.input(0).partial_shape
    if len(shape) != 4 or shape[0].is_static:
        return any_size

    def run(x: Tensor) -> Tensor:
        if len(x) not in sizes and len(sizes) < SIZES:
            fixed = model.clone()
            fixed.reshape([len(x), *list(shape)[1:]])
            sizes[len(x)] = _compile(fixed, bf16)
        return sizes.get(len(x), any_size)(x)

    return run


def _compile(model: Any, bf16: bool) -> Callable[[Tensor], Tensor]:
    compiled = openvino.Core().compile_model(
        model,
        'CPU',
        {
            'INFERENCE_PRECISION_HINT': 'bf16' if bf16 else 'f32',
            'INFERENCE_NUM_THREADS': torch.get_num_threads(),
            'PERFORMANCE_HINT': 'LATENCY',
        },
    )
    request = compiled.create_infer_request()

    def run(x: Tensor) -> Tensor:
        images = x.contiguous().numpy()  # OpenVINO reads its memory, but holds no reference to it
        request.set_input_tensor(openvino.Tensor(images, shared_memory=True))
        request.infer()
        return torch.from_numpy(request.get_output_tensor(0).data.copy())

    return run


def _metadata(model: Any) -> str | None:
    """Return our metadata, a JSON text, from `rt_info`, where OpenVINO's readers of IR and ONNX files put it."""
    for keys in ([METADATA_KEY], ['framework', METADATA_KEY]):
        if model.has_rt_info(keys):
            return str(model.get_rt_info(keys).value)
    return None
