"""Read torch's pickles with its restricted unpickler, so that no code runs that a file names.

Besides tensors it allows a fixed list of harmless types. Objects of any other class are read as dicts.
"""

from __future__ import annotations

import argparse
import datetime
import pathlib
import re
import types
import warnings
from collections import OrderedDict
from collections.abc import Mapping
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch

from resnet_hub.checkpoints.contents import mappings_of
from resnet_hub.checkpoints.refusal import first_line
from resnet_hub.utils.errors import InputError

_PROTOCOL_3_AND_LATER = {*b'BC\x8c\x8d\x8e\x8f\x90\x91\x92\x93\x94\x95\x96\x97\x98'}  #: operation codes
_MOST_CLASSES = 50  #: the file is read again for each class


def _new_dict(*_: Any) -> dict[Any, Any]:
    """Take the place of defaultdict, which could be given any function to call."""
    return {}


def _new_list(*_: Any) -> list[Any]:
    """Take the place of deque, because the unpickler appends only to lists."""
    return []


class _UnknownClass:
    """Replaces a class that a pickle names: its objects are read as dicts, and no code of the class runs.

    The attributes of an object become those of its OrderedDict, where nothing reads them.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.objects: list[OrderedDict[Any, Any]] = []
        self.__new__ = self._new  # type: ignore[method-assign, assignment]  # the unpickler calls it with the class

    def _new(self, *_: Any) -> OrderedDict[Any, Any]:
        self.objects.append(OrderedDict())
        return self.objects[-1]

    def __call__(self, *args: Any) -> OrderedDict[Any, Any]:
        """Refuse a call of the class, which may do anything, and which data classes do not need."""
        if args:
            raise UnpicklingError(f'GLOBAL {self.name} was called')
        return self._new()


_PATHS = ('pathlib.PosixPath', 'pathlib.PurePosixPath', 'pathlib._local.PosixPath')
_BUILTINS = (dict, list, tuple, frozenset, int, float, bool, str)
_NUMBERS = {code: np.dtype(code) for code in '?bhilqBHILQefd'}


def _dtype(code: str, *_: Any) -> Any:
    """Return a numpy dtype of numbers. Structured dtypes are refused, because numpy could read beyond its data."""
    return _NUMBERS[np.dtype(code).char]


def _safe_globals() -> list[Any]:
    """Return the types that are allowed beside tensors in a pickle: those that only hold values."""
    values: list[Any] = [np.float64(0), np.zeros(1)]
    scalar, array = (value.__reduce__()[0] for value in values)  # the functions that numpy's pickles of both call
    return [
        argparse.Namespace,
        types.SimpleNamespace,
        (_new_dict, 'collections.defaultdict'),
        (_new_list, 'collections.deque'),
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


def read_pickle(stream: Any, name: str) -> tuple[Any, tuple[str, ...]]:
    """Read the content of a file that torch.save wrote, in its zip format or the older one.

    Returns:
        Nested containers with tensors in them, and the classes whose objects were read as dicts.

    Raises:
        InputError: the file is damaged or no pickle, or its tensors cannot be had without running code.
    """
    stream.seek(0)
    head = stream.read(4)
    classes: dict[str, _UnknownClass] = {}
    while True:
        stream.seek(0)
        try:
            tree = _load(stream, classes)
            break
        except Exception as error:  # the restricted unpickler may raise anything on damaged or hostile bytes
            needed = _find_code(str(error)) or next(reversed(classes), '')
            if _is_class(needed) and needed not in classes and len(classes) < _MOST_CLASSES:
                classes[needed] = _UnknownClass(needed)
            elif needed:
                raise _code_needed(name, needed) from error
            else:
                reason = '' if 'operand' in str(error) else f' ({first_line(error)})'
                raise InputError(
                    f'{name} is damaged, or not a PyTorch or safetensors file{reason}: it begins with the bytes '
                    f'{head.hex(" ")}; download it again'
                ) from error
    modules = [item.name for item in classes.values() if any('_modules' in vars(dict_) for dict_ in item.objects)]
    if modules and not _has_weights(tree):
        raise _code_needed(name, modules[0])
    return tree, tuple(classes)


def _load(stream: Any, classes: Mapping[str, _UnknownClass]) -> Any:
    allowed = [*_safe_globals(), *((item, name) for name, item in classes.items())]
    with warnings.catch_warnings(), torch.serialization.safe_globals(allowed):
        warnings.simplefilter('ignore')  # warnings about old pickle protocols and storages; problems are raised
        return torch.load(stream, map_location=_keep_size, weights_only=True)


def _has_weights(tree: Any) -> bool:
    """Return whether there is a tensor of two or more dimensions in the containers."""
    return any(tensor.ndim > 1 for _, tensors in mappings_of(tree) for tensor in tensors.values())


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


def _is_class(needed: str) -> bool:
    return needed.rpartition('.')[2][:1].isupper()


def _code_needed(name: str, needed: str) -> InputError:
    advice = (
        f'where you trust it and its classes are installed, run python -c "import torch; torch.save(torch.load('
        f"{name!r}, weights_only=False).state_dict(), 'weights.pth')\" (or save only the state_dict of what it "
        'holds) and convert weights.pth'
    )
    return InputError(
        f'{name} is not a plain state dict: it needs {needed}, and unpickling that would run code; nothing was '
        f'run; {advice if _is_class(needed) or " " in needed else "get weights from a source you trust"}'
    )
