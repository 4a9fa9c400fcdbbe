"""From a row of the catalog to a file that is what the row says."""

from __future__ import annotations

from ..checkpoints.folder import digest
from ..errors import ResnetHubError
from .catalog import WEIGHTS, weights_file


def verify(name: str) -> None:
    """Compare a file's digest with its row's.

    Raises:
        ResnetHubError: the file is missing or is not the one that was published.
    """
    path = weights_file(name)
    if not path.is_file():
        raise ResnetHubError(f'{name}: {path} is missing; install resnet-hub again')
    found = digest(path)
    if found != WEIGHTS[name].sha256:
        raise ResnetHubError(
            f'{name}: {path} has SHA-256 {found}, not {WEIGHTS[name].sha256}; install resnet-hub again'
        )
