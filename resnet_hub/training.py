"""Training: the data in memory, augmentation on the batch, one flat loop, and a resume that changes nothing."""

from __future__ import annotations

import csv
import logging
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .checkpoints.folder import CONFIG_FILE, WEIGHTS_FILE, make_config, write_folder
from .data import Augmentation, Images, find_dataset, load_images, training_batches
from .errors import InputError, ResnetHubError
from .evaluation import evaluate
from .files import halve, remove_leftovers, replacing
from .recipe import Recipe

_logger = logging.getLogger(__name__)
CHECKPOINT_FILE = 'checkpoint.pt'
HISTORY_FILE = 'history.csv'
CURVES_FILE = 'curves.png'
RECIPE_FILE = 'recipe.toml'


def has_fast_bf16(device: torch.device) -> bool:
    """Whether bf16 arithmetic is in the hardware of `device`."""
    if device.type == 'cuda':
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == 'cpu' and torch.cpu._is_avx512_bf16_supported()


class Trainer:
    """The state of a run, and how it is saved: weights, their average, optimiser, history, random state."""

    def __init__(self, recipe: Recipe, device: torch.device, steps_per_epoch: int) -> None:
        import timm
        from timm.optim import create_optimizer_v2
        from timm.scheduler import create_scheduler_v2
        from timm.utils import ModelEmaV3

        dataset = find_dataset(recipe.dataset)
        torch.manual_seed(recipe.seed)
        self.recipe = recipe
        self.model: nn.Module = timm.create_model(
            recipe.model, num_classes=len(dataset.classes), drop_path_rate=recipe.drop_path_rate
        )
        self.model.to(device=device, memory_format=torch.channels_last)
        self.ema = ModelEmaV3(self.model, decay=recipe.ema_decay) if recipe.ema_decay else None
        self.optimizer = create_optimizer_v2(
            self.model, recipe.opt, lr=recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay
        )
        self.scheduler = create_scheduler_v2(
            self.optimizer,
            'cosine',
            num_epochs=recipe.epochs - recipe.warmup_epochs,
            warmup_epochs=recipe.warmup_epochs,
            warmup_lr=recipe.lr / 100,
            warmup_prefix=True,
            step_on_epochs=False,
            updates_per_epoch=steps_per_epoch,
        )[0]
        self.steps_per_epoch = steps_per_epoch
        self.history: list[dict[str, float]] = []

    @property
    def averaged(self) -> nn.Module:
        """The network to evaluate and to publish."""
        return self.ema.module if self.ema else self.model

    def train_epoch(self, images: Images, forward: nn.Module, bf16: bool) -> float:
        """One epoch; returns the mean training loss."""
        from tqdm.auto import tqdm

        recipe, dataset, epoch = self.recipe, find_dataset(self.recipe.dataset), len(self.history)
        augmentation = Augmentation(recipe.crop, recipe.padding, recipe.flip, recipe.cutout)
        batches = training_batches(
            images, recipe.batch_size, augmentation, dataset.mean, dataset.std, recipe.seed, epoch
        )
        device = images.pixels.device
        losses: list[Tensor] = []
        self.model.train()
        for x, y in tqdm(
            batches, f'epoch {epoch + 1}/{recipe.epochs}', self.steps_per_epoch, leave=False, unit='batch', disable=None
        ):
            step = epoch * self.steps_per_epoch + len(losses)
            self.scheduler.step_update(step)
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                logits = forward(x)
            loss = F.cross_entropy(logits.float(), y, label_smoothing=recipe.label_smoothing)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self.optimizer.step()
            if self.ema:
                self.ema.update(self.model, step)
            losses.append(loss.detach())
        return torch.stack(losses).mean().item()

    def save(self, path: Path) -> None:
        state = {
            'recipe': asdict(self.recipe),
            'model': self.model.state_dict(),
            'ema': self.ema.module.state_dict() if self.ema else None,
            'optimizer': self.optimizer.state_dict(),
            'history': self.history,
            'rng': torch.get_rng_state(),
        }
        with replacing(path) as temporary:
            torch.save(state, temporary)

    def load(self, path: Path) -> None:
        """Go on where `save` left off.

        Raises:
            InputError: it is of another recipe.
        """
        state = torch.load(path, map_location='cpu', weights_only=True)
        changed = [k for k, v in asdict(self.recipe).items() if state['recipe'].get(k) != v]
        if changed:
            raise InputError(f'{path} was trained with another {", ".join(changed)}: resume with its own recipe.toml')
        self.model.load_state_dict(state['model'])
        if self.ema:
            self.ema.module.load_state_dict(state['ema'])
        self.optimizer.load_state_dict(state['optimizer'])
        self.history = state['history']
        torch.set_rng_state(state['rng'])


def train(
    recipe: Recipe,
    output: str | Path,
    data: str | Path | None = None,
    resume: bool = False,
    device: str | None = None,
    compile: bool = False,
    bf16: bool | None = None,
) -> Path:
    """Train a network; `output` becomes a model folder for timm's `local-dir:`.

    Beside model.safetensors and config.json it holds recipe.toml, history.csv, curves.png and checkpoint.pt, written
    after every epoch. The images that count are the last epoch's; no test image is read.

    Args:
        recipe: what to train, on what, how.
        output: folder, created.
        data: folder with the parquet files, see `load_images`; None fetches them from the Hub.
        resume: go on from checkpoint.pt; on one machine the result is that of an unbroken run, bit for bit.
        device: 'cuda', 'cpu', …; None takes a GPU where there is one.
        compile: torch.compile the network (faster steps, a minute more at the start).
        bf16: bf16 autocast; None: where the hardware has it.

    Raises:
        InputError: an unusable recipe or data; a run that exists and is not resumed.
        ResnetHubError: the loss is not finite.
    """
    output = Path(output)
    _check(recipe, output, resume)
    images = load_images(recipe.dataset, 'train', data)
    kept = len(images) - recipe.holdout
    if recipe.holdout >= len(images):
        raise InputError(f'holdout must be below {len(images)}, the number of training images')
    if recipe.batch_size > kept:
        raise InputError(f'batch_size must be at most {kept}, the number of images to train on')
    where = torch.device(device or ('cuda' if torch.cuda.is_available() else 'cpu'))
    held_out, images = images[kept:].to(where), images[:kept].to(where)
    trainer = Trainer(recipe, where, kept // recipe.batch_size)
    if resume:
        for name in (CHECKPOINT_FILE, HISTORY_FILE, CURVES_FILE, RECIPE_FILE, WEIGHTS_FILE, CONFIG_FILE):
            remove_leftovers(output / name)
        trainer.load(output / CHECKPOINT_FILE)
        _show(trainer.history, output)  # it may have been killed right after the checkpoint
    with replacing(output / RECIPE_FILE) as path:
        path.write_text(recipe.to_toml())
    dataset = find_dataset(recipe.dataset)
    fast = has_fast_bf16(where) if bf16 is None else bf16
    forward: Any = torch.compile(trainer.model) if compile else trainer.model

    while len(trainer.history) < recipe.epochs:
        epoch = len(trainer.history) + 1
        loss = trainer.train_epoch(images, forward, fast)
        if not math.isfinite(loss):
            raise ResnetHubError(f'the loss of epoch {epoch} is {loss}: lower --lr; {output} keeps the epochs before')
        row = {'epoch': epoch, 'lr': trainer.optimizer.param_groups[0]['lr'], 'train_loss': loss}
        if recipe.holdout:
            metrics = evaluate(trainer.averaged, held_out, dataset.mean, dataset.std)
            row |= {'holdout_top1': metrics.top1, 'holdout_nll': metrics.nll}
        trainer.history.append(row)
        trainer.save(output / CHECKPOINT_FILE)
        _show(trainer.history, output)
        _logger.info('  '.join(f'{k} {v:.4g}' for k, v in row.items()))

    config = make_config(
        recipe.model,
        mean=dataset.mean,
        std=dataset.std,
        num_classes=len(dataset.classes),
        label_names=dataset.classes,
        recipe=asdict(recipe),
    )
    return write_folder(output, halve(trainer.averaged.state_dict()), config)


def _check(recipe: Recipe, output: Path, resume: bool) -> None:
    """What can be refused before any image is read."""
    import timm
    from timm.optim import list_optimizers

    find_dataset(recipe.dataset)
    if not timm.is_model(recipe.model):
        raise InputError(f'unknown model {recipe.model!r}: resnet-hub list shows ours, timm.list_models() all')
    if recipe.opt not in list_optimizers():
        raise InputError(f'unknown optimiser {recipe.opt!r}: timm.optim.list_optimizers() shows them')
    if (output / CHECKPOINT_FILE).exists() and not resume:
        raise InputError(f'{output} holds a run already: --resume goes on with it, another -o starts afresh')
    if resume and not (output / CHECKPOINT_FILE).exists():
        raise InputError(f'nothing to resume: {output / CHECKPOINT_FILE} does not exist; leave out --resume to start')


def _show(history: list[dict[str, float]], output: Path) -> None:
    """The curves, and one line an epoch as CSV."""
    from .plots import plot_history

    plot_history(history, output / CURVES_FILE)
    with replacing(output / HISTORY_FILE) as temporary, open(temporary, 'w', newline='', encoding='utf-8') as file:
        writer = csv.DictWriter(file, history[0])
        writer.writeheader()
        writer.writerows(history)
