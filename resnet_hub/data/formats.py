"""What all readers of labelled images share: the names of splits, and the formats that messages list."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from resnet_hub.utils.errors import InputError

FORMATS = 'a folder with a folder of images for each class, parquet, .npy, .npz, .mat (SVHN), or a .txt list of images'

#: names of each split, the preferred one first
SPLITS = {
    'train': ('train', 'training'),
    'val': ('val', 'validation', 'valid', 'dev'),
    'test': ('test', 'testing', 'val', 'validation', 'valid', 'dev'),
}


def files_of_split(files: Sequence[Any], split: str, where: object) -> list[Any]:
    """Return the files of a split. The beginning of a file's name, or the name of its folder, shows its split.

    If no name shows any split, all files are returned.
    """

    def belongs(file: Any, name: str) -> bool:
        return re.match(rf'{name}([^a-z]|$)', file.stem.lower()) is not None or file.parent.name.lower() == name

    for name in SPLITS[split]:
        found = sorted(file for file in files if belongs(file, name))
        if found:
            return found
    others = {name for names in SPLITS.values() for name in names if any(belongs(file, name) for file in files)}
    if others:
        raise InputError(f'no {split}-*.parquet in {where}: it has the split {", ".join(sorted(others))}')
    return sorted(files)
