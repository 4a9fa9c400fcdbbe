"""Run ONNX files with ONNX Runtime on the CPU."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from resnet_hub.runtimes.session import METADATA_KEY, Session, parse_metadata, reason
from resnet_hub.utils.errors import InputError, MissingExtraError

try:
    import onnxruntime
except ImportError:
    raise MissingExtraError('onnxruntime', 'export') from None


def open_session(path: str | Path) -> Session:
    """Load an ONNX file. It must have one input, and the logits as its first output.

    Raises:
        InputError: ONNX Runtime cannot read the file.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors only
    try:
        session = onnxruntime.InferenceSession(str(path), options, ['CPUExecutionProvider'])
    except Exception as error:  # ONNX Runtime raises its own types, which share no base class
        raise InputError(f'{path}: ONNX Runtime cannot read it ({reason(error)})') from error
    given, logits = session.get_inputs()[0], session.get_outputs()[0]

    def run(x: Tensor) -> Tensor:
        return torch.from_numpy(session.run([logits.name], {given.name: x.numpy()})[0])

    return Session(
        run,
        tuple(size if isinstance(size, int) else None for size in given.shape),
        logits.shape[-1],
        parse_metadata(path, session.get_modelmeta().custom_metadata_map.get(METADATA_KEY)),
    )
