"""Reading images."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from resnet_hub.data.images import normalise
from resnet_hub.data.sources import load_images
from resnet_hub.tables.datasets import DATASETS
from resnet_hub.utils.errors import InputError, ResnetHubError
from tests.conftest import needed

MEAN, STD = DATASETS['cifar10'].mean, DATASETS['cifar10'].std


@pytest.fixture
def pixels():
    return torch.randint(1, 256, (64, 12, 10, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize('name', ['cifar10', 'cifar100'])
def test_real_test_images(name, data_root):
    images = load_images(name, 'test', needed(data_root / name))
    assert images.pixels.shape == (10_000, 32, 32, 3) and images.pixels.dtype == torch.uint8
    counts = torch.bincount(images.labels)
    assert counts.tolist() == [10_000 // len(DATASETS[name].classes)] * len(DATASETS[name].classes)


def test_published_statistics_are_those_of_the_training_pixels(data_root):
    pixels = load_images('cifar10', 'train', data_root).pixels
    values = np.arange(256) / 255
    for channel in range(3):
        frequency = np.bincount(pixels[..., channel].flatten(), minlength=256) / pixels[..., channel].numel()
        mean = (frequency * values).sum()
        assert mean == pytest.approx(MEAN[channel], abs=1e-4)
        assert (frequency * (values - mean) ** 2).sum() ** 0.5 == pytest.approx(STD[channel], abs=1e-4)


def test_reads_what_was_written(tiny_data):
    folder, expected = tiny_data
    images = load_images('cifar10', 'train', folder)
    assert torch.equal(images.pixels, expected.pixels) and torch.equal(images.labels, expected.labels)


def test_wrong_folders(tmp_path, tiny_data):
    with pytest.raises(InputError, match=r'holds no labelled images: expected .*uoft-cs/cifar10'):
        load_images('cifar10', 'test', tmp_path)
    with pytest.raises(InputError, match='is not uoft-cs/cifar100: its columns are img, label, not img, fine_label'):
        load_images('cifar100', 'train', tiny_data[0])
    with pytest.raises(InputError, match="unknown data set 'imagenet'"):
        load_images('imagenet', 'train', tmp_path)
    with pytest.raises(InputError, match="unknown split 'tset': use one of train, val, test"):
        load_images('cifar10', 'tset', tiny_data[0])


def test_damaged_files(tiny_data, tmp_path, monkeypatch):
    good = next(tiny_data[0].rglob('test-*.parquet'))
    pq.write_table(pq.read_table(good).slice(0, 0), tmp_path / 'none.parquet')
    broken = pa.table({'img': [{'bytes': b'no image', 'path': None}], 'label': [0]})
    pq.write_table(broken, tmp_path / 'broken.parquet')
    for data, message in (
        (
            b'version https://git-lfs.github.com/spec/v1\noid sha256:0',
            r'test-0\.parquet or a file beside it cannot be read .*download it again',
        ),
        (good.read_bytes()[:500], r'test-0\.parquet or a file beside it cannot be read'),
        ((tmp_path / 'broken.parquet').read_bytes(), 'image 0 of cifar10: not an image that Pillow can read'),
        ((tmp_path / 'none.parquet').read_bytes(), 'holds no images'),
    ):
        (tmp_path / 'test-0.parquet').write_bytes(data)
        with pytest.raises(InputError, match=message) as caught:
            load_images('cifar10', 'test', tmp_path)
        assert '\n' not in str(caught.value)
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_OFFLINE', True)
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_CACHE', str(tmp_path))
    with pytest.raises(ResnetHubError, match=r'uoft-cs/cifar10: HF_HUB_OFFLINE is set'):
        load_images('cifar10', 'test')


def test_normalise(pixels):
    x = normalise(pixels, MEAN, STD)
    expected = (pixels.double() / 255 - torch.tensor(MEAN).double()) / torch.tensor(STD).double()
    assert torch.allclose(x.double(), expected.permute(0, 3, 1, 2), atol=1e-5)
    assert x.dtype == torch.float32 and x.is_contiguous(memory_format=torch.channels_last)
