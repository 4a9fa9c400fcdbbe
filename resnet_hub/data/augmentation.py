"""Random changes of training images, and the random batches of an epoch."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from resnet_hub.data.images import Images, normalise
from resnet_hub.tables.datasets import Triple
from resnet_hub.utils.distributed import rank, world_size
from resnet_hub.utils.errors import InputError


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
