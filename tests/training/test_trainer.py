"""Training on a small real problem: colours told apart."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from resnet_hub import InputError, Recipe, ResnetHubError, evaluate, train
from resnet_hub.data.images import normalise
from resnet_hub.data.sources import load_images
from resnet_hub.tables.datasets import DATASETS
from resnet_hub.training.objective import Objective, Teacher
from resnet_hub.training.task import Task, split
from resnet_hub.training.trainer import Trainer
from resnet_hub.weights.folder import make_config, write_folder
from tests.conftest import ROOT, needed, write_parquet
from tests.training.fixed_norms import train_with_fixed_norms

RECIPE = Recipe(
    model='cifar_resnet8',
    dataset='cifar10',
    epochs=4,
    batch_size=32,
    warmup_epochs=1,
    lr=0.05,
    holdout=64,
    ema_decay=0.9,
)


@pytest.fixture(scope='module')
def finished(tiny_data, tmp_path_factory):
    return train(RECIPE, tmp_path_factory.mktemp('runs') / 'whole', tiny_data[0], device='cpu')


def history(folder):
    lines = [line.split(',') for line in (folder / 'history.csv').read_text().splitlines()]
    return [dict(zip(lines[0], map(float, line), strict=True)) for line in lines[1:]]


def test_it_learns(finished):
    rows = history(finished)
    assert [row['epoch'] for row in rows] == [1, 2, 3, 4]
    assert rows[-1]['train_loss'] < rows[0]['train_loss'] / 2 and rows[-1]['holdout_top1'] > 90


def test_the_learning_rate_warms_up_and_falls_to_zero(finished):
    rates = [row['lr'] for row in history(finished)]
    assert (
        0.8 * RECIPE.lr < rates[0] <= RECIPE.lr and rates == sorted(rates, reverse=True) and rates[-1] < RECIPE.lr / 50
    )


def test_the_curves_are_a_picture(finished):
    with Image.open(finished / 'curves.png') as picture:
        assert picture.format == 'PNG' and picture.width > 400


def test_the_folder_is_a_model_for_timm(finished, tiny_data):
    """The published weights are the averaged ones of the last epoch, in half precision where that is safe."""
    state = torch.load(finished / 'checkpoint.pt', weights_only=True)
    weights = load_file(finished / 'model.safetensors')
    for key, tensor in state['ema'].items():
        assert torch.equal(weights[key].to(tensor.dtype), tensor.half().float() if tensor.ndim > 1 else tensor), key
    model = timm.create_model(f'local-dir:{finished}', pretrained=True)
    assert model.pretrained_cfg['label_names'] == list(DATASETS['cifar10'].classes)
    images = load_images('cifar10', 'train', tiny_data[0])
    images = images[split(images.labels, 64)[1]]
    cfg = model.pretrained_cfg
    assert evaluate(model, images, cfg['mean'], cfg['std']).top1 == pytest.approx(
        history(finished)[-1]['holdout_top1'], abs=2
    )


def test_config_says_what_transformers_reads_at_the_root(finished):
    config = json.loads((finished / 'config.json').read_text())
    assert config['num_classes'] == 10 and config['dtype'] == 'float32' and len(config['label_names']) == 10
    assert 'num_classes' not in config.get('model_args', {}) and config['recipe']['lr'] == RECIPE.lr


def test_killed_and_resumed_is_the_unbroken_run(finished, tiny_data, tmp_path):
    """SIGKILL somewhere after the first epoch, then --resume: weights, optimizer and history bit for bit."""
    (tmp_path / 'recipe.toml').write_text(RECIPE.to_toml())
    folder = tmp_path / 'broken'
    command = [sys.executable, '-m', 'resnet_hub', 'train', '-o', folder, '--data', tiny_data[0], '--device', 'cpu']
    environment = {**os.environ, 'OMP_NUM_THREADS': str(torch.get_num_threads())}
    process = subprocess.Popen(
        [*command, '--recipe', tmp_path / 'recipe.toml'], env=environment, stderr=subprocess.DEVNULL
    )
    while not (folder / 'checkpoint.pt').exists() and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    epochs = len(torch.load(folder / 'checkpoint.pt', weights_only=True)['history'])
    assert epochs < RECIPE.epochs, 'it was too fast to be broken'
    (folder / '.history.csv.resnet-hub-0a1b2c3d').touch()  # as if killed while it wrote
    (folder / 'history.csv').unlink(missing_ok=True)
    subprocess.run([*command, '--resume'], env=environment, check=True, capture_output=True)
    for name in ('history.csv', 'model.safetensors', 'config.json', 'recipe.toml'):
        assert (folder / name).read_bytes() == (finished / name).read_bytes(), name
    whole, broken = (torch.load(run / 'checkpoint.pt', weights_only=True) for run in (finished, folder))
    for key in ('model', 'optimizer'):
        torch.testing.assert_close(broken[key], whole[key], rtol=0, atol=0)
    assert not [path for path in folder.iterdir() if path.name.startswith('.')], 'temporary files left'


def test_a_run_is_neither_overwritten_nor_invented(finished, tiny_data, tmp_path):
    with pytest.raises(InputError, match='already holds a run: continue it with --resume'):
        train(RECIPE, finished, tiny_data[0])
    with pytest.raises(InputError, match=r'nothing to resume: .*checkpoint\.pt does not exist'):
        train(RECIPE, tmp_path, tiny_data[0], resume=True)
    with pytest.raises(InputError, match=r'was trained with seed = 0, lr = 0\.05, and a run keeps'):
        train(replace(RECIPE, lr=1.0, seed=7), finished, tiny_data[0], resume=True)
    bf16 = torch.load(finished / 'checkpoint.pt', weights_only=True)['bf16']
    with pytest.raises(InputError, match=f'was trained with --{"" if bf16 else "no-"}bf16: resume with that option'):
        train(RECIPE, finished, tiny_data[0], resume=True, bf16=not bf16)


def test_a_checkpoint_without_a_newer_field_of_the_recipe_is_resumed(tiny_data, tmp_path):
    trainer = Trainer(RECIPE, tiny_data[1])
    trainer.save(tmp_path / 'checkpoint.pt')
    state = torch.load(tmp_path / 'checkpoint.pt', weights_only=True)
    del state['recipe']['conv_drop_rate']
    torch.save(state, tmp_path / 'checkpoint.pt')
    trainer.load(tmp_path / 'checkpoint.pt')
    state['recipe']['size'] = 32  # which earlier versions wrote in place of 0
    torch.save(state, tmp_path / 'checkpoint.pt')
    trainer.load(tmp_path / 'checkpoint.pt')
    state['recipe']['cutout'] = 8
    torch.save(state, tmp_path / 'checkpoint.pt')
    with pytest.raises(InputError, match='was trained with cutout = 8'):
        trainer.load(tmp_path / 'checkpoint.pt')


def test_a_checkpoint_from_a_gpu_is_resumed_on_a_processor(tiny_data, tmp_path):
    """There the learning rate is a tensor, and the optimizer is capturable, which works on a GPU only."""
    recipe = replace(RECIPE, opt='nadamw', lr=0.01)
    first, second = Trainer(recipe, tiny_data[1]), Trainer(recipe, tiny_data[1])
    first.train_epoch()
    first.save(tmp_path / 'checkpoint.pt')
    state = torch.load(tmp_path / 'checkpoint.pt', weights_only=True)
    for group in state['optimizer']['param_groups']:
        group |= {'lr': torch.tensor(0.01), 'capturable': True}
    torch.save(state, tmp_path / 'checkpoint.pt')
    second.load(tmp_path / 'checkpoint.pt')
    assert second.train_epoch() == first.train_epoch()


def test_a_finished_model_is_not_replaced(tiny_data, tmp_path):
    for name in ('model.safetensors', 'config.json', 'history.csv'):
        (tmp_path / name).mkdir(parents=True)
        with pytest.raises(InputError, match=rf'already holds a model \({name}\)'):
            train(RECIPE, tmp_path, tiny_data[0])
        (tmp_path / name).rmdir()
    (tmp_path / 'recipe.toml').write_text('epochs = 3  # more overfits\n')
    with pytest.raises(InputError, match=r'recipe\.toml is a recipe of your own, which the run would replace'):
        train(RECIPE, tmp_path, tiny_data[0])
    assert (tmp_path / 'recipe.toml').read_text() == 'epochs = 3  # more overfits\n'


def test_an_interrupted_run_says_how_to_go_on_and_can_be_measured(tiny_data, tmp_path, monkeypatch, caplog):
    """Ctrl-C in the third epoch; what the first one's end wrote is a model."""
    original = Trainer.train_epoch

    def interrupted(self):
        if len(self.history) == 2:
            raise KeyboardInterrupt
        return original(self)

    monkeypatch.setattr(Trainer, 'train_epoch', interrupted)
    caplog.set_level('INFO', 'resnet_hub')
    benchmark = torch.backends.cudnn.benchmark
    with pytest.raises(KeyboardInterrupt):
        train(RECIPE, tmp_path / 'run', tiny_data[0], device='cpu')
    first, classes, *rows, last = caplog.messages
    assert first.startswith('cifar_resnet8, 78,042 parameters, on cpu') and '256 training images, 64 held out' in first
    assert (
        classes.startswith('10 classes: ')
        and 'epoch 1/4  lr 0.04381  train_loss ' in '\n'.join(rows)
        and ' left' in rows[-1]
    )
    assert last.startswith(f'stopped in epoch 3 of 4; {tmp_path}/run holds the network after epoch 1. To go on: ')
    assert f'resnet-hub train -o {tmp_path}/run --resume' in last
    assert torch.backends.cudnn.benchmark == benchmark
    monkeypatch.undo()
    images = load_images('cifar10', 'train', tiny_data[0])
    assert evaluate(f'local-dir:{tmp_path}/run', images).images == 320
    assert json.loads((tmp_path / 'run' / 'config.json').read_text())['epochs_trained'] == 1


def test_a_teacher_that_cannot_be_had_is_optional(tiny_data, tmp_path, monkeypatch):
    def offline(*_):
        raise ResnetHubError('no network')

    monkeypatch.setattr('resnet_hub.registry.loading.load_model', offline)
    with pytest.raises(ResnetHubError, match="no network; or train without a teacher: --teacher ''"):
        train(replace(RECIPE, teacher='cifar_resnet44.akamaster_cifar10'), tmp_path / 'run', tiny_data[0])


def test_averaged_weights_of_a_short_run_are_those_of_its_end(tiny_data, tmp_path):
    """With a decay that spans more steps than there are, the average is nearly as good as the network itself."""
    trainer = Trainer(replace(RECIPE, holdout=0, ema_decay=0.998), tiny_data[1], bf16=False)
    for _ in range(3):
        trainer.train_epoch()
        trainer.history.append({})
    accuracy = [evaluate(m, tiny_data[1], (0.5,) * 3, (0.25,) * 3).top1 for m in (trainer.averaged, trainer.model)]
    assert accuracy[0] > accuracy[1] - 10 and accuracy[1] > 40


def test_a_loss_that_is_not_finite_stops(tiny_data, tmp_path):
    with pytest.raises(ResnetHubError, match=r'the loss of epoch 1 is nan: lower --lr'):
        train(replace(RECIPE, lr=1e30, warmup_epochs=0), tmp_path, tiny_data[0], bf16=False)
    assert not (tmp_path / 'model.safetensors').exists()


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'model': 'resnet18'}, "unknown architecture 'resnet18'"),
        ({'holdout': 320}, 'holdout must be below 320'),
        ({'batch_size': 300}, 'batch_size must be at most 256'),
        ({'opt': 'gradient_ascent'}, "unknown optimizer 'gradient_ascent'"),
        ({'dataset': 'mnist'}, "unknown data set 'mnist'"),
        ({'conv_drop_rate': 0.3}, 'conv_drop_rate must be 0 for cifar_resnet8, whose blocks have no dropout'),
        ({'teacher': 'cifar_resnet9'}, "unknown model 'cifar_resnet9'"),
    ],
)
def test_unusable_recipes(change, message, tiny_data, tmp_path):
    with pytest.raises(InputError, match=message):
        train(replace(RECIPE, **change), tmp_path / 'run', tiny_data[0])
    assert not (tmp_path / 'run').exists()


def test_bf16_and_cutout_and_smoothing_train_too(tiny_data, tmp_path):
    recipe = replace(
        RECIPE, epochs=3, cutout=8, label_smoothing=0.1, drop_path_rate=0.1, padding='zeros', opt='adamw', lr=0.01
    )
    assert history(train(recipe, tmp_path, tiny_data[0], bf16=True))[-1]['holdout_top1'] > 50


@pytest.mark.parametrize('bf16', [True, False])
def test_bf16_is_computed_only_where_it_is_wanted(bf16, tiny_data):
    """Muon's too, which timm computes in bf16: slow where the hardware has none."""

    class Dtypes(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            seen.update(t.dtype for t in tree_leaves(out) if isinstance(t, torch.Tensor))
            return out

    seen = set()
    trainer = Trainer(replace(RECIPE, opt='nmuon'), load_images('cifar10', 'train', tiny_data[0]), bf16=bf16)
    with Dtypes():
        trainer.train_epoch()
    assert (torch.bfloat16 in seen) is bf16


def epoch_of(trainer):
    """What the loss was given at each step of an epoch: logits, targets, images."""
    given, objective = [], trainer.objective
    trainer.objective = lambda *args: given.append(args) or objective(*args)
    trainer.train_epoch()
    return given


def test_mixed_images_have_mixed_targets(tiny_data):
    recipe = replace(RECIPE, mixup=0.4, cutmix=1.0)
    targets = torch.cat([y for _, y, _ in epoch_of(Trainer(recipe, tiny_data[1]))])
    assert targets.shape[1] == 10 and torch.allclose(targets.sum(1), torch.ones(len(targets)))
    assert (targets.amax(1) < 0.95).any()


@pytest.mark.parametrize('side', [0, 8])
def test_a_square_is_cut_out_of_every_image(side, tiny_data):
    recipe = replace(RECIPE, crop=0, cutout=side)
    for _, _, x in epoch_of(Trainer(recipe, tiny_data[1])):
        gone = (x == 0).all(1).flatten(1).sum(1)
        assert (gone <= side**2).all() and ((gone >= side**2 // 4).all() if side else not gone.any())


@pytest.mark.parametrize('largest', [0.0, 0.1])
def test_gradients_are_clipped(largest, tiny_data):
    trainer, norms = Trainer(replace(RECIPE, clip_grad=largest), tiny_data[1], bf16=False), []

    def note(optimizer, *_):
        gradients = [p.grad for group in optimizer.param_groups for p in group['params']]
        norms.append(torch.stack([g.norm() for g in gradients]).norm().item())

    trainer.optimizer.register_step_pre_hook(note)
    trainer.train_epoch()
    assert max(norms) == pytest.approx(0.1, rel=1e-4) if largest else max(norms) > 0.2


def test_the_fields_of_a_recipe_reach_the_network_and_its_optimiser(tiny_data):
    recipe = replace(
        RECIPE, model='preact_resnet20', drop_path_rate=0.3, conv_drop_rate=0.2, weight_decay=0.02, ema_decay=0.75
    )
    trainer = Trainer(recipe, tiny_data[1])
    assert {module.p for module in trainer.model.modules() if isinstance(module, torch.nn.Dropout)} == {0.2}
    rates = [module.drop_prob for module in trainer.model.modules() if hasattr(module, 'drop_prob')]
    assert max(rates) == pytest.approx(0.3)
    decays = {group['weight_decay']: {p.ndim for p in group['params']} for group in trainer.optimizer.param_groups}
    assert decays == {0.02: {2, 4}, 0.0: {1}}
    before = trainer.averaged.conv1.weight.clone()
    with torch.no_grad():
        trainer.model.conv1.weight.add_(1)
    trainer.average.update(torch.tensor(0.25))
    torch.testing.assert_close(trainer.averaged.conv1.weight, before + 0.25)


def test_images_held_out_are_never_trained_on(tiny_data, tmp_path, monkeypatch):
    """And no test split need be there."""
    write_parquet(tmp_path / 'data' / 'train-0.parquet', tiny_data[1].pixels, tiny_data[1].labels)
    seen = []

    class Spy(Trainer):
        def __init__(self, recipe, images, *args, **kwargs):
            seen.append(images)
            super().__init__(recipe, images, *args, **kwargs)

    monkeypatch.setattr('resnet_hub.training.train.Trainer', Spy)
    train(replace(RECIPE, epochs=2, holdout=64), tmp_path / 'run', tmp_path / 'data', device='cpu')
    kept, held_out = split(tiny_data[1].labels, 64)
    assert torch.equal(seen[0].pixels, tiny_data[1].pixels[kept])
    assert torch.equal(torch.cat([kept, held_out]).sort().values, torch.arange(320))


def test_every_field_trains(tiny_data, tmp_path):
    """Growing images, mixed images, clipping and a teacher, in one short run that still learns."""
    teacher = train(replace(RECIPE, holdout=0), tmp_path / 'teacher', tiny_data[0], device='cpu')
    recipe = replace(
        RECIPE,
        epochs=6,
        image_sizes='16:2 24:1',
        flip='alternating',
        mixup=0.2,
        cutmix=1.0,
        clip_grad=1.0,
        teacher=f'local-dir:{teacher}',
        temperature=2.0,
    )
    assert history(train(recipe, tmp_path / 'student', tiny_data[0]))[-1]['holdout_top1'] > 50


def test_the_loss_with_a_teacher_is_that_of_the_paper():
    """Hinton et al. 2015: (1 - a) H(y, p) + a T² KL(p_teacher^T || p^T), written out in numpy."""
    recipe = Recipe(teacher='cifar_resnet20', distillation=0.7, temperature=3.0)
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 5, 10, generator=generator)
    labels = torch.tensor([1, 0, 9, 3, 3])

    def softmax(logits):
        exponents = np.exp(logits - logits.max(1, keepdims=True))
        return exponents / exponents.sum(1, keepdims=True)

    q, p = softmax(teacher.numpy() / 3), softmax(student.numpy() / 3)
    soft = 9 * (q * (np.log(q) - np.log(p))).sum(1).mean()
    hard = -np.log(softmax(student.numpy())[np.arange(5), labels]).mean()
    loss = Objective(recipe, lambda x: teacher)(student, labels, torch.empty(0))
    assert loss.item() == pytest.approx(0.3 * hard + 0.7 * soft, rel=1e-5)


def test_labels_are_smoothed():
    """Szegedy et al. 2016, §7: (1 - e) of the target on the class, e spread over all."""
    logits, labels = torch.randn(5, 10, generator=torch.Generator().manual_seed(0)), torch.tensor([1, 0, 9, 3, 3])
    targets = 0.2 / 10 + 0.8 * np.eye(10)[labels]
    expected = -(targets * np.log(np.exp(logits.numpy()) / np.exp(logits.numpy()).sum(1, keepdims=True))).sum(1).mean()
    loss = Objective(Recipe(label_smoothing=0.2), None)(logits, labels, torch.empty(0))
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def task_of(dataset):
    row = DATASETS[dataset]
    return Task(row.classes, row.mean, row.std)


def test_a_teacher_sees_images_in_its_own_normalisation(tiny_data, tmp_path):
    ours, theirs = DATASETS['cifar10'], {'mean': (0.485, 0.456, 0.406), 'std': (0.229, 0.224, 0.225)}
    model = timm.create_model('cifar_resnet8', zero_init_last=False).eval()
    labels = {'num_classes': 10, 'label_names': ours.classes}
    folder = write_folder(tmp_path / 'net', model.state_dict(), make_config('cifar_resnet8', **theirs, **labels))
    pixels = tiny_data[1].pixels[:8]
    with torch.no_grad():
        expected = model(normalise(pixels, **theirs))
    teacher = Teacher(f'local-dir:{folder}', torch.device('cpu'), task_of('cifar10'))
    torch.testing.assert_close(teacher(normalise(pixels, ours.mean, ours.std)), expected, rtol=1e-4, atol=1e-4)
    with pytest.raises(InputError, match='knows 10 classes, not 100'):
        Teacher(f'local-dir:{folder}', torch.device('cpu'), task_of('cifar100'))
    with pytest.raises(InputError, match='knows airplane, automobile, bird …, not 0, 1, 2'):
        Teacher(f'local-dir:{folder}', torch.device('cpu'), task_of('svhn'))


def test_a_teacher_in_int8_answers_almost_the_same(data_root):
    pytest.importorskip('openvino')
    images, task = load_images('cifar10', 'test', needed(data_root / 'cifar10'))[:400], task_of('cifar10')
    x = normalise(images.pixels, task.mean, task.std)
    teacher = Teacher('cifar_resnet20.cifar10', torch.device('cpu'), task)
    exact = teacher(x)
    teacher.quantise(x[:200])
    answers = teacher(x)
    assert not torch.equal(answers, exact)  # else nothing was quantised
    assert (answers.argmax(1) == exact.argmax(1)).float().mean() > 0.97
    assert (answers - exact).abs().mean() < 0.1 * exact.abs().mean()


def test_a_teacher_sees_whole_images_where_the_student_sees_small_ones(tiny_data):
    sizes = []

    def teacher(x):
        sizes.append(tuple(x.shape[2:]))
        return torch.zeros(len(x), 10)

    recipe = replace(RECIPE, image_sizes='16:2', teacher='cifar_resnet8')
    trainer = Trainer(recipe, tiny_data[1], teacher)
    trainer.model.conv1.register_forward_pre_hook(lambda module, args: sizes.append(tuple(args[0].shape[2:])))
    trainer.train_epoch()
    assert sizes[:2] == [(16, 16), (32, 32)]


def torchrun(processes, *arguments):
    command = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc-per-node', str(processes)]
    environment = {**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': str(ROOT)}
    return subprocess.run([*command, *map(str, arguments)], env=environment, capture_output=True, text=True)


def test_two_processes_compute_the_gradients_of_one(tiny_data, tmp_path):
    """The same batches, shared: with the norms' statistics fixed, the same weights after an epoch."""
    done = torchrun(2, '-m', 'tests.training.fixed_norms', tiny_data[0], tmp_path / 'weights.pt')
    assert done.returncode == 0, done.stderr
    one, two = train_with_fixed_norms(tiny_data[0]), torch.load(tmp_path / 'weights.pt', weights_only=True)
    assert two['loss'] == pytest.approx(one['loss'], rel=1e-5)
    torch.testing.assert_close(two['model'], one['model'], rtol=1e-4, atol=1e-5)


def test_a_run_of_two_processes_is_resumed(tiny_data, tmp_path):
    command = ['-m', 'resnet_hub', 'train', '-o', tmp_path / 'run', '--data', tiny_data[0], '--device', 'cpu']
    (tmp_path / 'recipe.toml').write_text(replace(RECIPE, epochs=2).to_toml())
    done = torchrun(2, *command, '--recipe', tmp_path / 'recipe.toml')
    assert done.returncode == 0, done.stderr
    assert done.stdout.count('local-dir:') == 1 and len(history(tmp_path / 'run')) == 2
    (tmp_path / 'run' / 'model.safetensors').unlink()
    done = torchrun(2, *command, '--resume')
    assert done.returncode == 0, done.stderr
    assert (tmp_path / 'run' / 'model.safetensors').exists()
