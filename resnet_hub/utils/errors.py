"""Errors that a user can do something about; the command line prints them as one line."""

from __future__ import annotations


class ResnetHubError(Exception):
    """Something failed on the way; exit code 1."""

    exit_code = 1


class InputError(ResnetHubError, ValueError):
    """Unusable input or options; exit code 2."""

    exit_code = 2


class MissingExtraError(ResnetHubError, ImportError):
    """A package of an optional extra is not installed; exit code 1."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"this needs {package}, of the extra {extra!r}: in a clone, pip install -e '.[{extra}]'")
