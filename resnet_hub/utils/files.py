"""Write files completely or not at all, and write equal tensors as equal bytes."""

from __future__ import annotations

import glob
import hashlib
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from safetensors.torch import save, save_file
from torch import Tensor

_METADATA = {'format': 'pt'}  # only one entry: safetensors writes several in random order, which changes the digest
_TEMPORARY = '.resnet-hub-'  # marks temporary files, so that we never remove a file of the user


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Give a temporary path beside `path`. It replaces `path` when the block ends, and is removed if the block fails."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f'.{path.name}{_TEMPORARY}{secrets.token_hex(4)}')
    temporary.touch(exist_ok=False)
    mode = temporary.stat().st_mode  # the permissions that the umask gives
    try:
        yield temporary
        temporary.chmod(mode)  # safetensors has replaced the file by one that only its owner may read
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def remove_leftovers(path: str | Path) -> None:
    """Remove the temporary files of `path` that killed processes left. No other process may be writing `path` now."""
    path = Path(path)
    for leftover in path.parent.glob(f'.{glob.escape(path.name)}{_TEMPORARY}{"[0-9a-f]" * 8}'):
        leftover.unlink()


def digest(path: str | Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    sha = hashlib.sha256()
    with open(path, 'rb') as file:
        while block := file.read(1 << 20):
            sha.update(block)
    return sha.hexdigest()


def halve(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a copy of a state dict with convolutions and classifier in float16.

    Norms, biases and counters keep their dtype.
    """
    return {k: v.half() if v.ndim > 1 and v.is_floating_point() else v for k, v in state_dict.items()}


def encode(state_dict: Mapping[str, Tensor]) -> bytes:
    """Return a state dict as the bytes of a safetensors file. Equal tensors give equal bytes."""
    return save(_plain(state_dict), metadata=_METADATA)


def _plain(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {k: v.detach().cpu().contiguous() for k, v in state_dict.items()}


def save_weights(path: str | Path, state_dict: Mapping[str, Tensor]) -> None:
    """Write the bytes that `encode` returns to a file, without a second copy in memory."""
    with replacing(path) as temporary:
        save_file(_plain(state_dict), temporary, metadata=_METADATA)
