"""Tables by corruption and by shift."""

import json

import numpy as np
import pytest
import timm
from PIL import Image

from resnet_hub.data.sources import read_labelled
from resnet_hub.inference.corruptions import CORRUPTIONS, EXTRA_CORRUPTIONS, evaluate_corruptions
from resnet_hub.inference.evaluate import evaluate
from resnet_hub.inference.shift import evaluate_shift
from resnet_hub.utils.errors import InputError

MODEL = 'cifar_resnet8.cifar10'


@pytest.fixture(scope='module')
def corrupted(data_root, tmp_path_factory):
    """Two corruptions, of which one is not in the mean; the noise grows with the severity."""
    folder = tmp_path_factory.mktemp('corrupted') / 'CIFAR-10-C'
    folder.mkdir()
    clean = read_labelled(data_root / 'cifar10')[:40].load()
    random = np.random.default_rng(0)
    for name, scale in (('fog', 10), ('spatter', 2)):
        levels = [clean.pixels.numpy() + scale * s * random.standard_normal(clean.pixels.shape) for s in range(5)]
        np.save(folder / f'{name}.npy', np.concatenate(levels).clip(0, 255).astype(np.uint8))
    np.save(folder / 'labels.npy', np.tile(clean.labels.numpy(), 5))
    return folder


def test_by_corruption_and_severity(corrupted):
    metrics = evaluate_corruptions(MODEL, corrupted)
    assert [*metrics.top1] == ['fog', 'spatter'] and metrics.data == 'CIFAR-10-C'
    images = read_labelled(corrupted / 'fog.npy')
    wanted = [evaluate(MODEL, images[40 * s : 40 * (s + 1)]).top1 for s in range(5)]
    assert [*metrics.top1['fog']] == pytest.approx(wanted, abs=1e-3)
    assert metrics.mean_top1 == pytest.approx(sum(wanted) / 5, abs=1e-3), 'spatter is not in the mean'
    assert len(metrics.missing) == 14


def test_the_corruptions_of_the_paper():
    assert len({*CORRUPTIONS}) == 15 and not {*CORRUPTIONS} & {*EXTRA_CORRUPTIONS} and len(EXTRA_CORRUPTIONS) == 4


def test_the_command_and_its_picture(corrupted, command, tmp_path):
    done = command('evaluate', MODEL, '--data', corrupted, '--plot', tmp_path / 'c.png')
    assert 'mean over 1 corruptions, without gaussian_noise' in done.out
    lines = done.out.split('not in the mean:')
    assert 'fog' in lines[0] and 'spatter' not in lines[0] and 'spatter' in lines[1]
    with Image.open(tmp_path / 'c.png') as picture:
        assert picture.width > 500
    (answer,) = json.loads(command('evaluate', MODEL, '--data', corrupted, '--json').out)
    assert answer == {'model': MODEL, **evaluate_corruptions(MODEL, corrupted).to_dict()}


def test_other_folders(corrupted, tmp_path):
    with pytest.raises(InputError, match=r'has no corrupted images: expected labels\.npy'):
        evaluate_corruptions(MODEL, tmp_path)
    np.save(tmp_path / 'fog.npy', np.zeros((7, 32, 32, 3), np.uint8))
    np.save(tmp_path / 'labels.npy', np.zeros(7, int))
    with pytest.raises(InputError, match='7 images, which cannot be 5 severities'):
        evaluate_corruptions(MODEL, tmp_path)


def test_what_a_shift_costs(data_root):
    """Larger changes cost more, as measured with other code; the network is left as it was."""
    images = read_labelled(data_root / 'cifar10')[:300].load()
    model = timm.create_model('cifar_resnet20', pretrained=True)
    metrics = evaluate_shift(model, images)
    top1 = {row['change']: row['top1'] for row in metrics.rows()}
    assert top1['none'] == evaluate(model, images).top1 and metrics.rows()[0]['difference'] == 0
    assert top1['none'] > top1['JPEG, quality 95'] > top1['JPEG, quality 75'] > top1['fed at 64×64']
    assert top1['enlarged to 40 and back'] < top1['none'] and top1['enlarged to 64 and back'] < top1['none']
    assert {*top1} >= {'normalised by 0.5', "normalised by ImageNet's"}
    assert json.loads(json.dumps(metrics.to_dict()))['images'] == 300


def test_the_command_of_a_shift(data_root, command, tmp_path):
    images = read_labelled(data_root / 'cifar10')[:20].load()
    np.savez(tmp_path / 'few.npz', images=images.pixels, labels=images.labels)
    header, *lines = command('evaluate', MODEL, '--data', tmp_path / 'few.npz', '--shift').out.splitlines()
    assert header.split() == ['model', 'change', 'top1', 'difference', 'nll', 'ece'] and len(lines) == 8
    done = command('evaluate', MODEL, '--data', tmp_path / 'few.npz', '--ood', tmp_path / 'few.npz')
    assert 'positive' in done.out and len(done.out.splitlines()) == 6
