"""Files that are written whole or not at all, and the same tensors as the same bytes."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from safetensors.torch import save, save_file
from torch import Tensor

_METADATA = {'format': 'pt'}  # several entries would come out in random order, and the digest with them


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A temporary path beside `path` that takes its place when the block ends, and vanishes if the block fails."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f'.{path.name}.{secrets.token_hex(4)}')
    temporary.touch(exist_ok=False)
    mode = temporary.stat().st_mode  # as the umask has it
    try:
        yield temporary
        temporary.chmod(mode)  # safetensors puts a file of its own there, for the owner alone
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def remove_leftovers(path: str | Path) -> None:
    """Remove what `replacing` left beside `path` where a process was killed; only where no other one writes it now."""
    path = Path(path)
    for leftover in path.parent.glob(f'.{path.name}.????????'):
        leftover.unlink()


def digest(path: str | Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    sha = hashlib.sha256()
    with open(path, 'rb') as file:
        while block := file.read(1 << 20):
            sha.update(block)
    return sha.hexdigest()


def halve(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Half precision for convolutions and classifier; norms, biases and counters stay as they are."""
    return {k: v.half() if v.ndim > 1 and v.is_floating_point() else v for k, v in state_dict.items()}


def encode(state_dict: Mapping[str, Tensor]) -> bytes:
    """The safetensors file of a state dict: the same tensors give the same bytes."""
    return save(_plain(state_dict), metadata=_METADATA)


def _plain(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {k: v.detach().cpu().contiguous() for k, v in state_dict.items()}


def save_weights(path: str | Path, state_dict: Mapping[str, Tensor]) -> None:
    """Write what `encode` gives, without its bytes in memory."""
    with replacing(path) as temporary:
        save_file(_plain(state_dict), temporary, metadata=_METADATA)
