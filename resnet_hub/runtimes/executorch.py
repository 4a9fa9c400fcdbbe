"""Run ExecuTorch programs on the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from resnet_hub.runtimes.session import METADATA_KEY, Session, parse_metadata, reason
from resnet_hub.utils.errors import InputError, MissingExtraError

try:
    from executorch.runtime import Runtime, Verification
except ImportError:
    raise MissingExtraError('executorch', 'executorch') from None


def open_session(path: str | Path) -> Session:
    """Load a .pte file. Its method `forward` must have one input, and the logits as its first output.

    Raises:
        InputError: ExecuTorch cannot read the file.
    """
    try:
        data = Path(path).read_bytes()
        program = Runtime.get().load_program(data, verification=Verification.InternalConsistency)
        method = program.load_method('forward')
        text = None
        if METADATA_KEY in program.method_names:
            text = str(program.load_method(METADATA_KEY).execute([])[0])
        given, logits = method.metadata.input_tensor_meta(0), method.metadata.output_tensor_meta(0)
    except RuntimeError as error:
        raise InputError(f'{path}: ExecuTorch cannot read it ({reason(error)})') from error
    metadata = parse_metadata(path, text)
    shape: list[int | None] = [*given.sizes()]
    if metadata.get('dynamic_batch'):
        shape[0] = None  # ExecuTorch gives only the largest batch size

    def run(x: Tensor, _held: Any = (data, program)) -> Tensor:  # `method` needs both, but holds no reference to them
        return Tensor(method.execute([x.contiguous()])[0]).clone()  # the next call reuses the memory of the output

    return Session(run, tuple(shape), logits.sizes()[-1], metadata)
