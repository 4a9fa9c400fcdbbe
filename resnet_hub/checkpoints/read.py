"""Bytes to tensors, without running anything: safetensors, torch's zips and older pickles, zips that hold one of them.

A file is read once; its digest and its tensors are those of the same bytes. Pickles go through torch's restricted
unpickler with a fixed list of harmless types beside tensors.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import stat
import struct
import warnings
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch._weights_only_unpickler import Unpickler

from resnet_hub.utils.errors import InputError

#: how pickles of weights are called, on the Hub and elsewhere
PICKLES = ('.bin', '.pth', '.pt', '.th', '.ckpt')
_MODEL_SUFFIXES = (*PICKLES, '.t7', '.tar', '.pkl', '.safetensors')
_MAX_HEADER = 100 << 20  # as safetensors itself has it
_MAX_INFLATION = 50  # weights hardly compress; a file that claims more is a trap
#: subclasses of dict that checkpoints hold beside weights
_DICTS = (
    'collections.defaultdict',
    'pytorch_lightning.utilities.parsing.AttributeDict',
    'lightning_fabric.utilities.data.AttributeDict',
    'lightning.fabric.utilities.data.AttributeDict',
)
_NEWER_OPERANDS = {*b'BC\x8c\x8d\x8e\x8f\x90\x91\x92\x93\x94\x95\x96\x97\x98'}  #: that protocol 2 does not have
_BUILTINS = (dict, list, tuple, int, float, bool, str)

#: the first bytes of what is not a checkpoint, and what to do
_OTHER_FORMATS: list[tuple[bytes, str]] = [
    (b'version https://git-lfs', 'the pointer that Git LFS left in place of the file: run `git lfs pull` there'),
    (b'<!DOCTYPE', 'a web page: download the file itself (the "raw" link)'),
    (b'<!doctype', 'a web page: download the file itself (the "raw" link)'),
    (b'<html', 'a web page: download the file itself (the "raw" link)'),
    (b'\x89HDF', 'an HDF5 file of Keras: it holds no PyTorch checkpoint; convert it with its own framework first'),
    (b'\x1f\x8b', 'gzip-compressed: unpack it first with gunzip or tar xzf'),
    (b'7z\xbc\xaf', 'a 7-Zip archive: unpack it first'),
    (b'Rar!', 'a RAR archive: unpack it first'),
    (b'\x93NUMPY', 'a numpy array: give a PyTorch or safetensors file'),
    (b'\x08\x03\x12', 'an ONNX model: give the PyTorch checkpoint that it was exported from'),
]

_OWNER = 'python -c "import torch; torch.save(torch.load({name!r}, weights_only=False).state_dict(), \'weights.pth\')"'


class Source(NamedTuple):
    """What a file holds."""

    tree: Any  #: nested containers with tensors in them
    digests: tuple[str, str]  #: 'sha256:…' of the file, and 'sha1:…' of what it packs, or of the file


def read(path: str | Path) -> Source:
    """Read a checkpoint file.

    Raises:
        InputError: it is missing, unreadable, changing, of another format, damaged, or would run code.
    """
    path = Path(path)
    data = _read_bytes(path)
    content, name = unpack(data, path.name)
    with ThreadPoolExecutor(2) as pool:  # digests need no lock of Python's
        sha256 = pool.submit(lambda: hashlib.sha256(data).hexdigest())
        sha1 = pool.submit(lambda: hashlib.sha1(content, usedforsecurity=False).hexdigest())
        tree = _parse(content, name)
        return Source(tree, (f'sha256:{sha256.result()}', f'sha1:{sha1.result()}'))


def _read_bytes(path: Path) -> bytes:
    try:
        before = path.stat()
        if not stat.S_ISREG(before.st_mode):
            kind = 'a directory: give the file in it' if path.is_dir() else 'no regular file: give a checkpoint file'
            raise InputError(f'{path} is {kind}')
        with open(path, 'rb') as file:
            data = file.read(before.st_size + 1)
        if len(data) != before.st_size or path.stat().st_mtime_ns != before.st_mtime_ns:
            raise InputError(f'{path} changes while it is read: wait until it is written, then try again')
    except OSError as error:
        raise InputError(f'cannot read {path}: {error.strerror or error}; check the path') from None
    if not data:
        raise InputError(f'{path} is empty (0 bytes): download it again')
    return data


def _parse(data: bytes, name: str) -> Any:
    for magic, what in _OTHER_FORMATS:
        if data.startswith(magic):
            raise InputError(f'{name} is {what}')
    if data[8:9] == b'{':
        return _parse_safetensors(data, name)
    return _parse_torch(data, name)


def _parse_safetensors(data: bytes, name: str) -> Any:
    import safetensors.torch

    (length,) = struct.unpack('<Q', data[:8])
    if length > min(_MAX_HEADER, len(data) - 8):
        raise InputError(
            f'{name}: bytes 0 to 7 give a safetensors header of {length} bytes, but the file has {len(data)}; '
            'it is damaged or truncated: download it again'
        )
    try:
        json.loads(data[8 : 8 + length], object_pairs_hook=_unique)
        return safetensors.torch.load(data)
    except InputError as error:
        raise InputError(f'{name}: {error}') from None
    except Exception as error:  # whatever a parser makes of damaged bytes
        raise InputError(f'{name} is no intact safetensors file ({_line(error)}): download it again') from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in pairs:
        if key in result:
            raise InputError(f'the safetensors header has {key!r} twice; write the file again')
        result[key] = value
    return result


def unpack(data: bytes, name: str, nested: bool = False) -> tuple[bytes, str]:
    """The one checkpoint that a zip holds, and its name; what is no zip, or torch's own kind of one, as it is."""
    if not data.startswith(b'PK'):
        return data, name
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            names = archive.namelist()
            if any(item.endswith('/constants.pkl') or item.endswith('/model.json') for item in names):
                raise InputError(
                    f'{name} is a TorchScript archive, which holds code: where you trust it, run python -c "import '
                    f"torch; torch.save(torch.jit.load({name!r}).state_dict(), 'weights.pth')\" and convert weights.pth"
                )
            if any(item.rpartition('/')[2] == 'data.pkl' for item in names):
                for item in archive.infolist():
                    _check_inflation(item, name)
                return data, name
            models = [item for item in archive.infolist() if item.filename.lower().endswith(_MODEL_SUFFIXES)]
            if nested or len(models) != 1:
                held = ', '.join(item.filename for item in models[:5]) or 'none'
                raise InputError(f'{name} is a zip that must hold one checkpoint (it has {held}): unpack it first')
            _check_inflation(models[0], name)
            return unpack(archive.read(models[0]), models[0].filename, nested=True)
    except InputError:
        raise
    except Exception as error:  # whatever a parser makes of damaged bytes
        raise InputError(f'{name} is no intact zip archive ({_line(error)}): download it again') from None


def _check_inflation(item: zipfile.ZipInfo, name: str) -> None:
    if item.file_size > max(1 << 20, _MAX_INFLATION * item.compress_size):
        raise InputError(
            f'{name}: {item.filename} claims {item.file_size} bytes out of {item.compress_size}, which no weights do: '
            'unpack it yourself if you trust it'
        )


def _parse_torch(data: bytes, name: str) -> Any:
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(_safe_globals()):
            warnings.simplefilter('ignore')  # of pickle protocols and storages of old; what matters is raised
            if data.startswith(b'PK'):
                _Bounded(data).load()
            return torch.load(io.BytesIO(data), map_location='cpu', weights_only=True)
    except Exception as error:  # whatever the unpickler makes of hostile or damaged bytes
        raise InputError(_explain(str(error), name) or _damaged(data, name, error)) from None


class _Bounded(Unpickler):
    """torch's restricted unpickler with storages that cannot grow.

    torch.load takes the sizes in the pickle of a zip at their word, and reads memory behind a record that is shorter.
    """

    def __init__(self, data: bytes) -> None:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            name = next(item for item in archive.namelist() if item.rpartition('/')[2] == 'data.pkl')
            super().__init__(io.BytesIO(archive.read(name)), encoding='utf-8')
            self.records = {item.filename: item.file_size for item in archive.infolist()}
            for item in archive.infolist():
                _check_record(archive, item)
        self.folder = name.rpartition('/')[0]
        self.data = data
        self.storages: dict[str, Any] = {}

    def persistent_load(self, pid: Any) -> Any:
        _, kind, key, _, count = pid
        dtype = torch.uint8 if kind is torch.UntypedStorage else kind.dtype
        size, held = count * dtype.itemsize, self.records.get(f'{self.folder}/data/{key}', -1)
        if size > held:
            raise InputError(f'storage {key} should have {size} bytes and has {max(held, 0)}')
        if key not in self.storages:  # which bytes does not matter here, only that there are so many and no more
            bytes_ = torch.frombuffer(self.data, dtype=torch.uint8, count=size) if size else torch.empty(0)
            self.storages[key] = bytes_.untyped_storage()
        return torch.storage.TypedStorage(wrap_storage=self.storages[key], dtype=dtype, _internal=True)


def _check_record(archive: zipfile.ZipFile, item: zipfile.ZipInfo) -> None:
    """What torch believes a zip's directory without looking: where a record lies, its name, how it is packed."""
    archive.open(item).close()  # compares the name in the directory with the one before the record
    if item.compress_type != zipfile.ZIP_STORED:
        archive.read(item)  # compares the sum; torch itself packs nothing
    elif item.compress_size != item.file_size:
        raise InputError(f'record {item.filename} has {item.compress_size} bytes, and {item.file_size} unpacked')


def _explain(message: str, name: str) -> str:
    """One line about a pickle that needs more than tensors and plain containers; '' if that is not the trouble."""
    found = re.search(r'(?:GLOBAL|reduce for unrecognized function) (\S+)', message)
    what = found[1].strip('`.,') if found else ''
    if what.rpartition('.')[2][:1].isupper():
        return (
            f'{name} is no plain state dict: its pickle needs the class {what}, and unpickling it would run code; '
            f'where that class is installed and if you trust the file, run {_OWNER.format(name=name)} '
            '(or save only the state_dict of what it holds) and convert weights.pth'
        )
    if what:
        return f'{name} would run code when unpickled ({what}): nothing was run; get weights from a source you trust'
    operand = re.search(r'Unsupported operand (\d+)', message)
    if operand and int(operand[1]) in _NEWER_OPERANDS:
        return (
            f'{name} is a pickle of protocol 3 or newer, and reading it would run code: where you trust it, load it '
            "and save its state_dict with torch.save(state_dict, 'weights.pth'), then convert that"
        )
    return ''


def _damaged(data: bytes, name: str, error: Exception) -> str:
    head = data[:4].hex(' ')
    return (
        f'{name} is no intact checkpoint ({_line(error)}): {len(data)} bytes that begin with {head}, where a PyTorch '
        'or safetensors file was expected; download it again'
    )


def _line(error: object, limit: int = 160) -> str:
    """The beginning of an error's text, on one line; of torch's, only what it found, not its advice to run pickles."""
    text = str(error)
    if 'WeightsUnpickler error:' in text:
        text = text.partition('WeightsUnpickler error:')[2].strip().partition('\n')[0]
    text = ' '.join(text.split()) or type(error).__name__
    return text if len(text) <= limit else text[:limit] + ' …'


class _PlainDict:
    """Stands in for subclasses of dict: their items without their code."""

    def __new__(cls, *_: Any) -> dict[Any, Any]:  # type: ignore[misc]
        return {}


def _safe_globals() -> list[Callable[..., Any] | tuple[Callable[..., Any], str]]:
    """What may stand beside tensors in a pickle: types that only hold values."""
    import argparse
    import datetime
    import pathlib
    import types

    import numpy as np

    multiarray = np._core.multiarray  # type: ignore[attr-defined]
    plain = {code: np.dtype(code) for code in '?bhilqBHILQefd'}

    def dtype(code: str, *_: Any) -> Any:
        """Numbers only: a crafted structured dtype could make numpy read beyond its data."""
        return plain[np.dtype(code).char]

    path = pathlib.PurePosixPath  # the path as a value, on any system
    return [
        argparse.Namespace,
        types.SimpleNamespace,
        *((_PlainDict, name) for name in _DICTS),
        datetime.datetime,
        datetime.date,
        datetime.timedelta,
        *((path, f'pathlib.{name}') for name in ('PosixPath', 'PurePosixPath', '_local.PosixPath')),
        *((kind, f'{module}.{kind.__name__}') for kind in _BUILTINS for module in ('builtins', '__builtin__')),
        *((multiarray.scalar, f'numpy.{core}.multiarray.scalar') for core in ('core', '_core')),
        *((multiarray._reconstruct, f'numpy.{core}.multiarray._reconstruct') for core in ('core', '_core')),
        (dtype, 'numpy.dtype'),
        np.ndarray,
        *{type(item) for item in plain.values()},
    ]
