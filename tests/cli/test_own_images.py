"""A network of the user's own classes, from the training to every command that takes it."""

import json

import numpy as np
import pytest
from PIL import Image

from resnet_hub.cli import main

CLASSES = ('red apple', 'été')  # a space and letters beyond ASCII; in alphabetical order


@pytest.fixture(scope='module')
def images(tmp_path_factory):
    """A folder for each class and split, with 20 training and 8 test images: noise around a colour, not 32×32."""
    root, generator = tmp_path_factory.mktemp('own') / 'mine', np.random.default_rng(0)
    for split, count in (('train', 10), ('test', 4)):
        for name, colour in zip(CLASSES, ((200, 30, 30), (30, 30, 200)), strict=True):
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = generator.normal(colour, 40, (40, 40, 3)).clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f'{number}.png')
    return root


@pytest.fixture(scope='module')
def run(images):
    """What fine-tuning wrote."""
    folder = images.parent / 'run'
    recipe = '--init cifar_resnet8.cifar10 --epochs 5 --batch-size 5 --warmup-epochs 1 --device cpu'
    assert main(['train', '--data', str(images), '-o', str(folder), *recipe.split()]) == 0
    return folder


def test_from_training_to_publication(images, run, command):
    model = f'local-dir:{run}'
    (answer,) = json.loads(command('evaluate', model, '--data', images, '--json', '--device', 'cpu').out)
    assert (answer['images'], answer['dataset'], [*answer['per_class']]) == (8, 'mine', [*CLASSES])
    assert answer['top1'] == 100

    picture = images / 'test' / CLASSES[1] / '0.png'
    (answer,) = json.loads(command('predict', picture, '--model', model, '--json', '--device', 'cpu').out)
    assert answer['classes'][0]['label'] == CLASSES[1]

    shown = command('upload', run, 'OWNER/mine', '--dry-run').out
    assert 'model.safetensors' in shown and '2 classes (red apple, été)' in shown and 'OWNER/mine' in shown


@pytest.mark.parametrize('int8', [False, True], ids=['float32', 'int8'])
def test_export(int8, images, run, tmp_path, command):
    """The file is measured on the user's own images, and calibrated with them."""
    pytest.importorskip('onnxruntime')
    quantise = ['--int8', '--calibrate', images, '--tolerance', 25] if int8 else []
    command('export', f'local-dir:{run}', '-o', tmp_path / 'mine.onnx', '--check', images, *quantise)
    (answer,) = json.loads(command('evaluate', tmp_path / 'mine.onnx', '--data', images, '--json').out)
    assert answer['top1'] == 100 and [*answer['per_class']] == [*CLASSES]
