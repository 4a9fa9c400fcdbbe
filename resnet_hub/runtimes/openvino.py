"""Run OpenVINO IR and ONNX files with OpenVINO, on the processor."""

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


def open_session(path: str | Path) -> Session:
    """Load a file of one input and at least one output, which is the logits.

    Raises:
        InputError: OpenVINO cannot read the file.
    """
    try:
        model = openvino.Core().read_model(str(path))
        run = compile_model(model)
    except Exception as error:  # of any type, from whichever front end reads the file
        raise InputError(f'{path}: OpenVINO cannot read it ({reason(error)})') from error
    return Session(
        run,
        tuple(size.get_length() if size.is_static else None for size in model.input(0).partial_shape),
        model.output(0).partial_shape[-1].get_length(),
        parse_metadata(path, _metadata(model)),
    )


def compile_model(model: Any) -> Callable[[Tensor], Tensor]:
    """Compile an `openvino.Model` for the processor, and return a function that runs it.

    OpenVINO computes in bfloat16 by default where the processor has it, which moves logits by up to 0.4. Here it
    computes in float32; the int8 layers of a quantised network stay int8.
    """
    compiled = openvino.Core().compile_model(
        model,
        'CPU',
        {
            'INFERENCE_PRECISION_HINT': 'f32',
            'INFERENCE_NUM_THREADS': torch.get_num_threads(),
            'PERFORMANCE_HINT': 'LATENCY',
        },
    )
    request = compiled.create_infer_request()

    def run(x: Tensor) -> Tensor:
        request.infer([x.contiguous().numpy()], share_inputs=True)
        return torch.from_numpy(request.get_output_tensor(0).data.copy())

    return run


def _metadata(model: Any) -> str | None:
    """Return the JSON text that OpenVINO IR keeps in `rt_info`, and that its ONNX reader puts there too."""
    for keys in ([METADATA_KEY], ['framework', METADATA_KEY]):
        if model.has_rt_info(keys):
            return str(model.get_rt_info(keys).value)
    return None
