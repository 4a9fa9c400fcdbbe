"""Get a native safetensors file for a row of the table of weights.

The digest is checked once, after the download and before any tensor is read. Checkpoints of other publishers are then
converted. The result is stored in the cache.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from resnet_hub.checkpoints.read import unpack
from resnet_hub.checkpoints.recognise import native_state_dict
from resnet_hub.tables.weights import WEIGHTS, Weights
from resnet_hub.utils.errors import InputError, ResnetHubError
from resnet_hub.utils.files import replacing, save_weights
from resnet_hub.utils.http import UnreachableError, download_file
from resnet_hub.utils.version import __version__
from resnet_hub.weights.cache import cached_file, check_digest, find
from resnet_hub.weights.folder import WEIGHTS_FILE

#: a function that downloads a file into a folder and returns its path
_Download = Callable[[Path], Path]


def fetch(name: str, cache_dir: str | Path | None = None) -> Path:
    """Return the file of the weights `name` ('cifar_resnet56.chenyaofo_cifar10'). Download it at the first use.

    Weights of other publishers are downloaded from the URL of their publisher. Ours are downloaded from the account on
    the Hub that RESNET_HUB_OWNER names, or else from this project's repository.

    Raises:
        ResnetHubError: the published file cannot be downloaded. The cache is unchanged.
        InputError: the file contains another network than the row says.
    """
    if here := find(name, cache_dir):
        return here
    row, path = WEIGHTS[name], cached_file(name, cache_dir)
    with tempfile.TemporaryDirectory() as folder:
        file = _download_first(row, Path(folder), path)
        if row.path:  # our own files are already native
            with replacing(path) as temporary:
                shutil.copyfile(file, temporary)
        else:
            save_weights(path, native_state_dict(file, row.architecture, row.model_args))
    return path


def _download_first(row: Weights, folder: Path, cached: Path) -> Path:
    """Download the published file from the first place that has it."""
    failures = []
    for source, download in _sources(row):
        try:
            file = download(folder)
            check_digest(row, file, source)
        except ResnetHubError as error:
            failures.append(str(error))
            if isinstance(error, UnreachableError):
                break  # the other URLs have the same host
        else:
            return file
    if row.path is None:
        raise ResnetHubError(f'{failures[0]}; check the connection and try again')
    raise ResnetHubError(
        f'{row.name} is neither in a clone ({row.path}) nor in the cache ({cached}), and cannot be downloaded '
        f'({"; ".join(failures)}): check the connection; or use a clone of the project (pip install -e .); or set '
        f'RESNET_HUB_OWNER to an account on the Hub that has it; or train it: resnet-hub train --recipe {row.name} '
        f'-o runs/{row.name}'
    )


def _sources(row: Weights) -> Iterator[tuple[str, _Download]]:
    """Yield the places that may have a file: the name of each, and a function that downloads from it."""
    if row.repo_id:
        yield f'hf-hub:{row.repo_id}', partial(_from_hub, row.repo_id)
    for url in row.addresses(f'v{__version__}', 'main'):
        yield url, partial(_from_address, url)


def _from_hub(repo_id: str, folder: Path) -> Path:
    from huggingface_hub import hf_hub_download

    from resnet_hub.utils.hub_client import ask

    return Path(ask(f'hf-hub:{repo_id}', lambda: hf_hub_download(repo_id, WEIGHTS_FILE, local_dir=folder)))


def _from_address(url: str, folder: Path) -> Path:
    """Download a file from a URL. If it is a zip file, return the only file in it."""
    file = folder / url.rpartition('/')[2]
    download_file(url, file)
    if file.suffix == '.zip':
        try:
            content, _ = unpack(file, file.name)
        except InputError as error:
            raise ResnetHubError(f'{url} cannot be fetched: {error}') from error
        if isinstance(content, Path):
            return content
        file = folder / 'inner'
        file.write_bytes(content)
    return file
