"""What augmentation does to images, and the random batches of an epoch."""

import numpy as np
import pytest
import torch

from resnet_hub.data.augmentation import Augmentation, resize
from resnet_hub.data.images import Images, normalise
from resnet_hub.tables.datasets import DATASETS
from resnet_hub.utils.errors import InputError

MEAN, STD = DATASETS['cifar10'].mean, DATASETS['cifar10'].std


@pytest.fixture
def pixels():
    return torch.randint(1, 256, (64, 12, 10, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def step(augmentation, pixels, batch_size, seed=0, epoch=0, number=0):
    """Images and targets of one step; the labels are the positions of the images."""
    images = Images(pixels, torch.arange(len(pixels)))
    draws = augmentation.draw(pixels, batch_size, seed, epoch).at(torch.tensor([number]))
    return augmentation.batch(images, draws, MEAN, STD, len(pixels))


def to_pixels(x):
    """Undo the normalisation: uint8 (N, H, W, 3)."""
    mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
    return ((x * std + mean) * 255).round().to(torch.uint8).permute(0, 2, 3, 1)


@pytest.mark.parametrize('padding', ['reflect', 'zeros'])
def test_crops_are_windows_of_the_padded_image(pixels, padding):
    """Every crop is one of the windows, mirrored or not, that numpy's padding gives; and all of them occur."""
    crop = 2
    augmentation = Augmentation(crop=crop, padding=padding)
    mode = {'reflect': 'reflect', 'zeros': 'constant'}[padding]
    padded = np.pad(pixels.numpy(), ((0, 0), (crop, crop), (crop, crop), (0, 0)), mode=mode)
    seen = set()
    for epoch in range(12):
        x, index = step(augmentation, pixels, len(pixels), epoch=epoch)
        for image, i in zip(to_pixels(x).numpy(), index.tolist(), strict=True):
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
    x, index = step(Augmentation(crop=0, flip='none'), pixels, 16)
    assert torch.equal(x, normalise(pixels[index], MEAN, STD)) and x.is_contiguous(memory_format=torch.channels_last)


def test_cutout_is_a_square_that_may_leave_the_image():
    pixels = torch.full((2000, 12, 10, 3), 255, dtype=torch.uint8)
    gone = (step(Augmentation(cutout=4), pixels, 2000)[0] == 0).permute(0, 2, 3, 1)
    areas = gone.all(3).sum((1, 2))
    assert torch.equal(gone.any(3), gone.all(3)), 'all channels alike'
    assert areas.max() == 16 and areas.min() >= 4
    assert gone[..., 0].float().mean(0).min() > 0, 'every pixel can be cut out'
    for image in gone[:20, ..., 0]:
        rows, columns = image.any(1).nonzero()[:, 0], image.any(0).nonzero()[:, 0]
        assert image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()


def test_mixup_is_a_weighted_mean_of_two_images_and_of_their_targets(pixels):
    plain, label = step(Augmentation(crop=0, flip='none'), pixels, 32)
    augmentation = Augmentation(crop=0, flip='none', mixup=1.0)
    shares = set()
    for number in range(2):
        index = augmentation.draw(pixels, 32, 0, 0).images[number, 0]
        own, other = (normalise(pixels[i], MEAN, STD) for i in (index, index.roll(1)))
        x, targets = step(augmentation, pixels, 32, number=number)
        share = targets[0, index[0]]
        torch.testing.assert_close(x, share * own + (1 - share) * other)
        torch.testing.assert_close(targets.sum(1), torch.ones(32))
        shares.add(float(share))
    assert len(shares) == 2 and all(0 <= share <= 1 for share in shares)
    assert torch.equal(plain, normalise(pixels[label], MEAN, STD))


def test_cutmix_pastes_a_box_and_the_targets_say_how_much(pixels):
    augmentation = Augmentation(crop=0, flip='none', cutmix=1.0)
    areas = []
    for epoch in range(20):
        index = augmentation.draw(pixels, 64, 0, epoch).images[0, 0]
        own, other = (normalise(pixels[i], MEAN, STD) for i in (index, index.roll(1)))
        x, targets = step(augmentation, pixels, 64, epoch=epoch)
        pasted = (x != own).any(1).any(0)
        assert torch.equal(x[:, :, pasted], other[:, :, pasted]) and torch.equal(x[:, :, ~pasted], own[:, :, ~pasted])
        rows, columns = pasted.any(1).nonzero()[:, 0], pasted.any(0).nonzero()[:, 0]
        area = len(rows) * len(columns)
        assert area == int(pasted.sum()), 'a box'
        torch.testing.assert_close(targets[0, index[0]], torch.tensor(1 - area / 120))
        areas.append(area / 120)
    assert 0.2 < np.mean(areas) < 0.7 and len(set(areas)) > 10


def test_with_mixup_and_cutmix_each_batch_gets_one_of_both(pixels):
    draws = Augmentation(mixup=0.5, cutmix=1.0).draw(pixels, 2, 0, 0).mix
    boxes = (draws[:, 1:] > 0).any(1)
    assert (draws[boxes, 0] == 1).all() and 4 < int(boxes.sum()) < 28


def test_padding_and_flip_are_checked():
    with pytest.raises(InputError, match="'reflect' or 'zeros', not 'mirror'"):
        Augmentation(padding='mirror')
    with pytest.raises(InputError, match="'random', 'alternating', 'none', not 'always'"):
        Augmentation(flip='always')


def test_an_epoch_shows_every_image_once_and_repeats(pixels):
    def order(seed, epoch):
        return Augmentation().draw(pixels, 16, seed, epoch).images[:, 0].flatten().tolist()

    assert sorted(order(0, 0)) == list(range(64)) and order(0, 0) == order(0, 0)
    assert order(0, 0) != order(0, 1) and order(0, 0) != order(1, 0)


def test_an_incomplete_batch_is_left_out(pixels):
    assert Augmentation().draw(pixels, 60, 0, 0).images.shape == (1, 6, 60)


def test_alternating_flips_show_both_sides_in_two_epochs(pixels):
    """Every image once as it is and once mirrored; which comes first differs from image to image."""
    sides = []
    for epoch in range(3):
        x, order = step(Augmentation(crop=0, flip='alternating'), pixels, 64, seed=5, epoch=epoch)
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
