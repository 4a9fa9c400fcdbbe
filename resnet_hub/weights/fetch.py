"""From a row of the table of weights to a native safetensors file on this machine.

A digest is checked once: when the bytes arrive, before any tensor in them is read. Others' checkpoints are converted
then. The cache keeps the result.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from resnet_hub.checkpoints.folder import WEIGHTS_FILE
from resnet_hub.checkpoints.read import unpack
from resnet_hub.checkpoints.recognise import native_state_dict
from resnet_hub.tables.weights import WEIGHTS, Weights
from resnet_hub.utils.errors import InputError, ResnetHubError
from resnet_hub.utils.files import replacing, save_weights
from resnet_hub.utils.http import UnreachableError, download_file
from resnet_hub.utils.version import __version__
from resnet_hub.weights.cache import cached_file, check_digest, find

#: a download: writes the file into a folder and returns its path
_Download = Callable[[Path], Path]


def fetch(name: str, cache_dir: str | Path | None = None) -> Path:
    """Return the file of the weights `name` ('cifar_resnet56.chenyaofo_cifar10'), downloaded at first use.

    Weights that are not on this machine come from their publisher's address. Ours come from the Hub, where
    RESNET_HUB_OWNER names an account, else from this project's repository.

    Raises:
        ResnetHubError: no place has the published file. The cache stays as it was.
        InputError: the file's contents are not the network that the row says.
    """
    if here := find(name, cache_dir):
        return here
    row, path = WEIGHTS[name], cached_file(name, cache_dir)
    with tempfile.TemporaryDirectory() as folder:
        file = _download_first(row, Path(folder), path)
        if row.path:  # ours: native already
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
                break  # the other addresses are on the same host
        else:
            return file
    if row.path is None:
        raise ResnetHubError(f'{failures[0]}; check the connection and try again')
    raise ResnetHubError(
        f'{row.name} is neither at {row.path}, where a clone has it, nor at {cached}, and cannot be downloaded '
        f'({"; ".join(failures)}): check the connection; or use a clone of the project (pip install -e .); or set '
        f'RESNET_HUB_OWNER to an account that has it on the Hub; or train it: resnet-hub train --recipe {row.name} '
        f'-o runs/{row.name}'
    )


def _sources(row: Weights) -> Iterator[tuple[str, _Download]]:
    """Yield the places that may have a file: their names, and how to download from them."""
    if row.repo_id:
        yield f'hf-hub:{row.repo_id}', partial(_from_hub, row.repo_id)
    for url in row.addresses(f'v{__version__}', 'main'):
        yield url, partial(_from_address, url)


def _from_hub(repo_id: str, folder: Path) -> Path:
    from huggingface_hub import hf_hub_download

    from resnet_hub.utils.hub_client import ask

    return Path(ask(f'hf-hub:{repo_id}', lambda: hf_hub_download(repo_id, WEIGHTS_FILE, local_dir=folder)))


def _from_address(url: str, folder: Path) -> Path:
    """Download a file. Of a zip, take the one file in it."""
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
