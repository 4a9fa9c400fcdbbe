"""The table of file formats, with the runtimes that read each."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from resnet_hub.utils.errors import InputError, did_you_mean


class Format(NamedTuple):
    """A row: one kind of exported file."""

    suffix: str
    backends: tuple[str, ...]  #: runtimes that read it, the default first; each is a module in `resnet_hub.runtimes`
    title: str


FORMATS = {
    'onnx': Format('.onnx', ('onnxruntime', 'openvino'), 'ONNX'),
    'openvino': Format('.xml', ('openvino',), 'OpenVINO IR'),
    'pt2': Format('.pt2', ('pytorch',), "PyTorch's exported program"),
    'executorch': Format('.pte', ('executorch',), 'ExecuTorch with the XNNPACK delegate'),
}
BACKENDS = tuple(dict.fromkeys(backend for row in FORMATS.values() for backend in row.backends))


def find_format(name: str) -> Format:
    """Return the row of a format.

    Raises:
        InputError: there is no such format.
    """
    if name not in FORMATS:
        raise InputError(f'unknown format {name!r}: use one of {", ".join(FORMATS)}{did_you_mean(name, FORMATS)}')
    return FORMATS[name]


def format_of(path: str | Path) -> str | None:
    """Return the name of the format with the suffix of a path; None if no format has it."""
    suffix = Path(path).suffix.lower()
    return next((name for name, row in FORMATS.items() if row.suffix == suffix), None)


def choose_backend(path: str | Path, backend: str | None = None) -> str:
    """Return the runtime that reads an exported file: `backend`, or the default of its format.

    Raises:
        InputError: the file has no known format, or `backend` does not read it.
    """
    name = format_of(path)
    if name is None:
        suffixes = ', '.join(row.suffix for row in FORMATS.values())
        raise InputError(f'{path} is not an exported file: its suffix must be one of {suffixes}')
    backends = FORMATS[name].backends
    if backend and backend not in backends:
        raise InputError(
            f'{path}: the runtime {backend!r} does not read {FORMATS[name].title}; use {" or ".join(backends)}'
        )
    return backend or backends[0]
