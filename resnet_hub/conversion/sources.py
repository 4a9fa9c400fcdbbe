"""Get the file of a checkpoint from a path, a URL, a repository on the Hub, or the name of published weights."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from urllib.parse import urlsplit

import torch

from resnet_hub.checkpoints.read import PICKLES
from resnet_hub.tables.architectures import ARCHITECTURES
from resnet_hub.tables.weights import WEIGHTS, tags
from resnet_hub.utils.errors import InputError, did_you_mean
from resnet_hub.weights.fetch import fetch
from resnet_hub.weights.folder import CONFIG_FILE, PICKLE_FILE, WEIGHTS_FILE

_HUB = 'hf-hub:'


def full_name(source: str | Path) -> str:
    """Return a source as text. Replace the name of an architecture by the name of its default weights.

    Raises:
        InputError: the architecture has no weights, or the source looks like the name of weights that do not exist.
    """
    text = str(source)
    if text in WEIGHTS or text.startswith(_HUB) or urlsplit(text).scheme or Path(text).exists():
        return text
    if text in ARCHITECTURES:
        if not tags(text):
            raise InputError(f'{text} has no published weights: give a file, or train it')
        return f'{text}.{tags(text)[0]}'
    hint = did_you_mean(text, [*WEIGHTS, *ARCHITECTURES])
    if hint and Path(text).name == text:
        raise InputError(f'no file and no weights are called {text}{hint}')
    return text


def public_name(source: str) -> str:
    """Return the name of a source for a model card, without folders of this machine and without queries of URLs."""
    parts = urlsplit(source)
    if source.startswith(_HUB) or source in WEIGHTS:
        return source
    if parts.scheme in ('http', 'https'):
        return parts._replace(query='', fragment='').geturl()
    return Path(parts.path if parts.scheme == 'file' else source).name


@contextmanager
def local_file(source: str) -> Iterator[Path]:
    """Give the path of a source's file. Download it first if it is not on this machine.

    Raises:
        InputError: the URL or the repository has no such file.
        ResnetHubError: the Hub or the publisher's server cannot be reached or refuses the request.
    """
    if source.startswith(_HUB):
        yield _from_hub(source.removeprefix(_HUB))
    elif source in WEIGHTS:
        yield fetch(source)
    elif urlsplit(source).scheme in ('http', 'https', 'file'):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / (Path(urlsplit(source).path).name or 'checkpoint')
            try:
                torch.hub.download_url_to_file(source, str(path), progress=False)
            except (OSError, ValueError, RuntimeError, HTTPException) as error:
                raise InputError(f'cannot download {source}: {error}; check the address') from error
            yield path
    else:
        yield Path(source)


def _from_hub(repo: str) -> Path:
    """Download the only checkpoint of a repository, and its config.json."""
    from huggingface_hub import hf_hub_download, list_repo_files

    from resnet_hub.utils.hub_client import ask

    repo_id, _, revision = repo.partition('@')  # as in timm

    def download() -> Path:
        names = list_repo_files(repo_id, revision=revision or None)
        usual = [name for name in (WEIGHTS_FILE, PICKLE_FILE) if name in names]
        candidates = usual[:1] or [name for name in names if name.endswith((*PICKLES, '.safetensors'))]
        if len(candidates) != 1:
            listed = ', '.join(candidates[:5]) or 'none'
            raise InputError(f'{_HUB}{repo} must hold one checkpoint (it has {listed}): give the URL of the file')
        if CONFIG_FILE in names:
            hf_hub_download(repo_id, CONFIG_FILE, revision=revision or None)
        return Path(hf_hub_download(repo_id, candidates[0], revision=revision or None))

    return ask(f'{_HUB}{repo}', download)
