"""The fitted temperature beside a search over a grid, and beside the one that the logits were made with."""

import json

import pytest
import timm
import torch
import torch.nn.functional as F

from resnet_hub.data.images import normalise
from resnet_hub.data.sources import load_images
from resnet_hub.inference.temperature import fit_temperature
from resnet_hub.tables.datasets import DATASETS
from resnet_hub.training.task import split
from resnet_hub.weights.folder import make_config, write_folder


def sampled(count, scale):
    """Logits that are `scale` times those from whose softmax the labels are drawn."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(count, 10, generator=generator) * 2
    labels = torch.multinomial(logits.softmax(1), 1, generator=generator)[:, 0]
    return logits * scale, labels


@pytest.mark.parametrize('scale', [0.5, 1.0, 3.0])
def test_it_undoes_the_scale_of_the_logits(scale):
    logits, labels = sampled(20_000, scale)
    assert fit_temperature(logits, labels) == pytest.approx(scale, rel=0.03)


def test_no_temperature_of_a_grid_is_better():
    logits, labels = sampled(500, 1.7)
    fitted = fit_temperature(logits, labels)
    losses = {t: F.cross_entropy(logits.double() / t, labels) for t in [fitted, *torch.linspace(0.5, 5, 400).tolist()]}
    assert losses[fitted] <= min(losses.values()) + 1e-9


def test_where_all_are_right_it_ends():
    assert fit_temperature(torch.eye(10), torch.arange(10)) == pytest.approx(0.01, rel=0.1)


def test_the_command_fits_on_what_a_run_held_out(tiny_data, tmp_path, command):
    """The figures are those of the divided logits, which are computed here without the package's evaluation."""
    folder, train = tiny_data
    dataset = DATASETS['cifar10']
    config = make_config('cifar_resnet8', mean=dataset.mean, std=dataset.std, num_classes=10)
    torch.manual_seed(0)
    model = timm.create_model('cifar_resnet8', num_classes=10).eval()
    write_folder(tmp_path / 'run', model.state_dict(), {**config, 'recipe': {'holdout': 64}})
    row = json.loads(
        command('evaluate', f'local-dir:{tmp_path / "run"}', '--data', folder, '--temperature', '--json').out
    )[0]

    def logits(images):
        with torch.no_grad():
            return model(normalise(images.pixels, dataset.mean, dataset.std)).double()

    _, held_out = split(train.labels, 64)
    fitted = row['temperature']
    at = {
        t: float(F.cross_entropy(logits(train[held_out]) / t, train.labels[held_out]))
        for t in (fitted * 0.99, fitted, fitted * 1.01)
    }
    assert min(at, key=at.__getitem__) == fitted != 1
    test = load_images('cifar10', 'test', folder)
    assert row['nll'] == pytest.approx(float(F.cross_entropy(logits(test) / fitted, test.labels)), abs=2e-3)


def test_without_images_that_were_held_out_the_command_says_what_to_do(tiny_data, command):
    done = command('evaluate', 'cifar_resnet8.cifar10', '--data', tiny_data[0], '--temperature', expect=2)
    assert '--temperature needs images that the network was not trained on: train it with --holdout' in done.err
