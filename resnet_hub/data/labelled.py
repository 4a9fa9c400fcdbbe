"""Labelled images that are decoded only when they are needed."""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from resnet_hub.data.decode import as_8_bit, as_tensor, read_image
from resnet_hub.data.images import Images
from resnet_hub.utils.distributed import world_size
from resnet_hub.utils.errors import InputError

_FEW = 1000  #: up to this number of images, one process is faster than starting workers


@dataclass(frozen=True)
class LabelledImages:
    """Labelled images of any size and mode, as `read_labelled` finds them."""

    #: for each image a path, its encoded bytes, or a uint8 array (H, W), (H, W, 1) or (H, W, 3)
    items: Sequence[Any]
    labels: Tensor  #: int64 (N,), positions in `classes`; -1 for an image without a label
    classes: tuple[str, ...] = ()  #: names of the classes; empty if the data do not name them
    name: str = 'images'  #: name of the images in tables and messages

    def __repr__(self) -> str:
        return f'{type(self).__name__}({self.name!r}, {len(self):,} images, {len(self.classes)} classes)'

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: slice | Tensor) -> LabelledImages:
        """Return the images of a slice or of an int64 tensor of positions."""
        positions = torch.arange(len(self))[index]
        return replace(self, items=_Subset(self.items, positions.tolist()), labels=self.labels[index])

    def open(self, index: int, channels: int = 3) -> Image.Image:
        """Decode one image, upright, as RGB (3 channels) or grey (1 channel).

        Raises:
            InputError: the image is broken.
        """
        item = self.items[index]
        if isinstance(item, np.ndarray):
            array = item[..., 0] if item.ndim == 3 and item.shape[2] == 1 else item
            return as_8_bit(Image.fromarray(array), channels)
        if isinstance(item, bytes):
            return read_image(io.BytesIO(item), f'image {index} of {self.name}', channels)
        return read_image(item, channels=channels)

    def batches(
        self, transform: Callable[[Image.Image], Any], batches: Sequence[Sequence[int]], channels: int = 3
    ) -> Iterator[Tensor]:
        """Decode batches of images on all processor cores. Memory holds a few batches at a time.

        Args:
            transform: takes a PIL image and returns a tensor; all tensors have the same shape.
            batches: the positions of the images of each batch.
            channels: 3 for RGB, 1 for grey.

        Yields:
            One tensor per batch, with the batch in the first dimension.

        Raises:
            InputError: an image is broken.
        """
        workers = max(1, _cores() // world_size()) if sum(map(len, batches)) > _FEW else 0
        loader = DataLoader(
            _Decoder(self, transform, channels),
            batch_sampler=batches,  # type: ignore[arg-type]
            num_workers=workers if workers > 1 else 0,
            collate_fn=_stack,
        )
        with warnings.catch_warnings():  # Python 3.12 warns about any fork in a process with threads
            warnings.filterwarnings('ignore', 'This process .* is multi-threaded', DeprecationWarning)
            iterator = iter(loader)
        for batch in iterator:
            if isinstance(batch, InputError):
                raise batch
            yield batch

    def load(self, size: int | None = None, channels: int = 3) -> Images:
        """Decode all images into one tensor.

        Args:
            size: height and width of the result in pixels. The shorter side of each image is resized to it (bicubic),
                and the centre is cut out, as timm does for evaluation. None keeps the size of the images, which must
                be the same for all.
            channels: 3 for RGB, 1 for grey.

        Returns:
            The images with pixels uint8 (N, H, W, channels) on the CPU.

        Raises:
            InputError: there are no images, their sizes differ, or one is broken.
        """
        from tqdm.auto import tqdm

        if not len(self):
            raise InputError(f'{self.name} holds no images')
        first = self.items[0]
        if size is None and isinstance(first, np.ndarray) and first.shape[2:] == (channels,):
            return Images(torch.from_numpy(np.stack(self.items)), self.labels, self.classes, self.name)
        width, height = (size, size) if size else self.open(0, channels).size
        pixels = torch.empty(len(self), height, width, channels, dtype=torch.uint8)
        order = [range(start, min(start + 500, len(self))) for start in range(0, len(self), 500)]
        transform = _ToPixels(width, height, resize=size is not None)
        with tqdm(desc=self.name, total=len(self), unit=' images', leave=False, delay=1, disable=None) as bar:
            for positions, batch in zip(order, self.batches(transform, order, channels), strict=True):
                pixels[positions.start : positions.stop] = batch
                bar.update(len(batch))
        return Images(pixels, self.labels, self.classes, self.name)


class _Subset(Sequence[Any]):
    """Some items of a sequence. Each is read when it is used."""

    def __init__(self, items: Sequence[Any], positions: list[int]) -> None:
        self.items, self.positions = items, positions

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, index: Any) -> Any:
        return self.items[self.positions[index]]


class _ToPixels:
    """Turns a PIL image into uint8 (H, W, C) of one size."""

    def __init__(self, width: int, height: int, resize: bool) -> None:
        self.size, self.resize = (width, height), resize

    def __call__(self, image: Image.Image) -> Tensor:
        if image.size != self.size:
            if not self.resize:
                shown = ' and '.join(f'{width}×{height}' for width, height in (self.size, image.size))
                raise InputError(f'the images have several sizes, {shown}: give one size to resize them to')
            image = ImageOps.fit(image, self.size, Image.Resampling.BICUBIC)
        return as_tensor(image)


class _Decoder(Dataset[Any]):
    """Decodes and transforms images in a worker process of a DataLoader. Returns an error instead of raising it."""

    def __init__(self, images: LabelledImages, transform: Callable[[Image.Image], Any], channels: int) -> None:
        self.images, self.transform, self.channels = images, transform, channels

    def __getitem__(self, index: int) -> Any:
        try:
            return self.transform(self.images.open(index, self.channels))
        except InputError as error:
            return error


def _stack(batch: list[Any]) -> Tensor | InputError:
    error = next((item for item in batch if isinstance(item, InputError)), None)
    return error or torch.stack(batch)


def _cores() -> int:
    """Return the number of processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1
