"""Fine-tuning on real images that no table knows: scikit-learn's digits (8×8, grey), and patches of its photographs."""

import json
import shutil

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from resnet_hub import Images, InputError, convert_checkpoint, evaluate, load_model, predict, train
from resnet_hub.training.task import Task, describe_classes, measure_pixels, split

datasets = pytest.importorskip('sklearn.datasets')


def write_class_folders(folder, pixels, labels, names):
    for number, (image, label) in enumerate(zip(pixels, labels, strict=True)):
        path = folder / names[label] / f'{number}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)


@pytest.fixture(scope='module')
def digits(tmp_path_factory):
    """1,797 handwritten digits of 43 people (E. Alpaydin and C. Kaynak, 1998), in class folders for train and test."""
    folder, bunch = tmp_path_factory.mktemp('digits'), datasets.load_digits()
    pixels = (bunch.images * 255 / 16).round().astype(np.uint8)
    names = 'zero one two three four five six seven eight nine'.split()
    write_class_folders(folder / 'train', pixels[:1000], bunch.target[:1000], names)
    write_class_folders(folder / 'test', pixels[1500:], bunch.target[1500:], names)
    return folder


@pytest.fixture(scope='module')
def tuned(digits, tmp_path_factory):
    folder = tmp_path_factory.mktemp('runs') / 'digits'
    return train(
        model='cifar_resnet8', data=digits, output=folder, epochs=5, batch_size=32, warmup_epochs=1, opt='nmuon', lr=0.01, momentum=0.95, crop=1,
        flip='none', channels=1, holdout=100, seed=1, device='cpu', weight_decay=0.001,
    )  # fmt: skip


def test_a_network_learns_digits_from_a_folder(tuned, digits, command):
    """Size, classes and normalisation come from the images, and are written down. The recipe fits images of other sizes."""
    config = json.loads((tuned / 'config.json').read_text())
    assert config['label_names'] == sorted('zero one two three four five six seven eight nine'.split())
    cfg = config['pretrained_cfg']
    assert cfg['input_size'] == [1, 8, 8] and config['recipe']['size'] == 0 and config['recipe']['dataset'] == ''
    pixels = np.stack([np.asarray(Image.open(path)) for path in digits.glob('train/*/*.png')]) / 255
    assert cfg['mean'] == pytest.approx([pixels.mean()], abs=0.01) and cfg['std'] == pytest.approx(
        [pixels.std()], abs=0.01
    )
    metrics = evaluate(f'local-dir:{tuned}', digits)
    assert metrics.images == 297 and metrics.top1 > 80
    printed = json.loads(command('evaluate', f'local-dir:{tuned}', '--data', digits, '--json').out)
    assert printed[0]['top1'] == metrics.top1


def test_its_checkpoint_converts_with_the_names_and_the_normalisation_in_config_json(tuned, tmp_path):
    config = json.loads((tuned / 'config.json').read_text())
    found = convert_checkpoint(tuned / 'checkpoint.pt', tmp_path / 'net')
    assert [*found.mean] == config['pretrained_cfg']['mean'] and [*found.label_names] == config['label_names']
    assert json.loads((tmp_path / 'net' / 'config.json').read_text())['pretrained_cfg']['input_size'] == [1, 8, 8]
    for file, name in (('checkpoint.pt', 'other.pt'), ('config.json', 'config.json')):
        shutil.copyfile(tuned / file, tmp_path / name)
    with pytest.raises(InputError, match='give --mean and --std'):  # the digest in config.json is not of this file
        convert_checkpoint(tmp_path / 'other.pt', tmp_path / 'other')


def test_the_result_predicts_the_names_of_the_classes(tuned, digits):
    paths = sorted(digits.glob('test/*/*.png'))[::10]
    answers = [p.classes[0][0] for p in predict(load_model(f'local-dir:{tuned}', 'cpu'), paths)]
    assert np.mean([answer == path.parent.name for answer, path in zip(answers, paths, strict=True)]) > 0.8
    assert timm.create_model(f'local-dir:{tuned}', pretrained=True).conv1.in_channels == 1


@pytest.fixture(scope='module')
def photographs():
    """32×32 patches of scikit-learn's two photographs in colour, three times as many of the first."""
    pixels, labels = [], []
    for label, (photo, count) in enumerate(zip(datasets.load_sample_images().images, (120, 40), strict=True)):
        corners = np.random.default_rng(label).integers(0, (photo.shape[0] - 32, photo.shape[1] - 32), (count, 2))
        pixels += [photo[y : y + 32, x : x + 32] for y, x in corners]
        labels += [label] * count
    return Images(torch.from_numpy(np.stack(pixels)), torch.tensor(labels), ('china', 'flower'), 'photographs')


def test_fine_tuning_keeps_the_trained_layers_where_the_classifier_alone_is_trained(photographs, tmp_path):
    folder = train(
        init='cifar_resnet8.cifar10', data=photographs, output=tmp_path / 'run', epochs=3, batch_size=32, lr=0.1,
        trainable='classifier', class_weights='balanced', holdout=40, device='cpu', bf16=False,
    )  # fmt: skip
    before, after = (
        timm.create_model('cifar_resnet8.cifar10', pretrained=True),
        load_model(f'local-dir:{folder}', 'cpu'),
    )
    for name, tensor in before.state_dict().items():
        if not name.startswith('fc'):
            torch.testing.assert_close(after.state_dict()[name], tensor, rtol=1e-3, atol=1e-5)
    assert after.fc.out_features == 2 and after.pretrained_cfg['label_names'] == ['china', 'flower']
    assert evaluate(after, photographs).top1 > 85


def test_earlier_layers_learn_more_slowly_if_asked(photographs, tmp_path):
    changes = []
    for layer_decay in (1.0, 0.3):
        folder = train(
            init='cifar_resnet8.cifar10', data=photographs, output=tmp_path / str(layer_decay), epochs=1, warmup_epochs=0,
            batch_size=32, layer_decay=layer_decay, device='cpu', bf16=False,
        )  # fmt: skip
        trained = load_model(f'local-dir:{folder}', 'cpu')
        fresh = timm.create_model('cifar_resnet8.cifar10', pretrained=True)
        changes.append(float((trained.conv1.weight - fresh.conv1.weight).detach().abs().mean()))
    assert changes[1] < changes[0] / 3


def test_the_same_classes_keep_the_classifier(tiny_data, tmp_path):
    folder = train(
        init='cifar_resnet8.cifar10', dataset='cifar10', data=tiny_data[0], output=tmp_path / 'run', epochs=1,
        warmup_epochs=0, batch_size=32, lr=1e-6, device='cpu', bf16=False,
    )  # fmt: skip
    before, after = (
        timm.create_model('cifar_resnet8.cifar10', pretrained=True),
        load_model(f'local-dir:{folder}', 'cpu'),
    )
    torch.testing.assert_close(after.fc.weight, before.fc.weight, rtol=1e-3, atol=1e-3)


def test_what_fine_tuning_refuses(photographs, tmp_path):
    with pytest.raises(InputError, match='is cifar_resnet8, not preact_resnet20: leave out --model'):
        train(init='cifar_resnet8.cifar10', model='preact_resnet20', data=photographs, output=tmp_path / 'run')
    with pytest.raises(InputError, match='pixels must be uint8'):
        train(data=(torch.rand(8, 8, 8, 3), torch.zeros(8, dtype=torch.int64)), output=tmp_path / 'run')
    with pytest.raises(InputError, match='crop must be below 8'):
        train(data=(photographs.pixels[:, :8, :8], photographs.labels), batch_size=8, crop=8, output=tmp_path / 'run')
    with pytest.raises(InputError, match=r"image_sizes '16:8 32:2' leaves no epoch at full size"):
        train(data=photographs, epochs=10, image_sizes='16:8 32:2', size=24, output=tmp_path / 'run')
    with pytest.raises(InputError, match=r"image_sizes '16:8 32:2' leaves no epoch at full size"):
        small = photographs.pixels[:, :16, :16], photographs.labels
        train(data=small, epochs=10, batch_size=8, image_sizes='16:8 32:2', output=tmp_path / 'run')
    assert not (tmp_path / 'run').exists()


def test_arguments_of_the_architecture(photographs, tmp_path):
    folder = train(
        model='preact_resnet18', model_args='final_norm=True layers=(1,1,1) widths=(8,8,8) shortcut_type=A',
        data=photographs, output=tmp_path / 'run', epochs=1, batch_size=32, device='cpu', bf16=False,
    )  # fmt: skip
    model = load_model(f'local-dir:{folder}', 'cpu')
    assert model.norm.num_features == 8 and not any('downsample' in name for name, _ in model.named_parameters())
    for wrong, message in (
        ('final_norm', "model_args must be like 'final_norm=True"),
        ('depth=3', 'cifar_resnet20 does not take model_args'),
        ('shortcut_type=C', "shortcut_type must be 'A' or 'B', not 'C'"),
        ('num_classes=3', 'model_args cannot set num_classes'),
    ):
        with pytest.raises(InputError, match=message):
            train(model_args=wrong, data=photographs, output=tmp_path / 'other')
    with pytest.raises(InputError, match='leave out --model-args'):
        train(init='cifar_resnet8.cifar10', model_args='final_norm=True', data=photographs, output=tmp_path / 'other')


def test_held_out_images_have_the_same_share_of_every_class():
    labels = torch.tensor([0] * 100 + [1] * 40 + [2] * 10)[
        torch.randperm(150, generator=torch.Generator().manual_seed(0))
    ]
    kept, held_out = split(labels, 30)
    assert torch.bincount(labels[held_out]).tolist() == [20, 8, 2]
    assert torch.equal(torch.cat([kept, held_out]).sort().values, torch.arange(150))
    assert torch.equal(split(labels, 30)[1], held_out)


def test_pixels_are_measured_exactly():
    pixels = torch.randint(0, 256, (7, 5, 4, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    mean, std = measure_pixels(pixels)
    values = pixels.numpy().reshape(-1, 3) / 255
    assert mean == pytest.approx(values.mean(0), abs=1e-4) and std == pytest.approx(values.std(0), abs=1e-4)


def test_class_counts_are_shown_most_frequent_first():
    task = Task(tuple('abc'), (0.5,), (0.5,))
    assert describe_classes(torch.tensor([1, 2000, 0]), task) == '3 classes: b 2,000, a 1, c 0'
