"""Check everything that needs a CUDA GPU, in under three minutes, and print what held.

    python scripts/maintenance/check_gpu.py

1. The step captured as a CUDA graph trains exactly as the same step uncaptured: equal losses over 50 steps of every
   optimizer and option below, equal weights afterwards.
2. A GPU and a processor train alike: the same images, nearly the same losses.
3. A run that is resumed from its checkpoint ends where the unbroken run ends.
4. Images per second, captured and uncaptured, of the two networks that the targets name.

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
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import timm
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # of this clone, whatever is installed
from resnet_hub.data.images import Images
from resnet_hub.training.objective import Teacher
from resnet_hub.training.recipe import Recipe
from resnet_hub.training.task import Task
from resnet_hub.training.trainer import Trainer

STEPS = 50
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
    'nadamw, captured by timm': {'opt': 'nadamw', 'lr': 0.001},
    'mixup, cutmix and cutout': {'mixup': 0.2, 'cutmix': 1.0, 'cutout': 8, 'flip': 'alternating', 'padding': 'zeros'},
    'stochastic depth': {'drop_path_rate': 0.2},
    'small images, then large': {'image_sizes': '16:1'},
    'layer-wise rates': {'layer_decay': 0.8},
    'preact_resnet20': {'model': 'preact_resnet20'},
}
#: network, optimizer, batch size, torch.compile: what the images per second are measured of
SPEEDS = [
    ('cifar_resnet20', 'nmuon', 128, False),
    ('cifar_resnet20', 'nmuon', 128, True),
    ('cifar_resnet20', 'sgd', 512, False),
    ('cifar_resnet18', 'sgd', 512, False),
    ('cifar_resnet18', 'sgd', 512, True),
]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--no-speed', action='store_true', help='leave out the measurement of speed')
    args = parser.parse_args()
    if not torch.cuda.is_available():
        print('this machine has no CUDA GPU', file=sys.stderr)
        return 2
    device = torch.device('cuda', torch.cuda.current_device())
    print(f'{torch.cuda.get_device_name(device)}, torch {torch.__version__}, timm {timm.__version__}')
    checks = list(run_checks(device))
    for check in checks:
        print(json.dumps(check))
    if not args.no_speed:
        for row in SPEEDS:
            print(json.dumps(measure_speed(device, *row)))
    return 0 if all(check['holds'] for check in checks) else 1


def run_checks(device: torch.device) -> Iterator[dict[str, Any]]:
    images = coloured_images(STEPS * 128 // 2).to(device)  # 50 steps are two epochs
    for name, changes in VARIANTS.items():
        for bf16 in (False, True) if name in ('sgd', 'nmuon') else (True,):
            yield captured_is_uncaptured(f'{name}, {"bf16" if bf16 else "float32"}', changes, images, bf16)
    yield captured_is_uncaptured('a teacher', {'teacher': 'cifar_resnet20.cifar10'}, images, True)
    yield captured_is_uncaptured('torch.compile', {}, images, True, compile=True)
    yield gpu_is_processor(images[:640])
    yield resumed_is_unbroken(images[:2560])


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


def captured_is_uncaptured(
    name: str, changes: dict[str, Any], images: Images, bf16: bool, compile: bool = False
) -> dict[str, Any]:
    """Compare 50 captured steps with 50 uncaptured ones, with kernels that give the same result every time."""
    torch.backends.cudnn.deterministic = True
    plain, one = trained(changes, images, bf16, False, compile)
    captured, two = trained(changes, images, bf16, True, compile)
    torch.backends.cudnn.deterministic = False
    gap = max(abs(a - b) for a, b in zip(plain, captured, strict=True))
    weights = difference(one, two)
    holds = two.captures and not one.captures and len(captured) == STEPS and gap == 0 and weights == 0
    return {'check': f'captured is uncaptured: {name}', 'holds': holds, 'loss_gap': gap, 'weight_gap': weights}


def gpu_is_processor(images: Images) -> dict[str, Any]:
    """Compare ten steps on the GPU with the same steps on the processor, in float32 without TF32."""
    convolutions: Any = torch.backends.cudnn.conv  # type: ignore[attr-defined]
    before, convolutions.fp32_precision = convolutions.fp32_precision, 'ieee'
    gpu, one = trained({'lr': 0.005}, images, False, True)
    processor, two = trained({'lr': 0.005}, images.to('cpu'), False, False)
    convolutions.fp32_precision = before
    gap = max(abs(a - b) for a, b in zip(gpu, processor, strict=True))
    return {'check': 'GPU is processor', 'holds': gap < 0.01, 'loss_gap': gap, 'weight_gap': difference(one, two)}


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
    return {'check': 'resumed is unbroken', 'holds': gap == 0, 'weight_gap': gap}


def measure_speed(device: torch.device, model: str, opt: str, batch_size: int, compile: bool) -> dict[str, Any]:
    """Measure images per second of the third and fourth epoch, captured and uncaptured."""
    images = coloured_images(100 * batch_size).to(device)
    changes = {'model': model, 'opt': opt, 'batch_size': batch_size, 'lr': 0.006, 'epochs': 4, 'ema_decay': 0.998}
    recipe = Recipe(**{**BASE, **changes})
    torch.backends.cudnn.benchmark = True
    row: dict[str, Any] = {'speed': f'{model} {opt} {batch_size}{" compiled" if compile else ""}'}
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
