"""Run exported programs (torch.export) with PyTorch."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from resnet_hub.runtimes.session import METADATA_KEY, Session, parse_metadata, reason
from resnet_hub.utils.errors import InputError


def open_session(path: str | Path) -> Session:
    """Load a .pt2 file. It must have one input, and the logits as its first output.

    Raises:
        InputError: PyTorch cannot read the file.
    """
    extra = {METADATA_KEY: ''}
    try:
        program = torch.export.load(str(path), extra_files=extra)
    except Exception as error:  # of any type, because the bytes may be broken anywhere
        raise InputError(f'{path}: torch.export cannot read it ({reason(error)})') from error
    module = program.module()
    nodes = {node.name: node.meta['val'] for node in program.graph.nodes if 'val' in node.meta}
    given, logits = (
        nodes[names[0]] for names in (program.graph_signature.user_inputs, program.graph_signature.user_outputs)
    )

    def run(x: Tensor) -> Tensor:
        with torch.no_grad():
            result = module(x)
        return result[0] if isinstance(result, tuple) else result

    return Session(
        run,
        tuple(size if isinstance(size, int) else None for size in given.shape),
        logits.shape[-1],
        parse_metadata(path, extra[METADATA_KEY]),
    )
