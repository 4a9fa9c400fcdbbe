"""From a row of the catalog to a file."""

from __future__ import annotations

from pathlib import Path

from ..checkpoints.folder import digest
from ..errors import ResnetHubError
from .catalog import WEIGHTS

_PACKAGE = Path(__file__).parent


def local_file(name: str) -> Path:
    """Where the weights `name` ('cifar_resnet20.cifar10') lie in the package."""
    return _PACKAGE / f'{name}.safetensors'


def recipe_file(name: str) -> Path:
    """The recipe that trained them."""
    return _PACKAGE / f'{name}.toml'


def verify(name: str) -> None:
    """Compare a file's digest with its row's.

    Raises:
        ResnetHubError: the file is missing or is not the one that was published.
    """
    path = local_file(name)
    if not path.is_file():
        raise ResnetHubError(f'{name}: {path} is missing; install resnet-hub again')
    found = digest(path)
    if found != WEIGHTS[name].sha256:
        raise ResnetHubError(
            f'{name}: {path} has SHA-256 {found}, not {WEIGHTS[name].sha256}; install resnet-hub again'
        )
