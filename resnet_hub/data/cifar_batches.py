"""Read CIFAR as its authors publish it: pickles, of which no code is run."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch

from resnet_hub.data.labelled import LabelledImages
from resnet_hub.tables.datasets import DATASETS, Dataset
from resnet_hub.utils.errors import InputError


def read_cifar_batches(path: Path, split: str, row: Dataset | None) -> LabelledImages | None:
    """Read cifar-10-batches-py and cifar-100-python, the folders that torchvision's CIFAR10 and CIFAR100 download."""
    for folder, dataset, files in (
        ('cifar-10-batches-py', 'cifar10', {'train': [f'data_batch_{i}' for i in range(1, 6)], 'test': ['test_batch']}),
        ('cifar-100-python', 'cifar100', {'train': ['train'], 'test': ['test']}),
    ):
        wanted = row is None or row.classes == DATASETS[dataset].classes
        root = path if path.name == folder else path / folder
        if root.is_dir() and wanted and split in files:
            batches = [_read_batch(root / name) for name in files[split]]
            pixels = np.concatenate([batch['data'] for batch in batches]).reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
            key = 'labels' if dataset == 'cifar10' else 'fine_labels'
            labels = torch.tensor([label for batch in batches for label in batch[key]])
            return LabelledImages(list(pixels), labels, DATASETS[dataset].classes, dataset)
    return None


def _read_batch(file: Path) -> dict[str, Any]:
    """Read a batch: a dictionary with an array and lists, which the authors of CIFAR wrote with pickle.

    No code of the file runs. `_ArraysOnly` replaces numpy's arrays by `_PickledArray`, and refuses every other class
    and function.
    """
    try:
        with open(file, 'rb') as stream:
            batch = _ArraysOnly(stream, encoding='latin1').load()
        return {**batch, 'data': batch['data'].array()}
    except FileNotFoundError as error:
        raise InputError(f'{file}: no such file; download the data set again') from error
    except InputError:
        raise
    except Exception as error:  # pickle raises many kinds on broken bytes
        raise InputError(f'{file} cannot be read ({error}); download the data set again') from error


class _PickledArray:
    """Replaces numpy's functions that rebuild an array or a dtype. It only stores their arguments."""

    def __init__(self, *arguments: Any) -> None:
        self.arguments: tuple[Any, ...] = arguments
        self.state: tuple[Any, ...] = ()

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def array(self) -> np.ndarray:
        """Return the uint8 array of the state (version, shape, dtype, is_fortran, data)."""
        _, shape, dtype, is_fortran, data = self.state
        if dtype.arguments[0] != 'u1' or is_fortran:
            raise InputError('the array of images is not uint8 in C order')
        data = data.encode('latin1') if isinstance(data, str) else data
        return np.frombuffer(data, np.uint8).reshape(shape)


def _to_bytes(text: str, encoding: str) -> bytes:
    return text.encode('latin1')


class _ArraysOnly(pickle.Unpickler):
    """An unpickler that can build numbers, text, lists, dictionaries and `_PickledArray` only."""

    def find_class(self, module: str, name: str) -> Any:
        package = module.partition('.')[0]
        if package == 'numpy' and name in ('_reconstruct', 'ndarray', 'dtype'):
            return _PickledArray
        if (module, name) == ('_codecs', 'encode'):  # Python 3 writes bytes in this way
            return _to_bytes
        raise InputError(
            f'the file asks for {module}.{name}, which no batch of CIFAR needs; it was not loaded, download the data '
            'set again'
        )
