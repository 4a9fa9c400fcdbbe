"""Read the tensors of a checkpoint file without running any code in it.

The formats are safetensors, torch's zip files, torch's older pickles, and zip files that contain one of them.
"""

from __future__ import annotations

import hashlib
import io
import json
import stat
import struct
import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch

from resnet_hub.checkpoints.pickles import read_pickle
from resnet_hub.checkpoints.refusal import first_line
from resnet_hub.utils.errors import InputError
from resnet_hub.utils.files import digest

#: file name endings of PyTorch pickles, on the Hub and elsewhere
PICKLES = ('.bin', '.pth', '.pt', '.th', '.ckpt')
_MODEL_SUFFIXES = (*PICKLES, '.t7', '.tar', '.pkl', '.safetensors')
_FOLDER = 0x10  # file attribute of MS-DOS in zip files
_MAX_INFLATION = 50  # weights hardly compress; a record that claims a higher ratio could fill the memory

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
    classes: tuple[str, ...] = ()  #: classes of the pickle whose objects were read as plain dicts

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
                tree, classes = _parse(file, name)
            finally:
                sha256 = digested.result()
                after = path.stat()
                if (after.st_size, after.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
                    raise InputError(f'{path} changes while it is read: wait until it is written, then try again')
            return Source(tree, sha256, file, classes)
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
            raise InputError(f'{name} is a damaged zip archive ({first_line(error)}): download it again') from error


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


def _parse(file: Path | bytes, name: str) -> tuple[Any, tuple[str, ...]]:
    with _open(file) as stream:
        head = stream.read(32)
        for magic, what in _OTHER_FORMATS:
            if head.startswith(magic):
                raise InputError(f'{name} is {what}')
        if head[8:9] == b'{':
            return _parse_safetensors(stream, file, name), ()
        return read_pickle(stream, name)


def _parse_safetensors(stream: Any, file: Path | bytes, name: str) -> Any:
    try:
        tensors = safetensors.torch.load(file) if isinstance(file, bytes) else safetensors.torch.load_file(file)
        stream.seek(0)
        header = stream.read(int.from_bytes(stream.read(8), 'little'))
        json.loads(header, object_pairs_hook=_unique)  # safetensors takes the last of two tensors with one name
        return tensors
    except (safetensors.SafetensorError, *_DAMAGE) as error:
        raise InputError(f'{name} is a damaged safetensors file ({first_line(error)}): download it again') from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        names = [key for key, _ in pairs]
        raise ValueError(f'its header has {max(names, key=names.count)!r} twice')
    return result
