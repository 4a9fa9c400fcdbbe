"""Read labelled images from many formats.

A reader takes a path, the name of a split, and the known data set that is wanted, or None. It returns None for a path
that is not in its format.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from resnet_hub.data.arrays import read_npy, read_npz, read_svhn
from resnet_hub.data.cifar_batches import read_cifar_batches
from resnet_hub.data.decode import find_images
from resnet_hub.data.folders import read_class_folders, read_image_list
from resnet_hub.data.formats import FORMATS, SPLITS
from resnet_hub.data.hub_datasets import HUB, fetch, fetch_known
from resnet_hub.data.images import Images
from resnet_hub.data.labelled import LabelledImages
from resnet_hub.data.parquet import read_parquet
from resnet_hub.tables.datasets import DATASETS, Dataset, find_dataset
from resnet_hub.utils.errors import InputError, did_you_mean

_Reader = Callable[[Path, str, Dataset | None], LabelledImages | None]

#: the readers, in the order in which they are tried
_READERS: tuple[_Reader, ...] = (
    read_parquet,
    read_npz,
    read_npy,
    read_svhn,
    read_image_list,
    read_cifar_batches,
    read_class_folders,
)


def read_labelled(
    source: str | Path,
    split: str = 'test',
    *,
    dataset: str | None = None,
    need_labels: bool = True,
) -> LabelledImages:
    """Find labelled images in any format. They are decoded later, when they are used.

    Args:
        source: a file or folder; 'hf://datasets/OWNER/NAME', optionally with '@REVISION' and '/SUBFOLDER'; or the name
            of a known data set ('cifar10'), which is fetched from the Hub unless there is a folder of this name.
        split: 'train', 'val' or 'test'. If there is no test split, 'test' reads the validation split. A folder of class
            folders without splits is read completely, whatever the split.
        dataset: the name of the known data set to which the images must belong. If `source` has a folder of this name,
            the folder is read.
        need_labels: False also reads images without labels; their label is -1.

    Returns:
        The images of the split, not decoded yet.

    Raises:
        InputError: `source` does not exist, has no such split or an unknown format, is damaged, or lacks labels.
        ResnetHubError: the Hub cannot be reached.
        MissingExtraError: the format needs a package that is not installed.
    """
    if split not in SPLITS:
        raise InputError(f'unknown split {split!r}: use one of {", ".join(SPLITS)}')
    row = find_dataset(dataset) if dataset else None
    path, repo = Path(source), None
    if str(source).startswith(HUB):
        repo = str(source).removeprefix(HUB)
        path = fetch(repo, split)
    elif str(source) in DATASETS and not path.exists():
        dataset, row = str(source), find_dataset(str(source))
        path = fetch_known(row, split)
    elif dataset and (path / dataset).is_dir():
        path = path / dataset
    if not path.exists():
        raise InputError(f'{source}: no such file or folder{did_you_mean(str(source), DATASETS)}')
    images = _read(path, split, row, need_labels)
    if row and images.classes not in ((), row.classes):
        shown = f'{", ".join(images.classes[:10])}{" …" * (len(images.classes) > 10)}'
        raise InputError(
            f"{source} is not {dataset}: its classes are {shown}; leave out --dataset, or with a recipe add --dataset ''"
        )
    images = replace(images, classes=row.classes if row else images.classes)
    _check_labels(images, need_labels)
    return replace(images, name=dataset or (images.name if images.name in DATASETS else repo or images.name))


def load_images(name: str, split: str, folder: str | Path | None = None) -> Images:
    """Read and decode a split of a known data set into one tensor.

    Args:
        name: data set ('cifar10', 'cifar100', 'svhn').
        split: 'train' or 'test'.
        folder: holds the images in any format that `read_labelled` reads; None downloads them from the Hub.

    Returns:
        Images with pixels uint8 (N, 32, 32, 3) and labels int64 (N,).

    Raises:
        InputError: there are no such files, or they are damaged or belong to another data set.
        ResnetHubError: the Hub cannot be reached.
        MissingExtraError: a package is not installed.
    """
    find_dataset(name)
    return read_labelled(name if folder is None else folder, split, dataset=name).load()


def _read(path: Path, split: str, row: Dataset | None, need_labels: bool) -> LabelledImages:
    for reader in _READERS:
        images = reader(path, split, row)
        if images is not None:
            return images
    if not need_labels:
        found = find_images([path])
        return LabelledImages(found, torch.full((len(found),), -1), name=path.name)
    where = f'; the files of {row.repo} are at https://huggingface.co/datasets/{row.repo}' if row else ''
    raise InputError(f'{path} holds no labelled images: expected {FORMATS}{where}')


def _check_labels(images: LabelledImages, need_labels: bool) -> None:
    if not len(images):
        raise InputError(f'{images.name} holds no images; if it should, download it again')
    smallest, largest = int(images.labels.min()), int(images.labels.max())
    if smallest < 0 and need_labels:
        count = int((images.labels < 0).sum())
        raise InputError(
            f'{images.name}: {count:,} of {len(images):,} images have no label; choose a split with labels'
        )
    if images.classes and largest >= len(images.classes):
        raise InputError(
            f'{images.name} has the label {largest}, but only {len(images.classes)} classes: labels must be from 0 to '
            f'{len(images.classes) - 1}'
        )
