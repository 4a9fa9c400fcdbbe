"""Read the tensors of a checkpoint file without running any code in it.

The formats are safetensors, torch's zip files, torch's older pickles, and zip files that contain one of them. torch's
restricted unpickler reads the pickles. Besides tensors it allows a fixed list of harmless types.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import io
import json
import pathlib
import re
import stat
import struct
import types
import warnings
import zipfile
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors.torch
import torch

from resnet_hub.utils.errors import InputError
from resnet_hub.utils.files import digest

#: file name endings of PyTorch pickles, on the Hub and elsewhere
PICKLES = ('.bin', '.pth', '.pt', '.th', '.ckpt')
_MODEL_SUFFIXES = (*PICKLES, '.t7', '.tar', '.pkl', '.safetensors')
_FOLDER = 0x10  # file attribute of MS-DOS in zip files
_MAX_INFLATION = 50  # weights hardly compress; a record that claims a higher ratio could fill the memory
_PROTOCOL_3_AND_LATER = {*b'BC\x8c\x8d\x8e\x8f\x90\x91\x92\x93\x94\x95\x96\x97\x98'}  #: operation codes

#: the first bytes of files in other formats, and what the user can do
_OTHER_FORMATS: list[tuple[bytes | tuple[bytes, ...], str]] = [
    (b'version https://git-lfs', 'the pointer that Git LFS left in place of the file: run `git lfs pull` there'),
    ((b'<!DOCTYPE', b'<!doctype', b'<html'), 'a web page: download the file itself (the "raw" link)'),
    (b'\x89HDF', 'an HDF5 file of Keras: it holds no PyTorch checkpoint; convert it with its own framework first'),
    (b'\x1f\x8b', 'gzip-compressed: unpack it first with gunzip or tar xzf'),
    (b'7z\xbc\xaf', 'a 7-Zip archive: unpack it first'),
    (b'Rar!', 'a RAR archive: unpack it first'),
    (b'\x93NUMPY', 'a numpy array: give a PyTorch or safetensors file'),
    (b'\x08\x03\x12', 'an ONNX model: give the PyTorch checkpoint that it was exported from'),
]


class Source(NamedTuple):
    """The content of a checkpoint file."""

    tree: Any  #: nested containers with tensors in them
    sha256: str  #: SHA-256 of the file, in hexadecimal
    file: Path | bytes  #: the path of the checkpoint, or its bytes if it is in a zip file

    def digest(self, algorithm: str) -> str:
        """Return the digest of the file for 'sha256', and of the checkpoint in it for any other algorithm."""
        if algorithm == 'sha256':
            return self.sha256
        data = self.file if isinstance(self.file, bytes) else self.file.read_bytes()
        return hashlib.new(algorithm, data, usedforsecurity=False).hexdigest()


def read(path: str | Path) -> Source:
    """Read a checkpoint file.

    Raises:
        InputError: the file is missing, unreadable or damaged, changes at the same time, has another format, or needs
            code to be run.
    """
    path = Path(path)
    try:
        before = path.stat()
        if not stat.S_ISREG(before.st_mode):
            kind = 'a directory: give the file in it' if path.is_dir() else 'no regular file: give a checkpoint file'
            raise InputError(f'{path} is {kind}')
        if not before.st_size:
            raise InputError(f'{path} is empty (0 bytes): download it again')
        with ThreadPoolExecutor(1) as pool:  # hashing releases Python's global lock, so that parsing runs beside it
            digested = pool.submit(digest, path)
            try:
                file, name = unpack(path, path.name)
                tree = _parse(file, name)
            finally:
                sha256 = digested.result()
                after = path.stat()
                if (after.st_size, after.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
                    raise InputError(f'{path} changes while it is read: wait until it is written, then try again')
            return Source(tree, sha256, file)
    except OSError as error:
        raise InputError(f'cannot read {path}: {error.strerror or error}; check the path') from error


def _open(file: Path | bytes) -> Any:
    return io.BytesIO(file) if isinstance(file, bytes) else open(file, 'rb')


def unpack(file: Path | bytes, name: str, nested: bool = False) -> tuple[Path | bytes, str]:
    """Return the only checkpoint in a zip file, and its name. Any other file is returned unchanged.

    torch's own files are zip files too. They are checked and returned unchanged.

    Raises:
        InputError: the zip file is damaged, or contains code, no checkpoint or several.
    """
    with _open(file) as stream:
        if stream.read(2) != b'PK':
            return file, name
        try:
            with zipfile.ZipFile(stream) as archive:
                names = archive.namelist()
                if any(item.endswith(('/constants.pkl', '/model.json')) for item in names):
                    raise InputError(
                        f'{name} is a TorchScript archive, which holds code: where you trust it, run python -c "import '
                        f"torch; torch.save(torch.jit.load({name!r}).state_dict(), 'weights.pth')\" and convert "
                        'weights.pth'
                    )
                if any(item.rpartition('/')[2] == 'data.pkl' for item in names):
                    for item in archive.infolist():
                        _check_record(archive, item, name)
                    return file, name
                models = [item for item in archive.infolist() if item.filename.lower().endswith(_MODEL_SUFFIXES)]
                if nested or len(models) != 1:
                    held = ', '.join(item.filename for item in models[:5]) or 'none'
                    raise InputError(f'{name} is a zip that must hold one checkpoint (it has {held}): unpack it first')
                _check_inflation(models[0], name)
                return unpack(archive.read(models[0]), models[0].filename, nested=True)
        except InputError:
            raise
        except (zipfile.BadZipFile, zlib.error, *_DAMAGE) as error:
            raise InputError(f'{name} is a damaged zip archive ({_line(error)}): download it again') from error


#: exceptions that Python's parsers raise on damaged bytes, besides their own types
_DAMAGE = (EOFError, KeyError, IndexError, OverflowError, struct.error, RuntimeError, ValueError)


def _check_inflation(item: zipfile.ZipInfo, name: str) -> None:
    if item.file_size > max(1 << 20, _MAX_INFLATION * item.compress_size):
        raise InputError(
            f'{name}: {item.filename} claims {item.file_size} bytes, compressed to {item.compress_size}, but weights '
            'hardly compress: unpack it yourself if you trust it'
        )


def _check_record(archive: zipfile.ZipFile, item: zipfile.ZipInfo, name: str) -> None:
    """Check what torch does not check in a zip file: the name of a record, its position, its kind and compression."""
    _check_inflation(item, name)
    if item.external_attr & _FOLDER and not item.is_dir():  # torch would read nothing, and leave the memory as it was
        raise InputError(f'{name}: the zip directory calls {item.filename} a folder; it is damaged: download it again')
    archive.open(item).close()  # compares the name in the directory with the one before the record
    if item.compress_type != zipfile.ZIP_STORED:
        archive.read(item)  # compares the checksum; torch itself writes only uncompressed records
    elif item.compress_size != item.file_size:
        raise InputError(
            f'{name}: the zip directory gives two sizes for {item.filename}, {item.compress_size} and {item.file_size} '
            'bytes, although it is not compressed; it is damaged: download it again'
        )


def _parse(file: Path | bytes, name: str) -> Any:
    with _open(file) as stream:
        head = stream.read(32)
        for magic, what in _OTHER_FORMATS:
            if head.startswith(magic):
                raise InputError(f'{name} is {what}')
        if head[8:9] == b'{':
            return _parse_safetensors(stream, file, name)
        stream.seek(0)
        return _parse_torch(stream, name, head)


def _parse_safetensors(stream: Any, file: Path | bytes, name: str) -> Any:
    try:
        tensors = safetensors.torch.load(file) if isinstance(file, bytes) else safetensors.torch.load_file(file)
        stream.seek(0)
        header = stream.read(int.from_bytes(stream.read(8), 'little'))
        json.loads(header, object_pairs_hook=_unique)  # safetensors takes the last of two tensors with one name
        return tensors
    except (safetensors.SafetensorError, *_DAMAGE) as error:
        raise InputError(f'{name} is a damaged safetensors file ({_line(error)}): download it again') from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        names = [key for key, _ in pairs]
        raise ValueError(f'its header has {max(names, key=names.count)!r} twice')
    return result


def _parse_torch(stream: Any, name: str, head: bytes) -> Any:
    with warnings.catch_warnings(), torch.serialization.safe_globals(_safe_globals()):
        warnings.simplefilter('ignore')  # warnings about old pickle protocols and storages; problems are raised
        try:
            return torch.load(stream, map_location=_keep_size, weights_only=True)
        except Exception as error:  # the restricted unpickler may raise anything on damaged or hostile bytes
            if needed := _find_code(str(error)):
                advice = (
                    f'where you trust it and its classes are installed, run python -c "import torch; torch.save(torch.load('
                    f"{name!r}, weights_only=False).state_dict(), 'weights.pth')\" (or save only the state_dict of what it "
                    'holds) and convert weights.pth'
                )
                is_class = needed.rpartition('.')[2][:1].isupper() or ' ' in needed
                raise InputError(
                    f'{name} is not a plain state dict: it needs {needed}, and unpickling that would run code; nothing was '
                    f'run; {advice if is_class else "get weights from a source you trust"}'
                ) from error
            raise InputError(
                f'{name} is damaged, or not a PyTorch or safetensors file ({_line(error)}): it begins with the bytes '
                f'{head[:4].hex(" ")}; download it again'
            ) from error


def _keep_size(storage: Any, location: str) -> Any:
    """Keep a storage on the CPU, and prevent it from growing.

    If a pickle claims more numbers for a tensor than the file has, torch enlarges the storage with uninitialised memory.
    A storage that numpy shares cannot grow.
    """
    torch.empty(0, dtype=torch.uint8).set_(storage).numpy()
    return storage


def _find_code(message: str) -> str:
    """Return what a pickle needs besides tensors and plain containers; '' if the error has another cause."""
    found = re.search(r'(?:GLOBAL|reduce for unrecognized function) (\S+)', message)
    operand = re.search(r'Unsupported operand (\d+)', message)
    if operand and int(operand[1]) in _PROTOCOL_3_AND_LATER:
        return 'a reader of pickle protocol 3 or newer'
    return found[1].strip('`.,') if found else ''


def _line(error: object, limit: int = 160) -> str:
    """Return the beginning of an error message on one line, without torch's advice to run the pickle."""
    text = str(error)
    if 'WeightsUnpickler error:' in text:
        text = text.partition('WeightsUnpickler error:')[2].strip().partition('\n')[0]
    text = ' '.join(text.split()) or type(error).__name__
    return text if len(text) <= limit else text[:limit] + ' …'


class _PlainDict:
    """Replaces a subclass of dict by a dict, so that its items are read and its code does not run."""

    def __new__(cls, *_: Any) -> dict[Any, Any]:  # type: ignore[misc]
        return {}


_DICTS = (
    'collections.defaultdict',
    'pytorch_lightning.utilities.parsing.AttributeDict',
    'lightning_fabric.utilities.data.AttributeDict',
    'lightning.fabric.utilities.data.AttributeDict',
)
_PATHS = ('pathlib.PosixPath', 'pathlib.PurePosixPath', 'pathlib._local.PosixPath')
_BUILTINS = (dict, list, tuple, int, float, bool, str)
_NUMBERS = {code: np.dtype(code) for code in '?bhilqBHILQefd'}


def _dtype(code: str, *_: Any) -> Any:
    """Return a numpy dtype of numbers. Structured dtypes are refused, because numpy could read beyond its data."""
    return _NUMBERS[np.dtype(code).char]


def _safe_globals() -> list[Callable[..., Any] | tuple[Callable[..., Any], str]]:
    """Return the types that are allowed beside tensors in a pickle: those that only hold values."""
    values: list[Any] = [np.float64(0), np.zeros(1)]
    scalar, array = (value.__reduce__()[0] for value in values)  # the functions that numpy's pickles of both call
    return [
        argparse.Namespace,
        types.SimpleNamespace,
        *((_PlainDict, name) for name in _DICTS),
        datetime.datetime,
        datetime.date,
        datetime.timedelta,
        *((pathlib.PurePosixPath, name) for name in _PATHS),  # a path that can be made on any system
        *((kind, f'{module}.{kind.__name__}') for kind in _BUILTINS for module in ('builtins', '__builtin__')),
        *((scalar, f'numpy.{core}.multiarray.scalar') for core in ('core', '_core')),
        *((array, f'numpy.{core}.multiarray._reconstruct') for core in ('core', '_core')),
        (_dtype, 'numpy.dtype'),
        np.ndarray,
        *{type(item) for item in _NUMBERS.values()},
    ]
