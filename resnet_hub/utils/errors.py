"""Errors that a user can do something about. The command line prints them as one line."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class ResnetHubError(Exception):
    """An operation failed on the way. The command line exits with 1."""

    exit_code = 1


class InputError(ResnetHubError, ValueError):
    """The input or an option is unusable. The command line exits with 2."""

    exit_code = 2


class MissingExtraError(ResnetHubError, ImportError):
    """A package of an optional extra is not installed. The command line exits with 1."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(
            f'the package {package} is not installed; install it by '
            f"pip install 'resnet-hub[{extra}]', or in a clone by pip install -e '.[{extra}]'"
        )


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of an error message that suggests the known names closest to `name`; '' if none is close."""
    near = get_close_matches(name, list(known), n=4)
    return f'; did you mean {", ".join(near)}?' if near else ''
