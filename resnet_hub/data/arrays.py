"""Read arrays of images: numpy files such as those of CIFAR-10-C, and SVHN as its authors publish it."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import torch

from resnet_hub.data.formats import SPLITS
from resnet_hub.data.labelled import LabelledImages
from resnet_hub.tables.datasets import DATASETS, Dataset
from resnet_hub.utils.errors import InputError, MissingExtraError

#: the names of files and folders of published arrays, and the data set whose classes they have
_ARRAYS = {'cifar10.1': 'cifar10', 'cifar-10.1': 'cifar10', 'cifar-10-c': 'cifar10', 'cifar-100-c': 'cifar100'}

#: names of the images and of their labels, in one .npz file or as two .npy files; {} is the split
_PAIRS = (
    ('{}_images', '{}_labels'),
    ('x_{}', 'y_{}'),
    ('{}_data', '{}_labels'),
    ('images', 'labels'),
    ('data', 'labels'),
    ('x', 'y'),
)


def read_npz(path: Path, split: str, row: Dataset | None) -> LabelledImages | None:
    """Read a .npz file with an array of images and an array of labels."""
    if path.suffix != '.npz' or not path.is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as file:
            for images, labels in _PAIRS:
                for name in SPLITS[split]:
                    if {images.format(name), labels.format(name)} <= {*file.files}:
                        return _from_arrays(file[images.format(name)], file[labels.format(name)], path)
            shown = ', '.join(file.files)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f'{path} cannot be read as arrays of numbers ({error})') from error
    raise InputError(f'{path}: no images and labels for {split}; it holds {shown}, expected images and labels')


def read_npy(path: Path, split: str, row: Dataset | None) -> LabelledImages | None:
    """Read an array of images from one .npy file, and an array of labels from another (CIFAR-10-C, CIFAR-10.1)."""
    if path.is_dir():
        files = [file for file in sorted(path.glob('*.npy')) if not re.search('label|^y', file.stem)]
        of_split = [file for file in files if any(name in file.stem.lower() for name in SPLITS[split])]
        files = of_split or files
        if not files:
            return None
        if len(files) > 1:
            shown = ', '.join(file.name for file in files)
            raise InputError(f'{path} holds several arrays of images: give one of {shown}')
        path = files[0]
    if path.suffix != '.npy' or not path.is_file():
        return None
    names = (
        re.sub(image, label, path.stem)
        for image, label in (('data|images', 'labels'), ('^[xX]', 'y'), ('^.*$', 'labels'))
    )
    beside = [file for file in (path.with_name(f'{name}.npy') for name in names) if file.is_file() and file != path]
    if not beside:
        raise InputError(f'{path}: there are no labels beside it; expected labels.npy')
    labels = beside[0]
    try:
        return _from_arrays(np.load(path, mmap_mode='r'), np.load(labels), path)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f'{path} or {labels.name} cannot be read as an array of numbers ({error})') from error


def _from_arrays(pixels: np.ndarray, labels: np.ndarray, path: Path) -> LabelledImages:
    if pixels.dtype != np.uint8 or pixels.ndim not in (3, 4) or (pixels.ndim == 4 and pixels.shape[3] not in (1, 3)):
        wanted = 'uint8 of the shape (N, H, W, 3) or (N, H, W)'
        raise InputError(f'{path}: the images are {pixels.dtype} of the shape {pixels.shape}, expected {wanted}')
    labels = labels.reshape(-1)
    if labels.dtype.kind not in 'iu' or len(labels) != len(pixels):
        raise InputError(
            f'{path} has {len(pixels):,} images, but {len(labels):,} labels of type {labels.dtype}: one whole number '
            'for each image was expected'
        )
    places = [part.lower() for part in path.resolve().parts[-3:]]
    known = next((data for key, data in _ARRAYS.items() if any(part.startswith(key) for part in places)), None)
    return LabelledImages(
        list(pixels), torch.from_numpy(labels.astype(np.int64)), DATASETS[known].classes if known else (), path.stem
    )


def read_svhn(path: Path, split: str, row: Dataset | None) -> LabelledImages | None:
    """Read SVHN's test_32x32.mat, or the folder into which torchvision downloads it."""
    file = path / f'{split}_32x32.mat' if path.is_dir() else path
    if file.suffix != '.mat' or not file.is_file():
        return None
    try:
        from scipy.io import loadmat
    except ImportError as error:
        raise MissingExtraError('scipy', 'data') from error
    try:
        content = loadmat(file, variable_names=['X', 'y'])
        pixels, labels = content['X'], content['y']
    except Exception as error:  # scipy raises many kinds on broken bytes
        raise InputError(f'{file} cannot be read ({error}); download it again') from error
    images = _from_arrays(np.ascontiguousarray(pixels.transpose(3, 0, 1, 2)), labels % 10, file)  # 10 stands for 0
    return LabelledImages(images.items, images.labels, DATASETS['svhn'].classes, 'svhn')
