"""Find weights on this machine, and check whether a file is the published one. This needs neither torch nor timm."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from resnet_hub.tables.weights import WEIGHTS, Weights
from resnet_hub.utils.errors import ResnetHubError

#: Increase this number when the conversion of published checkpoints changes their tensors. File names in the cache
#: contain it, so that files of the earlier conversion are no longer used.
CONVERSION = 2


def cache_folder(cache_dir: str | Path | None = None) -> Path:
    """Return the folder of downloaded weights: `cache_dir`, else RESNET_HUB_CACHE, else ~/.cache/resnet_hub."""
    return Path(cache_dir or os.environ.get('RESNET_HUB_CACHE') or Path.home() / '.cache' / 'resnet_hub')


def cached_file(name: str, cache_dir: str | Path | None = None) -> Path:
    """Return the path of downloaded weights in the cache. The file need not exist.

    The file name contains the beginning of the digest, and for converted weights the version of the conversion.
    """
    row = WEIGHTS[name]
    converted = '' if row.path else f'.v{CONVERSION}'
    return cache_folder(cache_dir) / f'{name}-{row.digest.partition(":")[2][:8]}{converted}.safetensors'


def find(name: str, cache_dir: str | Path | None = None) -> Path | None:
    """Return the file of the weights `name`, or None if it is not on this machine.

    Our own weights are in the package or in the folder weights/ of a clone. Downloaded weights are in the cache.
    """
    here = WEIGHTS[name].path, cached_file(name, cache_dir)
    return next((path for path in here if path and path.is_file()), None)


def check_digest(row: Weights, path: Path, source: str | None = None) -> None:
    """Compare a file with the digest of a row.

    Args:
        row: the row; its digest may be only the beginning of the digest.
        path: the file.
        source: where the file comes from, for the error message; None names `path`.

    Raises:
        ResnetHubError: the file is not the published one.
    """
    algorithm, _, wanted = row.digest.partition(':')
    sha = hashlib.new(algorithm, usedforsecurity=False)
    with open(path, 'rb') as file:
        while block := file.read(1 << 20):
            sha.update(block)
    if not sha.hexdigest().startswith(wanted):
        raise ResnetHubError(
            f'{row.name}: {source or path} has {algorithm} {sha.hexdigest()}, not {wanted}: it is damaged or was '
            'replaced, and is not used'
        )
