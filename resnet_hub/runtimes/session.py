"""The common interface of all runtimes: a function that runs a file, and the metadata of the file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from resnet_hub.utils.errors import InputError

METADATA_KEY = 'resnet_hub'  #: the key of our metadata, a JSON text, in files of every format


class Session(NamedTuple):
    """An exported file, ready to run."""

    run: Callable[[Tensor], Tensor]  #: a function from the file's input to its logits, float32 (N, classes)
    input_shape: tuple[int | None, ...]  #: None for a dimension of any size
    classes: int
    metadata: dict[str, Any]  #: see `resnet_hub.exporting.metadata`; empty for files of other programs


def parse_metadata(path: str | Path, text: str | None) -> dict[str, Any]:
    """Read the JSON of a file's metadata.

    Raises:
        InputError: it is not a JSON object.
    """
    try:
        metadata = json.loads(text or '{}')
    except ValueError as error:
        raise InputError(
            f'{path}: its metadata {METADATA_KEY!r} is not JSON ({error}); export the network again'
        ) from None
    if not isinstance(metadata, dict):
        raise InputError(f'{path}: its metadata {METADATA_KEY!r} is not a JSON object; export the network again')
    return metadata


def reason(error: BaseException) -> str:
    """Return the message of another library's error in one line, cut after 300 characters."""
    return ' '.join(str(error).split())[:300]
