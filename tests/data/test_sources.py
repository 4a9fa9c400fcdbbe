"""The same images in every format, read back; and what is said about files that cannot be used."""

import io
import json
import pickle
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from resnet_hub.data.decode import read_image
from resnet_hub.data.labelled import LabelledImages
from resnet_hub.data.sources import read_labelled
from resnet_hub.tables.datasets import DATASETS
from resnet_hub.utils.errors import InputError
from tests.hub.fixtures import clients, hub, server  # noqa: F401

CLASSES = ('ant', 'bee', 'cat')


@pytest.fixture(scope='module')
def pixels():
    return np.random.default_rng(0).integers(0, 256, (12, 32, 32, 3), dtype=np.uint8)


LABELS = [2, 0, 1] * 4


def png(image):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, 'PNG')
    return buffer.getvalue()


def check(images, pixels, labels=LABELS, classes=CLASSES):
    """The images are these, in any order, with the names of their classes."""
    assert isinstance(images, LabelledImages) and images.classes == classes
    loaded = images.load()
    found = sorted(
        (int(label), image.numpy().tobytes()) for image, label in zip(loaded.pixels, loaded.labels, strict=True)
    )
    assert found == sorted((label, image.tobytes()) for image, label in zip(pixels, labels, strict=True))
    assert loaded.classes == classes and loaded.name == images.name


def class_folders(root, pixels):
    for i, (image, label) in enumerate(zip(pixels, LABELS, strict=True)):
        path = root / CLASSES[label] / f'{i}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(image))
    return root


# ------------------------------------------------------------------------------------------------------------ folders


@pytest.mark.parametrize('where', ['.', 'test', 'val'])
def test_class_folders(where, pixels, tmp_path):
    class_folders(tmp_path / 'mine' / where, pixels)
    check(read_labelled(tmp_path / 'mine'), pixels)
    assert read_labelled(tmp_path / 'mine').name == 'mine'


def test_each_split_is_its_own(pixels, tmp_path):
    class_folders(tmp_path / 'test', pixels[:12])
    (tmp_path / 'train' / 'ant').mkdir(parents=True)
    (tmp_path / 'train' / 'ant' / 'a.png').write_bytes(png(pixels[0]))
    assert len(read_labelled(tmp_path, 'train')) == 1 and len(read_labelled(tmp_path, 'test')) == 12
    with pytest.raises(InputError, match='has no folder val: it has test, train'):
        read_labelled(tmp_path, 'val')


def test_image_lists(pixels, tmp_path):
    """OpenOOD's folders: the list lies two folders below the parent of the image root."""
    class_folders(tmp_path / 'images_classic' / 'mine set', pixels)
    lists = tmp_path / 'benchmark_imglist' / 'mine'
    lists.mkdir(parents=True)
    lines = [f'mine set/{CLASSES[label]}/{i}.png {label}' for i, label in enumerate(LABELS)]
    (lists / 'test_mine.txt').write_text('\n'.join(lines) + '\n')
    check(read_labelled(lists / 'test_mine.txt'), pixels, classes=())
    for text, message in (
        ('cat.png two\n', 'line 1 must be a path and a whole number'),
        ('\n', 'line 1 must be'),
        ('gone.png 1\n', 'gone.png is in no folder beside or above'),
        (re.sub(' 2$', ' -1', lines[0]), '1 of 1 images have no label'),
    ):
        (lists / 'other.txt').write_text(text)
        with pytest.raises(InputError, match=message):
            read_labelled(lists / 'other.txt')
    assert read_labelled(lists / 'other.txt', need_labels=False).labels.tolist() == [-1]


def test_images_without_labels(pixels, tmp_path):
    (tmp_path / 'a.png').write_bytes(png(pixels[0]))
    with pytest.raises(
        InputError, match='holds no labelled images: expected a folder with a folder of images for each'
    ):
        read_labelled(tmp_path)
    images = read_labelled(tmp_path, need_labels=False)
    assert images.labels.tolist() == [-1] and images.open(0).size == (32, 32)


# ------------------------------------------------------------------------------------------------------------ parquet


@pytest.mark.parametrize('labels', ['numbers', 'text', 'named'])
@pytest.mark.parametrize('image', ['struct', 'binary'])
def test_parquet_of_any_columns(labels, image, pixels, tmp_path):
    encoded = [png(image) for image in pixels]
    column = [{'bytes': item, 'path': None} for item in encoded] if image == 'struct' else encoded
    names = [CLASSES[label] for label in LABELS]
    table = pa.table({'id': LABELS, 'photo': column, 'class': names if labels == 'text' else LABELS})
    if labels == 'named':
        features = {'photo': {'_type': 'Image'}, 'class': {'_type': 'ClassLabel', 'names': CLASSES}}
        table = table.replace_schema_metadata({'huggingface': json.dumps({'info': {'features': features}})})
    pq.write_table(table, tmp_path / 'test-00000-of-00001.parquet', row_group_size=5)
    for source in (tmp_path, tmp_path / 'test-00000-of-00001.parquet'):
        check(read_labelled(source), pixels, classes=() if labels == 'numbers' else CLASSES)
    part = read_labelled(tmp_path)[slice(4, 8)]
    assert torch.equal(part.load().pixels, torch.from_numpy(pixels[4:8])) and part.labels.tolist() == LABELS[4:8]


def test_rows_that_cannot_be_used(pixels, tmp_path):
    good = [{'bytes': png(image), 'path': None} for image in pixels[:2]]
    larger = {'bytes': png(np.zeros((40, 30, 3), np.uint8)), 'path': None}
    for columns, message in (
        ({'img': good, 'label': [0, None]}, r'row 1 has no label \(null in the column label\)'),
        ({'img': [good[0], {'bytes': None, 'path': None}], 'label': [0, 1]}, r'row 1 has no image \(null'),
        ({'img': [good[0], larger], 'label': [0, 1]}, 'several sizes, 32×32 and 30×40'),
        ({'img': good, 'label': [0.5, 1.5]}, 'neither whole numbers nor text'),
        ({'img': good, 'label': [0, -1]}, '1 of 2 images have no label'),
        ({'img': good, 'other': [0, 1]}, '2 of 2 images have no label'),
        ({'text': ['a', 'b'], 'label': [0, 1]}, 'no column of encoded images: its columns are text, label'),
    ):
        pq.write_table(pa.table(columns), tmp_path / 'test.parquet')
        with pytest.raises(InputError, match=message):
            read_labelled(tmp_path).load()
    pq.write_table(pa.table({'img': good, 'label': [0, 1]}).slice(0, 0), tmp_path / 'test.parquet')
    with pytest.raises(InputError, match='holds no images'):
        read_labelled(tmp_path)
    pq.write_table(pa.table({'img': [good[0], larger], 'label': [0, 1]}), tmp_path / 'test.parquet')
    assert read_labelled(tmp_path).load(size=16).pixels.shape == (2, 16, 16, 3)


def test_a_data_set_of_the_hub(pixels, hub, clients):  # noqa: F811
    table = pa.table({'image': [{'bytes': png(image), 'path': None} for image in pixels], 'label': LABELS})
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    hub.plant('me/flat', {'data/test-00000-of-00001.parquet': buffer.getvalue(), 'data/train-0.parquet': b''})
    hub.plant('me/two', {f'{name}/test-0.parquet': buffer.getvalue() for name in ('large', 'small')})
    hub.plant('me/none', {'images.zip': b''})
    read = 'from resnet_hub import read_labelled; i = read_labelled({!r}).load(); print(i.name, int(i.pixels.sum()), *i.labels.tolist())'

    def answer(address, **how):
        return clients.run(read.format(f'hf://datasets/{address}'), **how)

    wanted = [str(pixels.sum(dtype=int)), *map(str, LABELS)]
    for address in ('me/flat', 'me/flat@main', 'me/two/small'):
        done = answer(address)
        assert done.out.split() == [address, *wanted], done.err
    assert not [name for name in hub.requests if 'train-0' in name]
    done = answer('me/flat', offline=True)
    assert done.out.split() == ['me/flat', *wanted], done.err
    for address, message in (
        ('me/two', 'several configurations: large, small; add one to the address'),
        ('me/none', 'holds no parquet files'),
        ('me/gone', 'no such repository'),
        ('me', 'write hf://datasets/OWNER/NAME'),
    ):
        assert message in answer(address).err.splitlines()[-1]


# ------------------------------------------------------------------------------------------------------------- arrays


@pytest.mark.parametrize(
    ('images', 'labels', 'classes'),
    [
        ('cifar10.1_v6_data.npy', 'cifar10.1_v6_labels.npy', DATASETS['cifar10'].classes),
        ('CIFAR-10-C/fog.npy', 'CIFAR-10-C/labels.npy', DATASETS['cifar10'].classes),
        ('CIFAR-100-C/fog.npy', 'CIFAR-100-C/labels.npy', DATASETS['cifar100'].classes),
        ('x_test.npy', 'y_test.npy', ()),
    ],
)
def test_two_arrays(images, labels, classes, pixels, tmp_path):
    (tmp_path / images).parent.mkdir(exist_ok=True)
    np.save(tmp_path / images, pixels)
    np.save(tmp_path / labels, np.array(LABELS))
    check(read_labelled(tmp_path / images), pixels, classes=classes)
    check(read_labelled((tmp_path / images).parent), pixels, classes=classes)


def test_grey_arrays_and_archives(pixels, tmp_path):
    np.savez(tmp_path / 'a.npz', test_images=pixels[..., 0], test_labels=np.array(LABELS)[:, None])
    images = read_labelled(tmp_path / 'a.npz')
    check(images, np.repeat(pixels[..., :1], 3, 3), classes=())
    assert torch.equal(images.load(channels=1).pixels, torch.from_numpy(pixels[..., :1]))
    np.savez(tmp_path / 'a.npz', images=pixels, labels=LABELS)
    check(read_labelled(tmp_path / 'a.npz'), pixels, classes=())


def test_arrays_that_cannot_be_used(pixels, tmp_path):
    np.save(tmp_path / 'a.npy', pixels)
    np.save(tmp_path / 'b.npy', pixels)
    with pytest.raises(InputError, match=r'holds several arrays of images: give one of a.npy, b.npy'):
        read_labelled(tmp_path)
    with pytest.raises(InputError, match='there are no labels beside it'):
        read_labelled(tmp_path / 'a.npy')
    for images, labels, message in (
        (pixels / 255, LABELS, r'the images are float64 of the shape \(12, 32, 32, 3\), expected uint8'),
        (pixels.transpose(0, 3, 1, 2), LABELS, 'expected uint8 of the shape'),
        (pixels, LABELS[:-1], '12 images, but 11 labels'),
        (pixels, np.array(LABELS) / 2, 'labels of type float64'),
        (pixels, np.array([{}] * 12), 'cannot be read as an array of numbers'),
    ):
        np.save(tmp_path / 'a.npy', images)
        np.save(tmp_path / 'labels.npy', labels)
        with pytest.raises(InputError, match=message):
            read_labelled(tmp_path / 'a.npy')


# --------------------------------------------------------------------------------------------- what torchvision loads


@pytest.mark.parametrize('name', ['cifar10', 'cifar100'])
def test_batches_of_cifar_as_torchvision_reads_them(name, pixels, tmp_path, monkeypatch):
    """torchvision runs the pickles; here nothing of them runs."""
    from torchvision import datasets

    folder, files, meta, key = {
        'cifar10': ('cifar-10-batches-py', ['test_batch'], 'batches.meta', 'labels'),
        'cifar100': ('cifar-100-python', ['test'], 'meta', 'fine_labels'),
    }[name]
    (tmp_path / folder).mkdir()
    batch = {'data': pixels.transpose(0, 3, 1, 2).reshape(12, -1), key: LABELS, 'filenames': ['a'] * 12}
    (tmp_path / folder / files[0]).write_bytes(pickle.dumps(batch, protocol=2))
    images = read_labelled(tmp_path)
    check(images, pixels, classes=DATASETS[name].classes)
    assert images.name == name
    (tmp_path / folder / meta).write_bytes(pickle.dumps({'label_names': [], 'fine_label_names': []}, protocol=2))
    monkeypatch.setattr(datasets.CIFAR10, '_check_integrity', lambda self: True)
    monkeypatch.setattr('torchvision.datasets.cifar.check_integrity', lambda *_: True)
    theirs = {'cifar10': datasets.CIFAR10, 'cifar100': datasets.CIFAR100}[name](tmp_path, train=False)
    assert np.array_equal(images.load().pixels, theirs.data) and images.labels.tolist() == theirs.targets


class Malicious:
    def __reduce__(self):
        return print, ('this ran',)


@pytest.mark.parametrize('content', [pickle.dumps({'data': Malicious()}), b'\x80\x02', pickle.dumps([1]), b'text'])
def test_a_batch_that_is_something_else_is_refused(content, tmp_path, capfd):
    (tmp_path / 'cifar-10-batches-py').mkdir()
    (tmp_path / 'cifar-10-batches-py' / 'test_batch').write_bytes(content)
    with pytest.raises(InputError, match=r'test_batch|asks for builtins\.print'):
        read_labelled(tmp_path)
    assert 'this ran' not in capfd.readouterr().out


def test_svhn(pixels, tmp_path):
    """The label 10 stands for the digit 0."""
    scipy_io = pytest.importorskip('scipy.io')
    labels = np.array(LABELS, np.uint8)
    matrix = {'X': pixels.transpose(1, 2, 3, 0), 'y': np.where(labels == 0, 10, labels)[:, None]}
    scipy_io.savemat(tmp_path / 'test_32x32.mat', matrix)
    images = read_labelled(tmp_path)
    check(images, pixels, classes=DATASETS['svhn'].classes)
    assert images.name == 'svhn'
    (tmp_path / 'test_32x32.mat').write_bytes(b'no matrix')
    with pytest.raises(InputError, match=r'test_32x32\.mat cannot be read'):
        read_labelled(tmp_path)


# -------------------------------------------------------------------------------------------------- on all the cores


def test_batches_are_the_images_in_order(pixels, tmp_path):
    """More than 1000 images, so that worker processes decode them."""
    many = np.random.default_rng(1).integers(0, 256, (1100, 4, 5, 3), dtype=np.uint8)
    images = LabelledImages([png(image) for image in many], torch.arange(1100))
    assert np.array_equal(images.load().pixels, many)
    broken = LabelledImages([*images.items[:1050], b'no image', *images.items[1051:]], torch.arange(1100), name='mine')
    with pytest.raises(InputError, match='image 1050 of mine: not an image') as caught:
        broken.load()
    assert '\n' not in str(caught.value)


def test_the_real_files_name_their_classes(data_root):
    for name in ('cifar10', 'cifar100'):
        images = read_labelled(data_root / name)
        assert images.name == name and images.classes == DATASETS[name].classes and len(images) == 10_000
    with pytest.raises(InputError, match='is not uoft-cs/cifar100: its columns are img, label'):
        read_labelled(data_root / 'cifar10', dataset='cifar100')
    assert read_image(io.BytesIO(images.items[0])).size == (32, 32)


def test_nothing_there(tmp_path):
    with pytest.raises(InputError, match=r'cifar11: no such file or folder; did you mean cifar10'):
        read_labelled('cifar11')
    (tmp_path / 'a.xyz').write_text('')
    with pytest.raises(InputError, match='holds no labelled images: expected'):
        read_labelled(tmp_path / 'a.xyz')
