"""Labelled images as one tensor, and random batches of them."""

from __future__ import annotations

import functools
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from resnet_hub.tables.datasets import Dataset, Triple, find_dataset
from resnet_hub.utils.distributed import rank, world_size
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


def _send(tensor: Tensor, device: torch.device) -> Tensor:
    """To a device without waiting for what it has to do before; a plain copy to a GPU would."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == 'cuda' else tensor.to(device)


@functools.lru_cache(1)
def _mirrored_first(count: int, seed: int) -> Tensor:
    """Which of `count` images are mirrored in the first epoch, bool; one draw for a whole run."""
    return torch.rand(count, generator=torch.Generator().manual_seed(seed)) < 0.5


FLIPS = ('random', 'alternating', 'none')


@dataclass(frozen=True)
class Augmentation:
    """Random changes of a training image; He et al. 2015, §4.2: pad 4, crop, flip."""

    crop: int = 4  #: pixels padded on every side before the random crop
    padding: str = 'reflect'  #: 'reflect' or 'zeros'
    flip: str = 'random'  #: 'random'; 'alternating': an image is mirrored in every other epoch; 'none'
    cutout: int = 0  #: side of a square set to the mean (DeVries & Taylor 2017), in pixels

    def __post_init__(self) -> None:
        if self.padding not in ('reflect', 'zeros'):
            raise InputError(f"padding must be 'reflect' or 'zeros', not {self.padding!r}")
        if self.flip not in FLIPS:
            raise InputError(f'flip must be one of {", ".join(map(repr, FLIPS))}, not {self.flip!r}')

    def crops(self, pixels: Tensor, index: Tensor, generator: torch.Generator, epoch: int = 0, seed: int = 0) -> Tensor:
        """Randomly cropped and flipped copies of `pixels[index]`, uint8 (B, H, W, 3), by one gather.

        Draws from `generator`, on the CPU, so that every device sees the same images.
        """
        count, (height, width) = len(index), pixels.shape[1:3]
        shift = torch.randint(-self.crop, self.crop + 1, (2, count, 1), generator=generator)
        mirrored = torch.rand(count, 1, generator=generator) < (0.5 if self.flip == 'random' else 0)
        if self.flip == 'alternating':
            mirrored = (_mirrored_first(len(pixels), seed)[index] ^ (epoch % 2 == 1))[:, None]
        rows = torch.arange(height) + shift[0]
        columns = torch.arange(width) + shift[1]
        columns = torch.where(mirrored, width - 1 - columns, columns)
        index, rows, columns = (_send(t, pixels.device) for t in (index, rows, columns))
        inside = ((rows >= 0) & (rows < height))[:, :, None] & ((columns >= 0) & (columns < width))[:, None, :]
        rows = (height - 1) - ((height - 1) - rows.abs()).abs()
        columns = (width - 1) - ((width - 1) - columns.abs()).abs()
        out = pixels[index[:, None, None], rows[:, :, None], columns[:, None, :]]
        return out if self.padding == 'reflect' else out * inside[..., None]

    def cut_out(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Zero a square of side `cutout` around a random pixel of each image (N, C, H, W)."""
        if not self.cutout:
            return x
        height, width = x.shape[2:]
        size = torch.tensor([height, width])[:, None, None]
        start = (torch.rand(2, len(x), 1, generator=generator) * size).long() - self.cutout // 2
        row, column = torch.arange(height) - start[0], torch.arange(width) - start[1]
        rows, columns = (_send((t >= 0) & (t < self.cutout), x.device) for t in (row, column))
        return x.masked_fill(rows[:, None, :, None] & columns[:, None, None, :], 0)


def resize(x: Tensor, size: int | None) -> Tensor:
    """(N, C, H, W) to (N, C, `size`, `size`), bilinear with antialiasing; None: as they are."""
    if size is None or (size, size) == x.shape[2:]:
        return x
    return F.interpolate(x, (size, size), mode='bilinear', antialias=True)


def training_batches(
    images: Images,
    batch_size: int,
    augmentation: Augmentation,
    mean: Triple,
    std: Triple,
    seed: int,
    epoch: int,
) -> Iterator[tuple[Tensor, Tensor]]:
    """An epoch of full random batches: float32 (B, 3, H, W), int64 (B,).

    Everything random follows from `seed` and `epoch`, so an epoch that is begun again is the same epoch. Under torchrun
    each process gets its share of every batch.
    """
    generator = torch.Generator().manual_seed(1_000_003 * seed + epoch)
    order = torch.randperm(len(images), generator=generator)
    share = slice(rank(), None, world_size())
    for index in order.split(batch_size):
        if len(index) < batch_size:
            return
        x = normalise(augmentation.crops(images.pixels, index, generator, epoch, seed), mean, std)
        x = augmentation.cut_out(x, generator)[share]
        yield x, images.labels[_send(index[share], images.labels.device)]
