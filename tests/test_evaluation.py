"""The figures against their definitions."""

import csv

import numpy as np
import pytest
import timm
import torch
from torch import nn

from resnet_hub.data import Images, normalise
from resnet_hub.errors import InputError
from resnet_hub.evaluation import dataset_of, evaluate, log_evaluation
from resnet_hub.recipe import Recipe

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.2, 0.3)


@pytest.fixture(scope='module')
def images():
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (203, 8, 8, 3), dtype=torch.uint8, generator=generator)
    return Images(pixels, torch.randint(0, 10, (203,), generator=generator))


@pytest.fixture(scope='module')
def model():
    torch.manual_seed(0)
    return timm.create_model('cifar_resnet8', zero_init_last=False)


def test_against_numpy(model, images):
    metrics = evaluate(model, images, MEAN, STD, batch_size=50)
    with torch.no_grad():
        logits = model.eval()(normalise(images.pixels, MEAN, STD)).double().numpy()
    labels = images.labels.numpy()
    order = np.argsort(-logits, 1)
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    assert metrics.images == 203
    assert metrics.top1 == pytest.approx(100 * (order[:, 0] == labels).mean(), abs=1e-3)
    assert metrics.top5 == pytest.approx(100 * (order[:, :5] == labels[:, None]).any(1).mean(), abs=1e-3)
    assert metrics.nll == pytest.approx(-log_p[np.arange(203), labels].mean(), abs=1e-4)


def test_the_model_is_evaluated_in_evaluation_mode(model, images):
    model.train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    first = evaluate(model, images, MEAN, STD)
    assert first == evaluate(model, images, MEAN, STD, batch_size=7)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items()), 'running statistics moved'


def test_labels_beyond_the_classes(images):
    with pytest.raises(InputError, match='the model has 3 classes, the images have label'):
        evaluate(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 3)), images, MEAN, STD)


def test_the_data_set_follows_from_the_classes():
    assert dataset_of(timm.create_model('cifar_resnet8')) == 'cifar10'
    assert dataset_of(timm.create_model('cifar_resnet8', pretrained_cfg_overlay={'num_classes': 100})) == 'cifar100'
    with pytest.raises(InputError, match='no data set has the 7 classes'):
        dataset_of(timm.create_model('cifar_resnet8', pretrained_cfg_overlay={'num_classes': 7}))


def test_the_log_grows(tmp_path, model):
    for top1 in (1.0, 2.0):
        log_evaluation(tmp_path / 'log.csv', {'model': 'm', 'top1': top1}, model)
    rows = list(csv.DictReader((tmp_path / 'log.csv').read_text().splitlines()))
    assert [row['top1'] for row in rows] == ['1.0', '2.0'] and len({row['sha256'] for row in rows}) == 1


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('epochs = "ten"', "epochs must be a int, not 'ten'"),
        ('epoch = 3', "unknown field 'epoch'; a recipe has model, dataset, epochs"),
        ('epochs = 0', 'epochs must be at least 1'),
        ('padding = "mirror"', "padding must be 'reflect' or 'zeros'"),
        ('warmup_epochs = 40', 'warmup_epochs must be from 0 to below epochs'),
        ('epochs = = 3', 'is not TOML'),
    ],
)
def test_bad_recipes(tmp_path, text, message):
    (tmp_path / 'recipe.toml').write_text(text)
    with pytest.raises(InputError, match=message):
        Recipe.from_file(tmp_path / 'recipe.toml')


def test_a_recipe_survives_its_file(tmp_path):
    recipe = Recipe(model='preact_resnet20', lr=0.05, flip=False, cutout=8)
    (tmp_path / 'recipe.toml').write_text(recipe.to_toml())
    assert Recipe.from_file(tmp_path / 'recipe.toml') == recipe
    assert Recipe.from_file(tmp_path / 'recipe.toml', lr=1.0).lr == 1.0
