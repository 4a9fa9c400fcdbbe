"""Get the file of a checkpoint: a path, a URL, a model folder, a repository on the Hub, or published weights."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from resnet_hub.checkpoints.read import PICKLES
from resnet_hub.tables.architectures import ARCHITECTURES
from resnet_hub.tables.weights import WEIGHTS, tags
from resnet_hub.utils.errors import InputError, did_you_mean
from resnet_hub.utils.http import download_file
from resnet_hub.weights.fetch import fetch
from resnet_hub.weights.folder import CONFIG_FILE, PICKLE_FILE, WEIGHTS_FILE

_HUB = 'hf-hub:'
_FOLDER = 'local-dir:'


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
        InputError: the folder or the repository has no weights, or several files of weights.
        ResnetHubError: the server cannot be reached, refuses the request, or has no such file.
    """
    if source.startswith(_HUB):
        yield _from_hub(source.removeprefix(_HUB))
    elif source in WEIGHTS:
        yield fetch(source)
    elif urlsplit(source).scheme in ('http', 'https', 'file'):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / (Path(urlsplit(source).path).name or 'checkpoint')
            download_file(source, path)
            yield path
    elif source.startswith(_FOLDER):
        yield _in_folder(Path(source.removeprefix(_FOLDER)))
    else:
        yield Path(source)


def _in_folder(folder: Path) -> Path:
    """Return the weights of a model folder."""
    for name in (WEIGHTS_FILE, PICKLE_FILE):
        if (folder / name).is_file():
            return folder / name
    raise InputError(f'{folder} has no {WEIGHTS_FILE}: give the name of the file')


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
