"""Check everything that needs a CUDA GPU, in under three minutes, and print one line for each check.

    python scripts/maintenance/check_gpu.py

1. The step captured as a CUDA graph trains exactly as the same step uncaptured: equal losses over 50 steps of every
   optimizer and option below, equal weights afterwards. With torch.compile they are nearly equal.
2. A GPU and a processor train alike and predict alike: the same images, nearly the same losses and logits.
3. A run that is resumed from its checkpoint ends where the unbroken run ends.
4. Images per second, captured and uncaptured, of the networks that the targets name. What does not fit into the time
   is left out, with a line that says so.

This script has not run on a GPU yet: nor have the paths that it checks. Run it before you rely on them.

The exit code is 1 if one of the first three does not hold. It needs no data set: the images are random, with colours
that can be learnt.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import timm
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # of this clone, whatever is installed
from resnet_hub.data.images import Images, normalise
from resnet_hub.inference.optimize import optimize
from resnet_hub.registry.loading import load_model
from resnet_hub.training.objective import Teacher
from resnet_hub.training.recipe import Recipe
from resnet_hub.training.task import Task
from resnet_hub.training.trainer import Trainer

STEPS = 50
TIME_FOR_SPEEDS = 100  #: seconds after the start until which a measurement of speed begins; one takes up to a minute
BASE: dict[str, Any] = {
    'model': 'cifar_resnet20',
    'dataset': 'cifar10',
    'batch_size': 128,
    'epochs': 2,
    'warmup_epochs': 0,
    'lr': 0.05,
    'ema_decay': 0.99,
}
#: what each comparison of captured with uncaptured steps adds to BASE
VARIANTS: dict[str, dict[str, Any]] = {
    'sgd': {},
    'sgd, clipped': {'clip_grad': 0.5},
    'nmuon': {'opt': 'nmuon', 'lr': 0.006, 'momentum': 0.95},
    'adamw': {'opt': 'adamw', 'lr': 0.001},
    'nadamw of timm': {'opt': 'nadamw', 'lr': 0.001},
    'adagrad, never captured': {'opt': 'adagrad', 'lr': 0.01},
    'mixup, cutmix and cutout': {'mixup': 0.2, 'cutmix': 1.0, 'cutout': 8, 'flip': 'alternating', 'padding': 'zeros'},
    'stochastic depth': {'drop_path_rate': 0.2},
    'small images, then large': {'image_sizes': '16:1'},
    'layer-wise rates': {'layer_decay': 0.8},
    'dropout': {'model': 'preact_resnet20', 'conv_drop_rate': 0.2},
    'distillation': {'teacher': 'cifar_resnet20.cifar10'},
}
#: network, optimizer, batch size, torch.compile: what the images per second are measured of
SPEEDS = [
    ('cifar_resnet20', 'nmuon', 128, False),
    ('cifar_resnet20', 'sgd', 512, False),
    ('cifar_resnet18', 'sgd', 512, False),
    ('cifar_resnet18', 'sgd', 512, True),
    ('cifar_resnet20', 'nmuon', 128, True),
]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--no-speed', action='store_true', help='leave out the measurement of speed')
    args = parser.parse_args()
    if not torch.cuda.is_available():
        print('this machine has no CUDA GPU', file=sys.stderr)
        return 2
    start, holds = time.perf_counter(), True
    device = torch.device('cuda', torch.cuda.current_device())
    print(f'{torch.cuda.get_device_name(device)}, torch {torch.__version__}, timm {timm.__version__}')
    for name, check in make_checks(device):
        try:
            result = check()
        except Exception as error:  # of any kind: the other checks still run
            result = {'holds': False, 'error': f'{type(error).__name__}: {" ".join(str(error).split())}'}
        holds &= result['holds']
        print(json.dumps({'check': name, **result}), flush=True)
    for row in [] if args.no_speed else SPEEDS:
        if time.perf_counter() - start < TIME_FOR_SPEEDS:
            print(json.dumps(measure_speed(device, *row)), flush=True)
        else:
            print(json.dumps({'speed': describe(*row), 'left out': 'no time is left'}), flush=True)
    return 0 if holds else 1


def make_checks(device: torch.device) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    """Make the checks: the name of each, and a function without arguments that returns its result."""
    images = coloured_images(STEPS * 128 // 2).to(device)  # 50 steps are two epochs
    for name, changes in VARIANTS.items():
        for bf16 in (False, True) if name in ('sgd', 'nmuon') else (True,):
            captured = name != 'adagrad, never captured'
            title = f'captured is uncaptured: {name}, {"bf16" if bf16 else "float32"}'
            yield title, partial(captured_is_uncaptured, changes, images, bf16, captured)
    small = {'model': 'cifar_resnet8'}
    yield 'captured is uncaptured, nearly: torch.compile', partial(compiled_is_nearly_uncaptured, small, images)
    yield 'training on the GPU is that on the processor', partial(gpu_is_processor, images[:640])
    yield 'logits on the GPU are those on the processor', partial(logits_are_those_of_the_processor, images[:256])
    yield 'resumed is unbroken', partial(resumed_is_unbroken, images[:2560])


def coloured_images(count: int) -> Images:
    """Make images of ten colours under noise."""
    generator = torch.Generator().manual_seed(0)
    colours = torch.randint(40, 216, (10, 3), generator=generator)
    labels = torch.randint(0, 10, (count,), generator=generator)
    noise = torch.randint(-40, 41, (count, 32, 32, 3), generator=generator)
    return Images((colours[labels][:, None, None] + noise).to(torch.uint8), labels)


def trained(
    changes: dict[str, Any], images: Images, bf16: bool, capture: bool, compile: bool = False
) -> tuple[list[float], Trainer]:
    """Train all epochs; return the sum of the epoch's losses after every step, and the trainer."""
    recipe = Recipe(**{**BASE, **changes})
    task = Task.of(images, recipe.dataset)
    teacher = Teacher(recipe.teacher, images.pixels.device, task) if recipe.teacher else None
    trainer = Trainer(recipe, images, teacher, compile, bf16, capture)
    sums: list[torch.Tensor] = []
    for _ in range(recipe.epochs):
        trainer.begin_epoch()
        for _ in range(trainer.steps_per_epoch):
            trainer.run_step()
            sums.append(trainer.loss_sum.clone())
        trainer.history.append({})
    return torch.stack(sums).tolist(), trainer


def difference(one: Trainer, two: Trainer) -> float:
    """Return the largest difference between the averaged weights of two trainers."""
    pairs = zip(one.averaged.state_dict().values(), two.averaged.state_dict().values(), strict=True)
    return max(float((a.double().cpu() - b.double().cpu()).abs().max()) for a, b in pairs)


def captured_is_uncaptured(changes: dict[str, Any], images: Images, bf16: bool, captured: bool) -> dict[str, Any]:
    """Compare 50 captured steps with 50 uncaptured ones, with kernels that give the same result every time."""
    torch.backends.cudnn.deterministic = True
    plain, one = trained(changes, images, bf16, False)
    losses, two = trained(changes, images, bf16, True)
    torch.backends.cudnn.deterministic = False
    gap, weights = largest_gap(plain, losses), difference(one, two)
    holds = two.captures == captured and not one.captures and len(losses) == STEPS and gap == 0 and weights == 0
    return {'holds': holds, 'captured': two.captures, 'loss_gap': gap, 'weight_gap': weights}


def compiled_is_nearly_uncaptured(changes: dict[str, Any], images: Images) -> dict[str, Any]:
    """Compare 50 captured steps of a compiled network with 50 uncaptured steps of the network as it is."""
    plain, _ = trained(changes, images, True, False)
    losses, compiled = trained(changes, images, True, True, compile=True)
    gap = largest_gap(plain, losses)
    return {'holds': compiled.captures and gap < 0.05 * plain[-1], 'loss_gap': gap}


def largest_gap(one: list[float], two: list[float]) -> float:
    return max(abs(a - b) for a, b in zip(one, two, strict=True))


def gpu_is_processor(images: Images) -> dict[str, Any]:
    """Compare ten steps on the GPU with the same steps on the processor, in float32 without TF32."""
    convolutions: Any = torch.backends.cudnn.conv  # type: ignore[attr-defined]
    before, convolutions.fp32_precision = convolutions.fp32_precision, 'ieee'
    gpu, one = trained({'lr': 0.005}, images, False, True)
    processor, two = trained({'lr': 0.005}, images.to('cpu'), False, False)
    convolutions.fp32_precision = before
    gap = largest_gap(gpu, processor)
    return {'holds': gap < 0.01, 'loss_gap': gap, 'weight_gap': difference(one, two)}


def logits_are_those_of_the_processor(images: Images) -> dict[str, Any]:
    """Compare logits of a trained network: on the GPU as it is, and optimised in bfloat16, with those on the processor."""
    x = normalise(images.pixels, (0.5,) * 3, (0.25,) * 3)
    with torch.no_grad():
        expected = load_model('cifar_resnet20.cifar10', 'cpu')(x.cpu())
        plain = load_model('cifar_resnet20.cifar10', str(x.device))
        gap = float((plain(x).cpu() - expected).abs().max())
        fast = float((optimize(plain, dtype=torch.bfloat16)(x).cpu() - expected).abs().max())
    return {'holds': gap < 0.05 and fast < 1, 'logit_gap': gap, 'logit_gap_bf16': fast}


def resumed_is_unbroken(images: Images) -> dict[str, Any]:
    """Train two epochs; train one, save, load and train the other."""
    torch.backends.cudnn.deterministic = True
    whole = trained({'drop_path_rate': 0.1}, images, True, True)[1]
    recipe = whole.recipe
    with tempfile.TemporaryDirectory() as folder:
        first = Trainer(recipe, images, bf16=True)
        first.train_epoch()
        first.history.append({})
        first.save(Path(folder, 'checkpoint.pt'))
        second = Trainer(recipe, images, bf16=True)
        second.load(Path(folder, 'checkpoint.pt'))
        second.train_epoch()
    torch.backends.cudnn.deterministic = False
    gap = difference(whole, second)
    return {'holds': gap == 0, 'weight_gap': gap}


def describe(model: str, opt: str, batch_size: int, compile: bool) -> str:
    return f'{model} {opt} {batch_size}{" compiled" if compile else ""}'


def measure_speed(device: torch.device, model: str, opt: str, batch_size: int, compile: bool) -> dict[str, Any]:
    """Measure images per second of the third and fourth epoch, captured and uncaptured."""
    images = coloured_images(100 * batch_size).to(device)
    changes = {'model': model, 'opt': opt, 'batch_size': batch_size, 'lr': 0.006, 'epochs': 4, 'ema_decay': 0.998}
    recipe = Recipe(**{**BASE, **changes})
    torch.backends.cudnn.benchmark = True
    row: dict[str, Any] = {'speed': describe(model, opt, batch_size, compile)}
    for capture in (False, True):
        trainer = Trainer(recipe, images, capture=capture, compile=compile)
        for epoch in range(4):
            if epoch == 2:
                torch.cuda.synchronize()
                start = time.perf_counter()
            trainer.train_epoch()
            trainer.history.append({})
        seconds = time.perf_counter() - start
        row['captured' if capture else 'uncaptured'] = round(2 * len(images) / seconds)
    torch.backends.cudnn.benchmark = False
    return row


if __name__ == '__main__':
    sys.exit(main())
