"""From a row of the catalog to a native safetensors file that is what the row says.

A digest is checked once, when the bytes arrive and before any tensor in them is read; what has passed is converted
into our cache, and found there from then on. What lies in the package or beside it came with them.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from pathlib import Path

from resnet_hub.checkpoints.folder import WEIGHTS_FILE
from resnet_hub.checkpoints.read import unpack
from resnet_hub.tables.weights import WEIGHTS, Weights, weights_file, weights_folder
from resnet_hub.utils.errors import ResnetHubError
from resnet_hub.utils.files import replacing, save_weights


def cache_folder(cache_dir: str | Path | None = None) -> Path:
    """Where fetched weights are kept: `cache_dir`, else RESNET_HUB_CACHE, else ~/.cache/resnet_hub."""
    return Path(cache_dir or os.environ.get('RESNET_HUB_CACHE') or Path.home() / '.cache' / 'resnet_hub')


def cached_file(name: str, cache_dir: str | Path | None = None) -> Path:
    """Where the weights `name` lie in the package or in the cache, once they are there; the digest is in the name."""
    row = WEIGHTS[name]
    if row.url is None:
        return weights_file(name)
    return cache_folder(cache_dir) / f'{name}-{row.digest.partition(":")[2][:8]}.safetensors'


def find(name: str, cache_dir: str | Path | None = None) -> Path:
    """Where the weights `name` lie on this machine, once they are here: beside the package where that has them."""
    path = weights_folder(name) / WEIGHTS_FILE
    return path if WEIGHTS[name].repo_id and path.is_file() else cached_file(name, cache_dir)


def fetch(name: str, cache_dir: str | Path | None = None) -> Path:
    """The file of the weights `name` ('cifar_resnet56.chenyaofo_cifar10'), downloaded at first use.

    Raises:
        ResnetHubError: it cannot be downloaded, or is not the file that was published; the cache stays as it was.
        InputError: its contents are not the network that the row says.
    """
    row, path = WEIGHTS[name], find(name, cache_dir)
    if row.url is None or path.is_file():
        return path
    from resnet_hub.checkpoints.recognise import native_state_dict

    with tempfile.TemporaryDirectory() as folder:
        file = _from_hub(name, row.repo_id, Path(folder)) if row.repo_id else _download(row.url, Path(folder))
        check_digest(name, row, file, row.url)
        if row.repo_id:  # as we wrote it
            with replacing(path) as temporary:
                shutil.copyfile(file, temporary)
        else:
            save_weights(path, native_state_dict(file, name.partition('.')[0], row.model_args))
    return path


def _from_hub(name: str, repo_id: str, folder: Path) -> Path:
    from huggingface_hub import hf_hub_download

    from resnet_hub.utils.hub_client import ask

    try:
        return Path(ask(f'hf-hub:{repo_id}', lambda: hf_hub_download(repo_id, WEIGHTS_FILE, local_dir=folder)))
    except ResnetHubError as error:
        raise ResnetHubError(
            f'{name} is neither in {weights_folder(name)} nor to be had from the Hub ({error}): use resnet-hub from its '
            f'clone (pip install -e .), which brings it; or set RESNET_HUB_OWNER to who has it on the Hub; or train it: '
            f'resnet-hub train --recipe {name} -o runs/{name}'
        ) from None


def _download(url: str, folder: Path) -> Path:
    """Fetch a file, and take the one that it holds out of a zip."""
    from torch.hub import download_url_to_file

    file = folder / url.rpartition('/')[2]
    try:
        download_url_to_file(url, str(file))
        if file.suffix == '.zip':
            content, _ = unpack(file, file.name)
            if isinstance(content, bytes):
                file = folder / 'inner'
                file.write_bytes(content)
    except (OSError, ValueError) as error:  # URLError is an OSError, InputError a ValueError
        raise ResnetHubError(f'{url} cannot be fetched: {error}; try again') from None
    return file


def check_digest(name: str, row: Weights, path: Path, source: str | None = None) -> None:
    """Compare a file, which came from `source`, with the digest, or the beginning of one, of a row.

    Raises:
        ResnetHubError: it is missing, or is not the file that was published.
    """
    if not path.is_file():
        raise ResnetHubError(f'{name}: {path} is missing; install resnet-hub again')
    algorithm, _, wanted = row.digest.partition(':')
    found = hashlib.new(algorithm, path.read_bytes(), usedforsecurity=False).hexdigest()
    if not found.startswith(wanted):
        raise ResnetHubError(
            f'{name}: {source or path} has {algorithm} {found}, not {wanted}: it is damaged or was replaced; not used'
        )
