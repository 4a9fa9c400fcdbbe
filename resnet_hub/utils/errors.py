"""Errors that a user can solve. The command line prints each as one line."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from difflib import get_close_matches


class ResnetHubError(Exception):
    """An operation failed although its input was usable. The command line exits with 1."""

    exit_code = 1


class InputError(ResnetHubError, ValueError):
    """An input or an option is unusable. The command line exits with 2."""

    exit_code = 2


class MissingExtraError(ResnetHubError, ImportError):
    """A package of an optional extra is not installed. The command line exits with 1.

    Args:
        package: name on PyPI.
        extra: the extra of resnet-hub that installs it.
    """

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(
            f'the package {package} is not installed; install it by '
            f"pip install 'resnet-hub[{extra}]', or in a clone by pip install -e '.[{extra}]'"
        )


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return the end of an error message, which suggests the known names closest to `name`; '' if none is close.

    Names that differ only in their numbers come first, the nearest number before the others.
    """
    near = sorted(get_close_matches(name, list(known), n=20), key=lambda other: _distance(name, other))
    return f'; did you mean {", ".join(near[:4])}?' if near else ''


def _distance(name: str, other: str) -> float:
    """Return how far apart the numbers of two names are; infinity if the names differ in something else."""
    if re.sub(r'\d+', '#', name) != re.sub(r'\d+', '#', other):
        return math.inf
    pairs = zip(re.findall(r'\d+', name), re.findall(r'\d+', other), strict=True)
    return sum(abs(int(one) - int(two)) for one, two in pairs)
