"""Whatever Pillow opens becomes the picture that a person sees."""

import io
import json
import signal
import struct
import subprocess
import sys
import threading
import warnings

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import nn

from resnet_hub import InputError, optimize, predict
from resnet_hub.data.decode import find_images, read_image
from resnet_hub.inference.transform import make_transform, normalise_like
from resnet_hub.tables.datasets import DATASETS
from resnet_hub.weights.folder import make_config, write_folder
from tests.conftest import ROOT

CAT = ROOT / 'tests' / 'images' / 'cat.jpg'


@pytest.fixture(scope='module')
def picture():
    """A colour picture without symmetry, 24 wide, 16 high."""
    rows, columns = np.mgrid[0:16, 0:24]
    return Image.fromarray(np.stack([rows * 15, columns * 10, (rows * columns) % 256], -1).astype(np.uint8))


def same(image, expected, tolerance=0):
    assert image.mode == 'RGB' and image.size == expected.size
    difference = np.abs(np.asarray(image, int) - np.asarray(expected.convert('RGB'), int))
    assert difference.max() <= tolerance


def test_colour_modes(picture, tmp_path):
    grey = picture.convert('L')
    for name, saved, expected in (
        ('rgb.png', picture, picture),
        ('grey.png', grey, grey),
        ('rgb.webp', picture, picture),
        ('palette.gif', picture.quantize(256), picture.quantize(256)),
        ('one_bit.png', grey.convert('1'), grey.convert('1')),
        ('grey_alpha.png', grey.convert('LA'), grey),
        ('opaque.png', picture.convert('RGBA'), picture),
        ('cmyk.tif', picture.convert('CMYK'), picture),
    ):
        saved.save(tmp_path / name, **({'lossless': True} if name.endswith('webp') else {}))
        same(read_image(tmp_path / name), expected)


def test_16_bits_and_floats_are_scaled_not_clipped(picture, tmp_path):
    grey = picture.convert('L')
    values = np.asarray(grey)
    Image.fromarray(values.astype(np.uint16) * 257).save(tmp_path / 'deep.png')
    Image.fromarray(values.astype(np.float32) / 255).save(tmp_path / 'unit.tif')
    Image.fromarray(values.astype(np.float32)).save(tmp_path / 'float.tif')
    Image.fromarray(values.astype(np.int32)).save(tmp_path / 'int.tif')
    for name in ('deep.png', 'unit.tif', 'float.tif', 'int.tif'):
        same(read_image(tmp_path / name), grey)


def test_transparency_is_white(picture, tmp_path):
    alpha = Image.new('L', picture.size, 255)
    alpha.paste(0, (0, 0, 12, 16))
    picture.putalpha(alpha)
    picture.save(tmp_path / 'half.png')
    expected = picture.convert('RGB')
    expected.paste((255, 255, 255), (0, 0, 12, 16))
    same(read_image(tmp_path / 'half.png'), expected)


def test_the_camera_was_turned(picture, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned right by 90° for viewing
    picture.convert('RGB').save(tmp_path / 'turned.png', exif=exif)
    same(read_image(tmp_path / 'turned.png'), picture.convert('RGB').transpose(Image.Transpose.ROTATE_270))


@pytest.mark.parametrize('exif', [b'II*\0', b'no TIFF', b'MM\0*\0\0\0\xff'])
def test_broken_exif_turns_nothing(picture, tmp_path, exif):
    picture.convert('RGB').save(tmp_path / 'odd.png', exif=b'Exif\0\0' + exif)
    same(read_image(tmp_path / 'odd.png'), picture.convert('RGB'))


def test_other_tags_do_not_keep_it_from_being_turned(picture, tmp_path):
    """A tag whose type does not fit its value, which Pillow reads but does not write again."""
    entries = struct.pack('<HHHIHH', 1, 0x0112, 3, 1, 6, 0)
    entries = struct.pack('<H', 2) + entries[2:] + struct.pack('<HHIi', 0x0103, 9, 1, -7) + bytes(4)
    exif = b'Exif\0\0II*\0' + struct.pack('<I', 8) + entries
    picture.convert('RGB').save(tmp_path / 'odd.png', exif=exif)
    same(read_image(tmp_path / 'odd.png'), picture.convert('RGB').transpose(Image.Transpose.ROTATE_270))


@pytest.mark.parametrize('size', [(1, 1), (32, 32), (3000, 20), (17, 400)])
def test_any_size_is_brought_to_the_size_of_the_network(size):
    model = timm.create_model('cifar_resnet8')
    x = make_transform(model)(Image.new('RGB', size, (255, 0, 0)))
    cfg = model.pretrained_cfg
    expected = (torch.tensor([1.0, 0, 0]) - torch.tensor(cfg['mean'])) / torch.tensor(cfg['std'])
    assert x.shape == (3, 32, 32) and torch.allclose(x, expected[:, None, None].expand(3, 32, 32), atol=1e-5)


@pytest.mark.parametrize('size', [(32, 32), (1, 1), (500, 333), (17, 400)])
@pytest.mark.parametrize('name', ['cifar_resnet8', 'resnet10t'])
def test_in_two_parts_it_is_the_same_transform(size, name):
    model = timm.create_model(name)
    noise = np.random.default_rng(0).integers(0, 256, (3, *size[::-1], 3), dtype=np.uint8)
    noise = [Image.fromarray(image) for image in noise]
    pixels = torch.stack([make_transform(model, normalize=False)(image) for image in noise])
    assert pixels.dtype == torch.uint8
    assert torch.equal(normalise_like(model, pixels), torch.stack([make_transform(model)(image) for image in noise]))
    if (size, name) == ((32, 32), 'cifar_resnet8'):
        assert np.array_equal(pixels.permute(0, 2, 3, 1), [np.asarray(image) for image in noise]), 'resampled in vain'


def test_answers_are_the_largest_probabilities_in_the_order_of_the_files(picture, tmp_path):
    torch.manual_seed(0)
    model = timm.create_model('cifar_resnet8', zero_init_last=False).eval()
    paths = []
    for i in range(5):
        picture.convert('RGB').rotate(50 * i).save(tmp_path / f'{i}.png')
        paths.append(tmp_path / f'{i}.png')
    (tmp_path / 'text.png').write_text('not a picture')
    paths.insert(2, tmp_path / 'text.png')
    answers = list(predict(model, paths, topk=3, batch_size=2, label_names=list('abcdefghij')))
    assert [answer.path for answer in answers] == paths
    assert answers[2].classes == [] and 'not an image' in answers[2].error
    transform = make_transform(model)
    for answer in answers[:2] + answers[3:]:
        with torch.no_grad():
            p = model(transform(read_image(answer.path))[None]).softmax(1)[0]
        best = sorted(zip(p.tolist(), 'abcdefghij', strict=True), reverse=True)[:3]
        assert [name for name, _ in answer.classes] == [name for _, name in best]
        assert [value for _, value in answer.classes] == pytest.approx([value for value, _ in best], abs=1e-5)


def test_every_way_to_give_an_image_gives_the_same(picture, tmp_path):
    picture = picture.convert('RGB').resize((32, 32))
    picture.save(tmp_path / 'a.png')
    model = timm.create_model('cifar_resnet20', pretrained=True)
    array = np.asarray(picture)
    wanted = predict(model, tmp_path / 'a.png')
    assert wanted.path == tmp_path / 'a.png'
    with open(tmp_path / 'a.png', 'rb') as file:
        for image in (
            str(tmp_path / 'a.png'),
            file,
            picture,
            array,
            torch.from_numpy(array.copy()),
            torch.from_numpy(array.transpose(2, 0, 1).copy()),
        ):
            assert predict(model, image).classes == wanted.classes
    for several in ([tmp_path / 'a.png'] * 2, tmp_path, array[None], array.transpose(2, 0, 1)[None], [picture]):
        assert all(
            dict(answer.classes) == pytest.approx(dict(wanted.classes), abs=1e-5) for answer in predict(model, several)
        )
    assert predict('cifar_resnet20', picture).classes == wanted.classes
    assert wanted.to_dict()['classes'][0] == {'label': wanted.classes[0][0], 'probability': wanted.classes[0][1]}
    grey = timm.create_model('cifar_resnet8', in_chans=1)
    assert predict(grey, picture.convert('L')).classes == predict(grey, np.asarray(picture.convert('L'))).classes


def test_arrays_that_are_no_images(picture):
    model = timm.create_model('cifar_resnet8')
    for array, message in (
        (np.zeros((32, 32, 3), np.float32), r'must be uint8 .*, not float32: \(x \* 255\)'),
        (np.zeros((2, 32, 32, 5), np.uint8), r'not \(2, 32, 32, 5\)'),
    ):
        with pytest.raises(InputError, match=message):
            predict(model, array)
    with pytest.raises(InputError, match='no such file'):
        predict(model, 'gone.png')


def test_a_photo_is_warned_about():
    with pytest.warns(
        UserWarning, match=r'cat\.jpg: 226×150 pixels are resized to the 32×32 that the network was trained on'
    ):
        predict('cifar_resnet8.cifar10', CAT)


def test_the_command_warns_in_one_line(command):
    with warnings.catch_warnings():
        warnings.simplefilter('always')
        done = command('predict', CAT, '--topk', '1')
    assert done.out.split()[1] == 'cat'
    (line,) = (line for line in done.err.splitlines() if 'trained on' in line)
    assert line.startswith('resnet-hub predict: ') and 'cat.jpg' in line


def test_probabilities_of_sure_networks_keep_their_order():
    """In float32 both would be exactly 1."""

    class Sure(nn.Module):
        pretrained_cfg = timm.create_model('cifar_resnet8').pretrained_cfg

        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.tensor(1.0))

        def forward(self, x):
            return self.scale * torch.tensor([[20.0, 0], [25.0, 0]])

    first, second = predict(Sure(), np.zeros((2, 32, 32, 3), np.uint8))
    assert 0.99999 < first.classes[0][1] < second.classes[0][1] < 1


def test_names_of_another_classifier_are_not_used(picture, tmp_path):
    picture.convert('RGB').save(tmp_path / 'a.png')
    model = timm.create_model('cifar_resnet20', pretrained=True)
    assert {name for name, _ in next(predict(model, [tmp_path / 'a.png'])).classes} <= set(DATASETS['cifar10'].classes)
    for classes in (7, 100):
        model.reset_classifier(classes)
        ((_, answers, _),) = predict(model, [tmp_path / 'a.png'], topk=classes)
        assert {name for name, _ in answers} == {str(i) for i in range(classes)}
    with pytest.raises(InputError, match='the model has 100 classes, but label_names has 3'):
        next(predict(model, [tmp_path / 'a.png'], label_names='abc'))


def test_networks_and_devices_that_cannot_be_used(tmp_path, command, monkeypatch):
    grey = make_config('cifar_resnet8', mean=(0.1,), std=(0.3,), num_classes=10, in_chans=1)
    write_folder(tmp_path / 'grey', timm.create_model('cifar_resnet8', in_chans=1).state_dict(), grey)
    (tmp_path / 'bert').mkdir()
    (tmp_path / 'bert' / 'config.json').write_text('{"model_type": "bert"}')
    cut = make_config('cifar_resnet8', mean=(0.5,) * 3, std=(0.3,) * 3, num_classes=10)
    (tmp_path / 'cut').mkdir()
    (tmp_path / 'cut' / 'config.json').write_text(json.dumps(cut))
    (tmp_path / 'cut' / 'model.safetensors').write_bytes((tmp_path / 'grey' / 'model.safetensors').read_bytes()[:9000])
    (tmp_path / 'odd').mkdir()
    (tmp_path / 'odd' / 'config.json').write_text(json.dumps({**cut, 'model_args': {'depth': 9}}))
    monkeypatch.chdir(tmp_path)
    for options, message in (
        (('--model', 'local-dir:bert'), 'local-dir:bert: its config.json names no architecture'),
        (('--model', 'local-dir:odd'), "unexpected keyword argument 'depth'"),
        (('--device', 'gpu'), "unknown device 'gpu'"),
        (('--device', 'meta'), 'this machine cannot compute on meta'),
        (('--device', 'cuda:99'), 'there is no cuda:99'),
    ):
        done = command('predict', CAT, *options, expect=2)
        assert message in done.err and len(done.err.splitlines()) == 1 and not done.out, done
    assert 'local-dir:cut: ' in command('predict', CAT, '--model', 'local-dir:cut', expect=1).err
    with pytest.raises(InputError, match='takes images of 2 channels'):
        predict(timm.create_model('cifar_resnet8', in_chans=2), [CAT])
    assert next(predict(timm.create_model('local-dir:grey', in_chans=3), [CAT])).classes


@pytest.fixture(scope='module')
def forty(tmp_path_factory):
    """Different small pictures, of which the eleventh is broken."""
    folder = tmp_path_factory.mktemp('forty')
    noise = np.random.default_rng(0).integers(0, 256, (40, 6, 6, 3), dtype=np.uint8)
    paths = [folder / f'{i}.png' for i in range(40)]
    for path, image in zip(paths, noise, strict=True):
        Image.fromarray(image).save(path)
    paths[10].write_bytes(paths[10].read_bytes()[:60])
    return paths


class Foreign(nn.Module):
    """A classifier that torch.fx cannot trace."""

    pretrained_cfg = timm.create_model('cifar_resnet8').pretrained_cfg

    def __init__(self):
        super().__init__()
        self.net = timm.create_model('cifar_resnet8', zero_init_last=False)

    def forward(self, x):
        return self.net(x) if x.isfinite().all() else x


@pytest.mark.parametrize('kind', ['ours', 'optimised', 'bfloat16', 'untraceable'])
def test_the_answers_do_not_depend_on_the_batch(forty, kind):
    """One by one, and in batches of 16 that are decoded by several threads, ahead."""
    torch.manual_seed(0)
    model = Foreign() if kind == 'untraceable' else timm.create_model('cifar_resnet8', zero_init_last=False)
    model = {'optimised': optimize, 'bfloat16': nn.Module.bfloat16}.get(kind, nn.Module.eval)(model)
    together = list(predict(model, forty, topk=10, batch_size=16))
    alone = [answer for path in forty for answer in predict(model, [path], topk=10)]
    assert [answer.path for answer in together] == forty and len({tuple(a.classes) for a in together}) > 30
    assert (
        [i for i, answer in enumerate(together) if answer.error] == [10] == [i for i, a in enumerate(alone) if a.error]
    )
    for a, b in zip(together, alone, strict=True):
        assert dict(a.classes) == pytest.approx(dict(b.classes), abs=0.02 if kind == 'bfloat16' else 1e-5)
    assert not list(predict(model, []))


def test_it_reads_one_batch_ahead_and_stops_when_nobody_listens(forty):
    class Asked(list):
        furthest = 0

        def __getitem__(self, key):
            self.furthest = max(self.furthest, key.stop)
            return super().__getitem__(key)

    paths = Asked(forty)
    answers = predict(timm.create_model('cifar_resnet8'), paths, batch_size=8)
    next(answers)
    assert paths.furthest == 16
    with pytest.raises(KeyboardInterrupt):
        answers.throw(KeyboardInterrupt)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith('read')]


@pytest.mark.parametrize('end', ['interrupted', 'unheard'])
def test_a_command_that_is_stopped_ends_quietly(tmp_path, end):
    for i in range(3000):
        (tmp_path / f'{i}.jpg').symlink_to(CAT)
    command = [sys.executable, '-u', '-m', 'resnet_hub', 'predict', tmp_path, '--batch-size', '16']
    pipes = {'stdout': subprocess.PIPE, 'stderr': subprocess.PIPE, 'text': True}

    def hear_interrupts():  # a shell that started the tests in the background has them ignored, in all children
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    with subprocess.Popen(command, **pipes, preexec_fn=hear_interrupts) as process:
        assert '.jpg' in process.stdout.readline()
        if end == 'interrupted':
            process.send_signal(signal.SIGINT)
            process.stdout.read()
        process.stdout.close()
        shown = [line for line in process.stderr.read().splitlines() if 'the network was trained on' not in line]
        assert shown == (['resnet-hub predict: interrupted'] if end == 'interrupted' else [])
        assert process.wait() == (130 if end == 'interrupted' else 0)


def test_files_and_folders(tmp_path, picture):
    (tmp_path / 'b' / 'c').mkdir(parents=True)
    for name in ('b/2.png', 'b/1.PNG', 'b/c/3.gif'):
        picture.convert('RGB').save(tmp_path / name)
    for name in ('notes.txt', 'paper.pdf', 'figure.eps', 'weights.h5'):
        (tmp_path / 'b' / name).write_text('')
    found = find_images([CAT, tmp_path / 'b'])
    assert found == [CAT, *(tmp_path / 'b' / name for name in ('1.PNG', '2.png', 'c/3.gif'))]
    (tmp_path / 'empty').mkdir()
    with pytest.raises(InputError, match='holds no image'):
        find_images([tmp_path / 'empty'])


def test_broken_files(tmp_path):
    (tmp_path / 'cut.jpg').write_bytes(CAT.read_bytes()[:4000])
    (tmp_path / 'empty.png').write_bytes(b'')
    for name, message in (
        ('cut.jpg', 'broken or unreadable'),
        ('empty.png', 'not an image'),
        ('no.png', 'no such file'),
    ):
        with pytest.raises(InputError, match=message) as caught:
            read_image(tmp_path / name)
        assert '\n' not in str(caught.value)


@pytest.mark.parametrize('option', ['topk', 'batch_size'])
def test_numbers_below_one_are_refused(option):
    with pytest.raises(InputError, match='topk and batch_size must be at least 1'):
        predict('cifar_resnet8.cifar10', CAT, **{option: 0})


@pytest.mark.parametrize('options', [[], ['--topk', '1'], ['--batch-size', '1']])
def test_the_cat_is_a_cat(options, command):
    assert command('predict', CAT, *options).out.split()[1] == 'cat'


def test_standard_input(command, monkeypatch):
    monkeypatch.setattr('sys.stdin', io.TextIOWrapper(io.BytesIO(CAT.read_bytes())))
    assert command('predict', '-').out.split()[:2] == ['-', 'cat']
    monkeypatch.setattr('sys.stdin', io.TextIOWrapper(io.BytesIO(b'text')))
    assert '-: not an image' in command('predict', '-', expect=2).err


def test_json_and_the_others_are_answered(tmp_path, command):
    (tmp_path / 'text.png').write_text('not a picture')
    done = command('predict', tmp_path / 'text.png', CAT, tmp_path / 'gone.png', '--json', expect=2)
    first, second, third = json.loads(done.out)
    assert 'not an image' in first['error'] and 'no such file' in third['error']
    assert second['classes'][0]['label'] == 'cat' and second['classes'][0]['probability'] > 0.5
    assert len(done.err.splitlines()) == 2
