"""Labelled images as one tensor, and random batches of them."""

from __future__ import annotations

import functools
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from resnet_hub.tables.datasets import Dataset, Triple, find_dataset
from resnet_hub.utils.errors import InputError, MissingExtraError


@dataclass(frozen=True)
class Images:
    """A split in memory, on any device."""

    pixels: Tensor  #: uint8 (N, H, W, 3)
    labels: Tensor  #: int64 (N,)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: Tensor | slice) -> Images:
        return Images(self.pixels[index], self.labels[index])

    def to(self, device: torch.device | str) -> Images:
        return Images(self.pixels.to(device), self.labels.to(device))


def load_images(name: str, split: str, folder: str | Path | None = None) -> Images:
    """Read a split, decoding every image once.

    Args:
        name: data set ('cifar10', 'cifar100', 'svhn').
        split: 'train' or 'test'.
        folder: holds {split}-*.parquet in the schema of the Hub's data set, directly, in a folder `name`, or below;
            None fetches them from the Hub.

    Raises:
        InputError: no such files, or they are damaged or of another data set.
        ResnetHubError: the Hub cannot be reached.
        MissingExtraError: pyarrow is not installed.
    """
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError:
        raise MissingExtraError('pyarrow', 'train') from None
    import numpy as np
    from tqdm.auto import tqdm

    dataset = find_dataset(name)
    files = _parquet_files(name, dataset, split, folder)
    pixels, labels = [], []
    with tqdm(desc=f'{name} {split}', unit=' images', leave=False, delay=1, disable=None) as bar:
        for file in files:
            try:
                for decoded, classes in _read_batches(file, name, dataset):
                    pixels += decoded
                    labels += classes
                    bar.update(len(classes))
            except InputError:
                raise
            except (OSError, ValueError, KeyError, SyntaxError) as error:  # of pyarrow and Pillow, by damaged bytes
                reason = ' '.join(str(error).split())
                raise InputError(f'{file} cannot be read ({reason}); if it is damaged, download it again') from None
    if not labels:
        raise InputError(f'{files[0].parent} holds no images: download it again')
    images = Images(torch.from_numpy(np.stack(pixels)), torch.tensor(labels))
    if not 0 <= int(images.labels.min()) <= int(images.labels.max()) < len(dataset.classes):
        raise InputError(f'{files[0].parent}: labels outside 0 … {len(dataset.classes) - 1}; this is not {name}')
    return images


def _read_batches(file: Path, name: str, dataset: Dataset) -> Iterator[tuple[list[Any], list[int]]]:
    """Decoded images, uint8 (H, W, 3), and their labels, a thousand at a time."""
    import numpy as np
    import pyarrow.parquet as pq
    from PIL import Image

    columns = pq.read_schema(file).names
    if dataset.image not in columns or dataset.label not in columns:
        shown = f'{", ".join(columns)}, not {dataset.image}, {dataset.label}'
        raise InputError(f'{file} is not {name}: its columns are {shown}')
    for batch in pq.ParquetFile(file).iter_batches(1024, columns=[dataset.image, dataset.label]):
        encoded = batch.column(0).field('bytes').to_pylist()
        images = [np.asarray(Image.open(io.BytesIO(item)).convert('RGB')) for item in encoded]
        yield images, batch.column(1).to_pylist()


def _parquet_files(name: str, dataset: Dataset, split: str, folder: str | Path | None) -> list[Path]:
    pattern = f'{split}-*.parquet'
    if folder is None:
        from huggingface_hub import snapshot_download

        from resnet_hub.utils.hub_client import ask

        wanted: Any = {'repo_type': 'dataset', 'allow_patterns': f'{dataset.folder}/{pattern}'}
        folder = Path(ask(dataset.repo, lambda: snapshot_download(dataset.repo, **wanted))) / dataset.folder
    folder = Path(folder)
    for files in (sorted(folder.glob(pattern)), sorted((folder / name).rglob(pattern)), sorted(folder.rglob(pattern))):
        if files:
            return files
    raise InputError(
        f'no {pattern} in {folder}: expected the parquet files of https://huggingface.co/datasets/{dataset.repo}'
    )


def normalise(pixels: Tensor, mean: Triple, std: Triple) -> Tensor:
    """uint8 (N, H, W, 3) to float32 (N, 3, H, W) in channels_last order: (x / 255 - mean) / std."""
    shift, scale = (_in_pixels(tuple(values), pixels.device) for values in (mean, std))
    return ((pixels.float() - shift) / scale).permute(0, 3, 1, 2)


@functools.cache
def _in_pixels(values: Triple, device: torch.device) -> Tensor:
    return torch.tensor(values, device=device) * 255
