"""What augmentation does to images, and the random batches of an epoch."""

import numpy as np
import pytest
import torch

from resnet_hub.data.augmentation import Augmentation, resize, training_batches
from resnet_hub.data.images import Images, normalise
from resnet_hub.tables.datasets import DATASETS
from resnet_hub.utils.errors import InputError

MEAN, STD = DATASETS['cifar10'].mean, DATASETS['cifar10'].std


@pytest.fixture
def pixels():
    return torch.randint(1, 256, (64, 12, 10, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize('padding', ['reflect', 'zeros'])
def test_crops_are_windows_of_the_padded_image(pixels, padding):
    """Every crop is one of the windows, mirrored or not, that numpy's padding gives; and all of them occur."""
    crop = 2
    augmentation = Augmentation(crop=crop, padding=padding)
    index = torch.arange(64).repeat(32)
    out = augmentation.crops(pixels, index, torch.Generator().manual_seed(1)).numpy()
    mode = {'reflect': 'reflect', 'zeros': 'constant'}[padding]
    padded = np.pad(pixels.numpy(), ((0, 0), (crop, crop), (crop, crop), (0, 0)), mode=mode)
    seen = set()
    for image, i in zip(out, index.tolist(), strict=True):
        windows = {
            (top, left, mirrored): padded[i, top : top + 12, left : left + 10][:, :: -1 if mirrored else 1]
            for top in range(2 * crop + 1)
            for left in range(2 * crop + 1)
            for mirrored in (False, True)
        }
        found = {key for key, window in windows.items() if np.array_equal(window, image)}
        assert found
        seen |= found
    assert len(seen) == 2 * (2 * crop + 1) ** 2


def test_no_flip_and_no_crop_leave_the_image(pixels):
    index = torch.tensor([3, 1, 3])
    out = Augmentation(crop=0, flip='none').crops(pixels, index, torch.Generator().manual_seed(0))
    assert torch.equal(out, pixels[index])


def test_cutout_is_a_square_that_may_leave_the_image():
    x = torch.ones(2000, 3, 12, 10)
    out = Augmentation(cutout=4).cut_out(x, torch.Generator().manual_seed(0))
    areas = (out == 0).all(1).sum((1, 2))
    assert torch.equal((out == 0).any(1), (out == 0).all(1)), 'all channels alike'
    assert areas.max() == 16 and areas.min() >= 4
    hit = (out == 0)[:, 0].float().mean(0)
    assert hit.min() > 0, 'every pixel can be cut out'
    for image in (out == 0)[:20, 0]:
        rows, columns = image.any(1).nonzero()[:, 0], image.any(0).nonzero()[:, 0]
        assert image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()


def test_padding_is_checked():
    with pytest.raises(InputError, match="'reflect' or 'zeros', not 'mirror'"):
        Augmentation(padding='mirror')


def test_an_epoch_shows_every_image_once_and_repeats(pixels):
    images = Images(pixels, torch.arange(64))

    def labels(seed, epoch):
        return [y.tolist() for _, y in training_batches(images, 16, Augmentation(), MEAN, STD, seed, epoch)]

    first = labels(0, 0)
    assert sorted(label for batch in first for label in batch) == list(range(64)) and first == labels(0, 0)
    assert first != labels(0, 1) and first != labels(1, 0)
    x, y = next(training_batches(images, 16, Augmentation(crop=0, flip='none'), MEAN, STD, 0, 0))
    assert torch.equal(x, normalise(pixels[y], MEAN, STD)), 'images and labels belong together'


def test_an_incomplete_batch_is_left_out(pixels):
    images = Images(pixels, torch.arange(64))
    assert len(list(training_batches(images, 60, Augmentation(), MEAN, STD, 0, 0))) == 1


def test_alternating_flips_show_both_sides_in_two_epochs(pixels):
    """Every image once as it is and once mirrored; which comes first differs from image to image."""
    images = Images(pixels, torch.arange(64))
    augmentation = Augmentation(crop=0, flip='alternating')
    sides = []
    for epoch in range(3):
        batches = list(training_batches(images, 16, augmentation, MEAN, STD, 5, epoch))
        x, order = torch.cat([x for x, _ in batches]), torch.cat([y for _, y in batches])
        original = normalise(pixels[order], MEAN, STD)
        straight, mirrored = ((x == t).all(3).all(2).all(1) for t in (original, original.flip(3)))
        assert bool((straight ^ mirrored).all())
        sides.append(mirrored[order.argsort()])
    assert torch.equal(sides[0], ~sides[1]) and torch.equal(sides[0], sides[2])
    assert 0.2 < sides[0].float().mean() < 0.8


def test_smaller_images_are_those_of_pillow(pixels):
    """Bilinear with antialiasing, to rounding."""
    from PIL import Image

    pixels = pixels.repeat_interleave(3, 1)[:, :32].repeat_interleave(4, 2)[:, :, :32]
    x = normalise(pixels, (0, 0, 0), (1, 1, 1))
    assert resize(x, None) is x and resize(x, 32) is x
    for image, original in zip(resize(x, 16), pixels, strict=True):
        small = Image.fromarray(original.numpy()).resize((16, 16), Image.Resampling.BILINEAR)
        assert np.abs(image.permute(1, 2, 0).numpy() * 255 - np.asarray(small)).max() < 1.1
