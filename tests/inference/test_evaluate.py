"""The figures against their definitions, written out in numpy; and the command, alone and under torchrun."""

import csv
import gc
import json
import subprocess
import sys
import weakref
from copy import deepcopy
from dataclasses import replace
from statistics import fmean

import numpy as np
import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn

from resnet_hub.data.images import Images, normalise
from resnet_hub.data.sources import read_labelled
from resnet_hub.inference import logits as running
from resnet_hub.inference.evaluate import (
    LOG_COLUMNS,
    Metrics,
    dataset_of,
    evaluate,
    expected_calibration_error,
    log_evaluation,
    match_labels,
)
from resnet_hub.inference.logits import compute_outputs
from resnet_hub.inference.transform import make_transform
from resnet_hub.registry.loading import load_model
from resnet_hub.tables.datasets import DATASETS
from resnet_hub.utils.errors import InputError, ResnetHubError
from resnet_hub.utils.plots import plot_confusion
from resnet_hub.weights.folder import make_config, write_folder
from tests.conftest import ROOT, write_parquet

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.2, 0.3)


@pytest.fixture(scope='module')
def images():
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (203, 8, 8, 3), dtype=torch.uint8, generator=generator)
    return Images(pixels, torch.randint(0, 10, (203,), generator=generator))


@pytest.fixture(scope='module')
def model():
    torch.manual_seed(0)
    return timm.create_model('cifar_resnet8', zero_init_last=False, pretrained_cfg_overlay={'input_size': (3, 8, 8)})


# -------------------------------------------------------------------------------------------------------- the figures


def calibration_error(confidence, correct):
    """Bin by bin, as in Guo et al. 2017, equations 2 and 3."""
    error = 0.0
    for m in range(1, 16):
        inside = [i for i, p in enumerate(confidence) if (m - 1) / 15 < p <= m / 15]
        if inside:
            accuracy = sum(bool(correct[i]) for i in inside) / len(inside)
            mean = sum(confidence[i] for i in inside) / len(inside)
            error += len(inside) / len(confidence) * abs(accuracy - mean)
    return error


@given(
    st.lists(st.tuples(st.sampled_from([m / 15 for m in range(1, 16)]) | st.floats(1e-3, 1), st.booleans()), min_size=1)
)
def test_calibration_error_is_its_definition(pairs):
    """Also on the edges of the bins, which belong to the lower one."""
    confidence, correct = zip(*pairs, strict=True)
    ours = expected_calibration_error(torch.tensor(confidence, dtype=torch.float64), torch.tensor(correct))
    assert ours == pytest.approx(calibration_error(confidence, correct), abs=1e-9)


@settings(deadline=None)
@given(st.integers(1, 60), st.integers(2, 12), st.floats(0.1, 20), st.integers(0, 2**31))
def test_metrics_are_their_definitions(count, classes, scale, seed):
    random = np.random.default_rng(seed)
    logits, labels = scale * random.standard_normal((count, classes)), random.integers(0, classes, count)
    metrics = Metrics.from_logits(torch.from_numpy(logits), torch.from_numpy(labels))
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    order = np.argsort(-logits, 1)
    predicted = order[:, 0]
    assert metrics.images == count
    assert metrics.top1 == pytest.approx(100 * (predicted == labels).mean(), abs=1e-4)
    assert metrics.top5 == pytest.approx(100 * (order[:, :5] == labels[:, None]).any(1).mean(), abs=1e-4)
    assert metrics.nll == pytest.approx(-np.log(p[np.arange(count), labels]).mean(), abs=1e-4)
    assert metrics.ece == pytest.approx(100 * calibration_error(p.max(1), predicted == labels), abs=1e-4)
    for true in range(classes):
        of_class = predicted[labels == true]
        assert metrics.confusion[true] == tuple((of_class == guess).sum() for guess in range(classes))
        accuracy = pytest.approx(100 * (of_class == true).mean(), abs=1e-4) if len(of_class) else None
        assert metrics.per_class[true] == accuracy


def test_evaluate_measures_the_logits_of_every_image(model, images):
    with torch.no_grad():
        logits = model.eval()(normalise(images.pixels, MEAN, STD))
    metrics = evaluate(model, images, MEAN, STD, batch_size=50)
    assert metrics == Metrics.from_logits(logits, images.labels) and metrics.images == 203
    assert metrics.images_per_second > 0


def test_the_model_is_evaluated_in_evaluation_mode(model, images):
    model.train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    first = evaluate(model, images, MEAN, STD)
    assert first == evaluate(model, images, MEAN, STD, batch_size=7)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items()), 'running statistics moved'


@pytest.mark.parametrize(('bf16', 'dtype'), [(False, torch.float32), (True, torch.bfloat16)])
def test_precision(bf16, dtype, model, images):
    """bf16 where it is asked for; else float32 and no TF32, and the setting is as before afterwards."""
    seen = set()
    convolutions = torch.backends.cudnn.conv
    before = convolutions.fp32_precision
    hook = model.conv1.register_forward_hook(lambda _, __, out: seen.add((out.dtype, convolutions.fp32_precision)))
    try:
        metrics = evaluate(model, images, MEAN, STD, bf16=bf16)
    finally:
        hook.remove()
    assert seen == {(dtype, 'ieee')} and before == convolutions.fp32_precision != 'ieee'
    assert metrics.nll == pytest.approx(evaluate(model, images, MEAN, STD).nll, abs=0.05 * bf16)


def test_speed_is_of_the_passes_after_the_first(model, images, monkeypatch):
    """A clock that moves by one second a look: 203 images in batches of 50 are 5 passes."""
    seconds = iter(range(1000))
    monkeypatch.setattr(running, '_clock', lambda device: next(seconds))
    metrics = evaluate(model, images, MEAN, STD, batch_size=50)
    assert metrics.images_per_second == pytest.approx(153 / 4, abs=0.1)
    assert evaluate(model, images, MEAN, STD, batch_size=500).images_per_second == 203
    monkeypatch.undo()
    assert metrics == evaluate(model, images, MEAN, STD, batch_size=50), 'equality looks at the speed'


def test_networks_of_another_image_size(images):
    """By timm's own transform, and with a warning; those of the images' size see the pixels as they are."""
    net = timm.create_model('cifar_resnet8', pretrained_cfg_overlay={'input_size': (3, 12, 12), 'crop_pct': 0.75})
    transform = make_transform(net)
    x = torch.stack([transform(Image.fromarray(image)) for image in images.pixels.numpy()])
    assert x.shape == (203, 3, 12, 12)
    with torch.no_grad():
        wanted = Metrics.from_logits(net.eval()(x), images.labels)
    with pytest.warns(UserWarning, match='8×8 pixels are resized to the 12×12 that the network was trained on'):
        found = evaluate(net, images)
    assert found.confusion == wanted.confusion and found.nll == pytest.approx(wanted.nll, abs=1e-4)
    assert evaluate(net, images, transform=transform) == wanted
    with pytest.warns(UserWarning, match='8×8 pixels, but the network was trained on 12×12'):
        evaluate(net, images, MEAN, STD)


def test_every_way_to_give_images_gives_the_same(model, images, tmp_path):
    """And of a network by its name."""
    np.savez(tmp_path / 'a.npz', images=images.pixels, labels=images.labels)
    wanted = evaluate(model, images)
    for data in (
        (images.pixels, images.labels),
        (images.pixels.numpy(), images.labels.tolist()),
        tmp_path / 'a.npz',
        str(tmp_path / 'a.npz'),
        read_labelled(tmp_path / 'a.npz'),
    ):
        assert evaluate(model, data) == wanted
    named = evaluate('cifar_resnet8.cifar10', images)
    assert named == evaluate(timm.create_model('cifar_resnet8', pretrained=True), images)
    assert named.to_dict()['images'] == 203


@pytest.mark.parametrize(
    ('data', 'message'),
    [
        (lambda x, y: (x.float() / 255, y), r'pixels must be uint8 .*not torch.float32: .* converts values between 0'),
        (
            lambda x, y: (x.permute(0, 3, 1, 2), y),
            r'\(N, H, W, 1\), not \(203, 3, 8, 8\): pixels.permute\(0, 2, 3, 1\)',
        ),
        (lambda x, y: (x[0], y), r'not \(8, 8, 3\)'),
        (lambda x, y: (x, y[:-1]), r'labels must be integers of the shape \(203,\), one per image'),
        (lambda x, y: (x, y / 2), 'labels must be integers .*not torch.float32'),
        (lambda x, y: x, 'expected a path, images or a pair'),
    ],
)
def test_pixels_of_another_kind(data, message, model, images):
    with pytest.raises(InputError, match=message):
        evaluate(model, data(images.pixels, images.labels))


def test_classes_are_matched_by_name(images):
    names = DATASETS['cifar10'].classes
    shuffled = replace(images, classes=tuple(sorted(names, reverse=True)))
    labels = match_labels(shuffled, names, 10)
    assert [names[i] for i in labels] == [shuffled.classes[i] for i in images.labels]
    two = Images(images.pixels, images.labels % 2, ('Ship', 'CAT '))
    assert match_labels(two, names, 10).unique().tolist() == [3, 8]
    assert torch.equal(match_labels(replace(images, classes=()), names, 10), images.labels)
    assert torch.equal(match_labels(shuffled, (), 10), images.labels)
    for classes, own, message in (
        (
            ('cat', 'zebra'),
            names,
            "no class 'zebra': the classes of images are cat, zebra; those of the model are airplane,",
        ),
        (('cat', 'dog'), (), 'the model has 10 classes without names, but images has 2: cat, dog'),
    ):
        with pytest.raises(InputError, match=message):
            match_labels(replace(two, classes=classes), own, 10)


def test_grey_images_for_grey_networks(images):
    net = timm.create_model('cifar_resnet8', in_chans=1, pretrained_cfg_overlay={'input_size': (3, 8, 8)})
    grey = Images(images.pixels[..., :1], images.labels)
    with torch.no_grad():
        x = (grey.pixels.permute(0, 3, 1, 2) / 255 - fmean(net.pretrained_cfg['mean'])) / fmean(
            net.pretrained_cfg['std']
        )
        wanted = net.eval()(x)
    assert evaluate(net, grey).nll == pytest.approx(Metrics.from_logits(wanted, images.labels).nll, abs=1e-4)
    assert evaluate(net, images).images == 203, 'colour is converted'


def test_logits_are_float32_whatever_computes_them(model, images):
    """In bf16 the softmax of many images would be exactly 1, and their order lost."""
    for options in ({}, {'bf16': True}):
        assert compute_outputs(model, images, **options).logits.dtype == torch.float32
    assert compute_outputs(deepcopy(model).bfloat16(), images).logits.dtype == torch.float32


@pytest.mark.parametrize(
    ('change', 'error', 'message'),
    [
        (lambda net, images: (net, images[:0]), InputError, 'no images'),
        (
            lambda net, images: (nn.Sequential(net, nn.Linear(10, 3)), images),
            InputError,
            'the model has 3 classes, but the',
        ),
        (lambda net, images: (net, Images(images.pixels, images.labels - 1)), InputError, '10 classes, .* label -1'),
        (lambda net, images: (nn.Sequential(net, Divide()), images), ResnetHubError, 'the logits are not finite'),
    ],
    ids=['no images', 'too few classes', 'negative label', 'diverged'],
)
def test_refused(change, error, message, model, images):
    with pytest.raises(error, match=message):
        evaluate(*change(model, images), MEAN, STD)


class Divide(nn.Module):
    def forward(self, x):
        return x / 0


def test_the_data_set_follows_from_the_classes():
    def cfg(count, **more):
        return {'num_classes': count, 'input_size': (3, 32, 32), **more}

    assert [dataset_of(cfg(10)), dataset_of(cfg(100)), dataset_of(cfg(10), 'svhn')] == ['cifar10', 'cifar100', 'svhn']
    assert dataset_of(cfg(10, label_names=list('0123456789'))) == 'svhn'
    for arguments, message in {
        (7, None): 'the model has 7 classes, but cifar10 has 10, cifar100 has 100, svhn has 10',
        (10, 'cifar100'): 'the model has 10 classes, but cifar100 has 100',
        (10, 'mnist'): "unknown data set 'mnist'",
    }.items():
        with pytest.raises(InputError, match=message):
            dataset_of(cfg(arguments[0]), arguments[1])
    assert dataset_of(cfg(10, label_names=['plane', 'car', *'cdefghij'])) == 'cifar10'
    with pytest.raises(InputError, match='takes images of 1 channels'):
        dataset_of(cfg(10, input_size=(1, 32, 32)))


# ------------------------------------------------------------------------------------------------ the log, the picture


def test_the_log_grows(tmp_path, model, images):
    """A new file gets all columns, one that exists keeps its own."""
    result = {'model': 'm', 'dataset': 'cifar10', 'split': 'test', **evaluate(model, images, MEAN, STD).to_dict()}
    committed = b'model,dataset,split,top1,top5,nll,images,sha256\nm,cifar10,test,92.23,99.78,0.3123,10000,dfcb2436\n'
    (tmp_path / 'old.csv').write_bytes(committed)
    for name in ('new.csv', 'new.csv', 'old.csv'):
        log_evaluation(tmp_path / name, result, model)
    new, old = (list(csv.DictReader((tmp_path / name).read_text().splitlines())) for name in ('new.csv', 'old.csv'))
    assert len(new) == 2 and new[0] == new[1] and tuple(new[0]) == LOG_COLUMNS and len(new[0]['sha256']) == 64
    assert {k: str(v) for k, v in result.items()} == {k: v for k, v in new[0].items() if k != 'sha256'}
    assert (tmp_path / 'old.csv').read_bytes().startswith(committed)
    assert len(old) == len(committed.splitlines()) and old[-1] == {k: new[0][k] for k in old[0]}
    (tmp_path / 'other.csv').write_text('epoch,train_loss\n1,2\n')
    with pytest.raises(InputError, match=r'other.csv is another table, with the columns epoch, train_loss'):
        log_evaluation(tmp_path / 'other.csv', result, model)


@pytest.mark.parametrize('classes', [4, 30])
def test_the_picture_has_true_classes_as_rows(classes, tmp_path):
    """Where every image is taken for the first class, the left half is dark; turned, it would be the upper one."""
    plot_confusion([[5] + [0] * (classes - 1)] * classes, [f'${i}' for i in range(classes)], tmp_path / 'c.png', 'a$b$')
    picture = np.asarray(Image.open(tmp_path / 'c.png').convert('RGB')).astype(int)
    rows, columns = np.nonzero((abs(picture - (8, 48, 107)) < 4).all(2))  # the dark end of the colour map
    columns, rows = columns[columns < 0.8 * picture.shape[1]], rows[columns < 0.8 * picture.shape[1]]  # no colour bar
    assert np.ptp(rows) > 5 * np.ptp(columns) * classes / 10 and columns.max() < picture.shape[1] / 2


# --------------------------------------------------------------------------------------------------------- the command


@pytest.fixture(scope='module')
def two_sets(tmp_path_factory):
    """A folder with 64 images of cifar10 and 9 of svhn, and a network for each."""
    root = tmp_path_factory.mktemp('two_sets')
    generator = torch.Generator().manual_seed(1)
    for name, count in (('cifar10', 64), ('svhn', 9)):
        pixels = torch.randint(0, 256, (count, 32, 32, 3), dtype=torch.uint8, generator=generator)
        labels = torch.randint(0, 10, (count,), generator=generator)
        write_parquet(root / name / 'test-00000-of-00001.parquet', pixels, labels, name)
    torch.manual_seed(1)
    net = timm.create_model('cifar_resnet8', zero_init_last=False)
    svhn = DATASETS['svhn']
    config = make_config('cifar_resnet8', mean=svhn.mean, std=svhn.std, num_classes=10, label_names=svhn.classes)
    write_folder(root / 'net', net.state_dict(), config)
    return root, ('cifar_resnet20.cifar10', f'local-dir:{root / "net"}')


FIGURES = ('top1', 'top5', 'nll', 'ece', 'images', 'images_per_second')


def test_the_command_prints_what_evaluate_measures(two_sets, command, tmp_path):
    root, models = two_sets
    rows = json.loads(command('evaluate', *models, '--data', root, '--json').out)
    assert [(row['model'], row['dataset'], row['split']) for row in rows] == [
        (models[0], 'cifar10', 'test'),
        (models[1], 'svhn', 'test'),
    ]
    for row in rows:
        assert [*row][3:] == [*FIGURES, 'precision', 'per_class', 'confusion'] and row['precision'] == 'float32'
        assert [*row['per_class']] == [*DATASETS[row['dataset']].classes]
        hits = [counts[label] for label, counts in enumerate(row['confusion'])]
        assert row['top1'] == pytest.approx(100 * sum(hits) / row['images'], abs=1e-4)
        assert sum(map(sum, row['confusion'])) == row['images'] == {'cifar10': 64, 'svhn': 9}[row['dataset']]
    table, *by_class = command('evaluate', *models, '--data', root, '--per-class').out.split('\n\n')
    header, *lines = (line.split() for line in table.splitlines())
    assert header == ['model', 'dataset', 'split', *FIGURES, 'precision']
    for row, line, classes in zip(rows, lines, by_class, strict=True):
        assert line[3:8] == '{top1:.2f} {top5:.2f} {nll:.4f} {ece:.2f} {images}'.format_map(row).split()
        name, _, *accuracies = classes.splitlines()
        assert name == row['model']
        for written, (label, accuracy), counts in zip(
            accuracies, row['per_class'].items(), row['confusion'], strict=True
        ):
            wanted = [label, f'{sum(counts)}', '-' if accuracy is None else f'{accuracy:.2f}']
            assert written.split() == wanted
    assert command('evaluate', models[0], '--data', root, '--bf16').out.split()[-1] == 'bf16'


def test_several_models_are_loaded_one_at_a_time_and_images_read_once(two_sets, command, monkeypatch):
    root, (first, _) = two_sets
    loaded, read = [], []

    def load(*arguments):
        gc.collect()
        assert not [model for model in loaded if model() is not None], 'another model is still in memory'
        model = load_model(*arguments)
        loaded.append(weakref.ref(model))
        return model

    def read_and_note(*arguments, **options):
        read.append(arguments)
        return read_labelled(*arguments, **options)

    monkeypatch.setattr('resnet_hub.registry.loading.load_model', load)
    monkeypatch.setattr('resnet_hub.data.sources.read_labelled', read_and_note)
    command('evaluate', first, 'cifar_resnet8.cifar10', 'preact_resnet20.cifar10', '--data', root)
    assert len(loaded) == 3 and len(read) == 1


def test_under_torchrun_the_result_is_that_of_one_process(two_sets, command, tmp_path):
    """Two processes, 7 batches and then a single one: every image counts once, and one process prints and writes."""
    root, models = two_sets
    arguments = ['evaluate', *models, '--data', root, '--batch-size', '10', '--device', 'cpu', '--json']
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as many as torchrun gives each process
    try:
        alone = command(*arguments, '--append', tmp_path / 'a.csv', '--confusion', tmp_path / 'a').out
    finally:
        torch.set_num_threads(threads)
    torchrun = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc-per-node', '2']
    shared = subprocess.run(
        [*torchrun, '-m', 'resnet_hub', *arguments, '--append', tmp_path / 'b.csv', '--confusion', tmp_path / 'b'],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert shared.returncode == 0, shared.stderr
    rows = [json.loads(out) for out in (alone, shared.stdout)]
    assert all(row.pop('images_per_second') > 0 for row in rows[0] + rows[1])
    assert rows[0] == rows[1]
    assert (tmp_path / 'a.csv').read_bytes() == (tmp_path / 'b.csv').read_bytes()
    pictures = [{path.name: path.read_bytes() for path in (tmp_path / folder).iterdir()} for folder in 'ab']
    assert pictures[0] == pictures[1] and len(pictures[0]) == 2


REFUSED = {
    '{0} --data {root} --bf16 --append log.csv': '--append keeps figures of float32',
    '{0} {1} --data {root} --confusion c.png': '--confusion and --plot take FILE.png for one model, a folder for several',
    '{0} --data {root} --dataset cifar100': '{0}: the model has 10 classes, but cifar100 has 100',
    'resnet18 --data {root}': 'resnet18: {root} holds several data sets: give the folder of one, cifar10, svhn',
    'resnet18 --data {root} --dataset cifar10': 'resnet18: the model has 1000 classes, but cifar10 has 10',
    '{0} --data {root} --ood {root} --per-class': '--ood has other results: leave out --per-class',
    '{0} --data {root} --ood {root} --shift': '--ood and --shift are measured one at a time',
    '{0} --data {root} --knn': '--knn is a score of out-of-distribution images',
    '{0} --data {root} --plot c.png': '--plot draws the table of corrupted images',
    '{root}/net --data {root}': 'for the model in this folder write local-dir:{root}/net',
    '{0} --data {root} --device gpu': "unknown device 'gpu'",
    '{0} --data {root} --device cuda:99': 'there is no cuda:99',
}


@pytest.mark.parametrize('line', REFUSED)
def test_refused_in_one_line(line, two_sets, command, tmp_path, monkeypatch):
    """And before anything is downloaded or measured."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('HF_HUB_OFFLINE', '1')
    root, models = two_sets
    done = command('evaluate', *line.format(*models, root=root).split(), expect=2)
    assert REFUSED[line].format(*models, root=root) in done.err and len(done.err.splitlines()) == 1 and not done.out
    assert not [*tmp_path.iterdir()], 'something was written'


def test_a_picture_needs_matplotlib(two_sets, command, monkeypatch):
    monkeypatch.delitem(sys.modules, 'resnet_hub.utils.plots')
    monkeypatch.setitem(sys.modules, 'matplotlib.colors', None)
    root, models = two_sets
    done = command('evaluate', models[0], '--data', root, '--confusion', 'c.png', expect=1)
    assert "pip install -e '.[plot]'" in done.err and not done.out


# ---------------------------------------------------------------------------------------------------------- recipes
