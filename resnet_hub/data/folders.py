"""Read folders of images with a folder for each class, and text files that list images."""

from __future__ import annotations

import re
from pathlib import Path

import torch

from resnet_hub.data.decode import image_suffixes
from resnet_hub.data.formats import SPLITS
from resnet_hub.data.labelled import LabelledImages
from resnet_hub.tables.datasets import Dataset
from resnet_hub.utils.errors import InputError


def read_class_folders(path: Path, split: str, row: Dataset | None) -> LabelledImages | None:
    """Read a folder with a folder for each class (torchvision's ImageFolder), or with such a folder for each split."""
    if not path.is_dir():
        return None
    folders = {child.name.lower(): child for child in sorted(path.iterdir()) if child.is_dir()}
    root = next((folders[name] for name in SPLITS[split] if name in folders), None)
    if root is None:
        others = {name for names in SPLITS.values() for name in names} & {*folders}
        if others:
            raise InputError(f'{path} has no folder {split}: it has {", ".join(sorted(others))}')
        root = path
    suffixes = image_suffixes()
    items: list[Path] = []
    labels: list[int] = []
    classes: list[str] = []
    for folder in sorted(child for child in root.iterdir() if child.is_dir()):
        found = sorted(p for p in folder.rglob('*') if p.suffix.lower() in suffixes)
        if found:
            labels += [len(classes)] * len(found)
            items += found
            classes.append(folder.name)
    if not items:
        return None
    return LabelledImages(items, torch.tensor(labels), tuple(classes), path.resolve().name)


def read_image_list(path: Path, split: str, row: Dataset | None) -> LabelledImages | None:
    """Read a text file with a path and a label on each line, as OpenOOD has them.

    The paths are relative to the folder of the list, to a folder above it, or to a folder in one of these. In OpenOOD
    the list is benchmark_imglist/cifar10/test_cifar10.txt, and its paths are relative to images_classic/.
    """
    if path.suffix != '.txt' or not path.is_file():
        return None
    rows = [line.rsplit(maxsplit=1) for line in path.read_text(encoding='utf-8').splitlines() if line.strip()]
    wrong = next((i for i, r in enumerate(rows, 1) if len(r) != 2 or not re.fullmatch(r'-?\d+', r[1])), None)
    if wrong or not rows:
        raise InputError(f'{path}: line {wrong or 1} must be a path and a whole number, such as "cat/1.png 3"')
    parents = [*path.resolve().parents][:4]
    roots = (root for parent in parents for root in (parent, *sorted(p for p in parent.iterdir() if p.is_dir())))
    root = next((root for root in roots if (root / rows[0][0]).is_file()), None)
    if root is None:
        raise InputError(
            f'{path}: {rows[0][0]} is in no folder beside or above the list; move the list into the folder from which '
            'its paths start'
        )
    return LabelledImages([root / r[0] for r in rows], torch.tensor([int(r[1]) for r in rows]), name=path.stem)
