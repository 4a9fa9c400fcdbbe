"""Change training images at random: crop, flip and cutout for each image, mixup and cutmix for each batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from resnet_hub.data.images import Images, normalise
from resnet_hub.utils.errors import InputError

FLIPS = ('random', 'alternating', 'none')


class Draws(NamedTuple):
    """The random numbers of an epoch: one row per step.

    They are drawn before the first step, on the CPU. Therefore every device sees the same images, and no step waits for
    the CPU.
    """

    #: int64 (steps, 6, B): index, row shift, column shift, whether mirrored, first row and first column of the cutout
    images: Tensor
    #: float32 (steps, 5): share of the image itself; top, bottom, left and right of the box that shows another image
    mix: Tensor

    def at(self, step: Tensor) -> Draws:
        """Return the row of one step. `step` is int64 (1,) on the same device, so that a CUDA graph can advance it."""
        return Draws(*(table.index_select(0, step).squeeze(0) for table in self))


@dataclass(frozen=True)
class Augmentation:
    """Random changes of a training image. The default is that of He et al. 2015, §4.2: pad 4, crop, flip."""

    crop: int = 4  #: pixels of padding on every side before the random crop
    padding: str = 'reflect'  #: 'reflect' or 'zeros'
    flip: str = 'random'  #: 'random'; 'alternating': each image is mirrored in every other epoch; 'none'
    cutout: int = 0  #: side of a square that is set to the mean (DeVries & Taylor 2017), in pixels
    mixup: float = 0.0  #: alpha of mixup (Zhang et al. 2018); 0 for none
    cutmix: float = 0.0  #: alpha of cutmix (Yun et al. 2019); 0 for none; with mixup too, each batch gets one of them

    def __post_init__(self) -> None:
        if self.padding not in ('reflect', 'zeros'):
            raise InputError(f"padding must be 'reflect' or 'zeros', not {self.padding!r}")
        if self.flip not in FLIPS:
            raise InputError(f'flip must be one of {", ".join(map(repr, FLIPS))}, not {self.flip!r}')

    def draw(self, pixels: Tensor, batch_size: int, seed: int, epoch: int) -> Draws:
        """Draw the random numbers of an epoch. The same seed and epoch give the same numbers.

        Each image occurs at most once. Images that do not fill a last batch are left out.

        Args:
            pixels: uint8 (N, H, W, C); only its shape matters.
            batch_size: images per step.
            seed: seed of the run.
            epoch: number of the epoch, from 0.
        """
        count, height, width = pixels.shape[:3]
        steps = count // batch_size
        random = np.random.default_rng((seed, epoch))
        index = random.permutation(count)[: steps * batch_size]
        shift = random.integers(-self.crop, self.crop + 1, (2, len(index)))
        mirrored = random.random(len(index)) < (0.5 if self.flip == 'random' else 0)
        if self.flip == 'alternating':
            first = np.random.default_rng(seed).random(count) < 0.5  # the images that are mirrored in even epochs
            mirrored = first[index] ^ (epoch % 2 == 1)
        centre = random.random((2, len(index))) * [[height], [width]]
        images = np.stack([index, *shift, mirrored, *(centre.astype(np.int64) - self.cutout // 2)])
        by_step = np.ascontiguousarray(images.reshape(6, steps, batch_size).swapaxes(0, 1))
        return Draws(torch.from_numpy(by_step), torch.from_numpy(self._draw_mix(random, steps, height, width)))

    def _draw_mix(self, random: np.random.Generator, steps: int, height: int, width: int) -> np.ndarray:
        """Draw the share and the box of each step, float32 (steps, 5). Mixup has no box; cutmix has a share of 1."""
        mix = np.zeros((steps, 5), np.float32)
        mix[:, 0] = 1
        if not (self.mixup or self.cutmix):
            return mix
        chance = 1.0 if not self.mixup else 0.5 if self.cutmix else 0.0
        cut = random.random(steps) < chance
        share = np.where(cut, random.beta(self.cutmix or 1, self.cutmix or 1, steps), 0)
        side = np.sqrt(1 - share)  # side of the box, as a part of the image's side
        centre = random.random((2, steps))
        mix[:, 0] = np.where(cut, 1, random.beta(self.mixup or 1, self.mixup or 1, steps))
        for first, middle, size in ((1, centre[0], height), (3, centre[1], width)):
            half = (side * size / 2).astype(np.int64)
            middle = (middle * size).astype(np.int64)
            mix[:, first] = np.where(cut, (middle - half).clip(0, size), 0)
            mix[:, first + 1] = np.where(cut, (middle + half).clip(0, size), 0)
        return mix

    def batch(
        self, images: Images, draws: Draws, mean: tuple[float, ...], std: tuple[float, ...], classes: int
    ) -> tuple[Tensor, Tensor]:
        """Make the batch of one step.

        Args:
            images: all training images.
            draws: the row of the step, on the device of `images`.
            mean: mean of each channel, for pixels scaled to 0 … 1.
            std: standard deviation of each channel.
            classes: number of classes.

        Returns:
            Images, float32 (B, C, H, W), and their labels, int64 (B,). With mixup or cutmix the labels are shares of
            the classes, float32 (B, classes).
        """
        index = draws.images[0]
        x, y = normalise(self._crop(images.pixels, draws.images), mean, std), images.labels[index]
        if self.cutout:
            x = x.masked_fill(self._cutout(x, draws.images)[:, None], 0)
        return self._mix(x, F.one_hot(y, classes).float(), draws.mix) if self.mixup or self.cutmix else (x, y)

    def _crop(self, pixels: Tensor, draws: Tensor) -> Tensor:
        """Return randomly cropped and mirrored copies, uint8 (B, H, W, C), with one gather operation."""
        index, down, right, mirrored = draws[:4]
        height, width = pixels.shape[1:3]
        rows = torch.arange(height, device=pixels.device) + down[:, None]
        columns = torch.arange(width, device=pixels.device) + right[:, None]
        columns = torch.where(mirrored[:, None] > 0, width - 1 - columns, columns)
        inside = ((rows >= 0) & (rows < height))[:, :, None] & ((columns >= 0) & (columns < width))[:, None, :]
        rows = (height - 1) - ((height - 1) - rows.abs()).abs()  # reflected at both borders
        columns = (width - 1) - ((width - 1) - columns.abs()).abs()
        out = pixels[index[:, None, None], rows[:, :, None], columns[:, None, :]]
        return out if self.padding == 'reflect' else out * inside[..., None]

    def _cutout(self, x: Tensor, draws: Tensor) -> Tensor:
        """Return which pixels of images (B, C, H, W) are cut out, bool (B, H, W)."""
        rows, columns = (
            _between(size, start, start + self.cutout)
            for size, start in zip(x.shape[2:], draws[4:, :, None], strict=True)
        )
        return rows[:, :, None] & columns[:, None, :]

    @staticmethod
    def _mix(x: Tensor, targets: Tensor, draws: Tensor) -> tuple[Tensor, Tensor]:
        """Mix each image (B, C, H, W) and its target (B, classes) with the image and target before it in the batch."""
        share, top, bottom, left, right = draws
        height, width = x.shape[2:]
        box = _between(height, top, bottom)[:, None] & _between(width, left, right)
        own = share * ~box  # (H, W): the weight of the image itself in each pixel
        mixed = torch.lerp(x.roll(1, 0), x, own)
        return mixed, torch.lerp(targets.roll(1, 0), targets, own.mean())


def _between(size: int, start: Tensor, end: Tensor) -> Tensor:
    """Return which of 0 … size - 1 lie in start … end - 1, as bool. `start` and `end` are broadcast."""
    position = torch.arange(size, device=start.device)
    return (position >= start) & (position < end)


def resize(x: Tensor, size: int | None) -> Tensor:
    """Resize images (N, C, H, W) to (N, C, size, size), bilinear with antialiasing. With None nothing changes."""
    if size is None or (size, size) == x.shape[2:]:
        return x
    return F.interpolate(x, (size, size), mode='bilinear', antialias=True)
