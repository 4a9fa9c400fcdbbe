"""Download a file from a URL."""

from __future__ import annotations

from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from resnet_hub.utils.errors import ResnetHubError

TIMEOUT = 30.0  #: seconds without an answer after which the download fails


class UnreachableError(ResnetHubError):
    """A host cannot be reached. There is no use in asking it for other files."""


def download_file(url: str, path: Path) -> None:
    """Download `url` to the file `path`, with a progress bar on a terminal.

    Raises:
        UnreachableError: the host cannot be resolved or reached, or does not answer.
        ResnetHubError: the host has no such file, or the file arrives incomplete.
    """
    from tqdm.auto import tqdm

    try:
        with urlopen(Request(url, headers={'User-Agent': 'resnet-hub'}), timeout=TIMEOUT) as response:
            size = int(response.headers.get('Content-Length') or 0)
            options = {'unit': 'B', 'unit_scale': True, 'leave': False, 'delay': 1, 'disable': None}
            with open(path, 'wb') as file, tqdm(desc=path.name, total=size or None, **options) as bar:
                while block := response.read(1 << 16):
                    bar.update(file.write(block))
    except HTTPError as error:
        raise ResnetHubError(f'{url} cannot be fetched: {error}') from error
    except (OSError, HTTPException, ValueError) as error:
        raise UnreachableError(f'{url} cannot be fetched: {error or type(error).__name__}') from error
    if size and path.stat().st_size != size:
        raise ResnetHubError(f'{url} cannot be fetched: {path.stat().st_size:,} of {size:,} bytes arrived')
