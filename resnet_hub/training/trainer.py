"""Training: the data in memory, augmentation on the batch, one flat loop, and a resume that changes nothing."""

from __future__ import annotations

import csv
import functools
import logging
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from resnet_hub.checkpoints.folder import (
    CONFIG_FILE,
    CURVES_FILE,
    HISTORY_FILE,
    RECIPE_FILE,
    WEIGHTS_FILE,
    make_config,
    write_folder,
)
from resnet_hub.data.augmentation import Augmentation, resize, training_batches
from resnet_hub.data.images import Images
from resnet_hub.data.sources import load_images
from resnet_hub.inference.evaluate import evaluate
from resnet_hub.inference.optimize import check_compiler
from resnet_hub.tables.architectures import ARCHITECTURES
from resnet_hub.tables.datasets import find_dataset
from resnet_hub.training.objective import Objective, Teacher
from resnet_hub.training.recipe import Recipe
from resnet_hub.utils.distributed import all_sum, choose_device, copy_from_first, first_goes_first, is_first, world_size
from resnet_hub.utils.errors import InputError, ResnetHubError
from resnet_hub.utils.files import halve, remove_leftovers, replacing

_logger = logging.getLogger(__name__)
CHECKPOINT_FILE = 'checkpoint.pt'


def has_fast_bf16(device: torch.device) -> bool:
    """Whether bf16 arithmetic is in the hardware of `device`."""
    if device.type == 'cuda':
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == 'cpu' and torch.cpu._is_avx512_bf16_supported()


@contextmanager
def _newton_schulz_in(dtype: torch.dtype) -> Iterator[None]:
    """timm's Muon orthogonalises in bf16, whatever the hardware, and has no argument for another `dtype`."""
    from timm.optim import muon

    original = muon.zeropower_via_newtonschulz
    muon.zeropower_via_newtonschulz = functools.partial(original, dtype=dtype)
    try:
        yield
    finally:
        muon.zeropower_via_newtonschulz = original


class Trainer:
    """The state of a run, and how it is saved: weights, their average, optimiser, history, random state.

    Args:
        recipe: what to train and how.
        images: all training images, on the device to train on.
        teacher: whose answers are learnt too.
        compile: torch.compile the network; with CUDA graphs on a GPU.
        bf16: bf16 autocast, and Muon's arithmetic in bf16; None: where the hardware has it.
    """

    def __init__(
        self,
        recipe: Recipe,
        images: Images,
        teacher: Teacher | None = None,
        compile: bool = False,
        bf16: bool | None = None,
    ) -> None:
        import timm
        from timm.scheduler import create_scheduler_v2
        from timm.utils import ModelEmaV3

        self.recipe, self.images = recipe, images
        self.device = images.pixels.device
        self.dataset = find_dataset(recipe.dataset)
        self.augmentation = make_augmentation(recipe)
        self.bf16 = has_fast_bf16(self.device) if bf16 is None else bf16
        self.steps_per_epoch = len(images) // recipe.batch_size
        self.history: list[dict[str, float]] = []
        torch.manual_seed(recipe.seed)
        self.model: nn.Module = timm.create_model(
            recipe.model, num_classes=len(self.dataset.classes), drop_path_rate=recipe.drop_path_rate
        )
        self.model.to(device=self.device, memory_format=torch.channels_last)
        self.ema = ModelEmaV3(self.model, decay=recipe.ema_decay) if recipe.ema_decay else None
        self.forward: Any = self.model
        if world_size() > 1:
            self.forward = nn.parallel.DistributedDataParallel(self.model)
        if compile:
            self.forward = torch.compile(
                self.forward, dynamic=False, mode='reduce-overhead' if self.device.type == 'cuda' else None
            )
        self.mix = _make_mix(recipe, len(self.dataset.classes))
        self.objective = Objective(recipe, teacher)
        self.optimizer = _make_optimizer(self.model, recipe)
        self.scheduler = create_scheduler_v2(
            self.optimizer,
            'cosine',
            num_epochs=recipe.epochs - recipe.warmup_epochs,
            warmup_epochs=recipe.warmup_epochs,
            warmup_lr=recipe.lr / 100,
            warmup_prefix=True,
            step_on_epochs=False,
            updates_per_epoch=self.steps_per_epoch,
        )[0]

    @property
    def averaged(self) -> nn.Module:
        """The network to evaluate and to publish."""
        return self.ema.module if self.ema else self.model

    def train_epoch(self) -> float:
        """The next epoch; returns its mean training loss."""
        epoch = len(self.history)
        size = self.recipe.image_size(epoch)
        losses: list[Tensor] = []
        self.model.train()
        for x, y in self._batches(epoch):
            step = epoch * self.steps_per_epoch + len(losses)
            self.scheduler.step_update(step)
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
                logits = self.forward(resize(x, size))
                loss = self.objective(logits.float(), y, x)  # a teacher sees images of the size that it learnt from
            loss.backward()
            if self.recipe.clip_grad:
                nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip_grad)
            with _newton_schulz_in(torch.bfloat16 if self.bf16 else torch.float32):
                self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)  # CUDA graphs want none left when the next batch begins
            if self.ema:
                self.ema.update(self.model, step)
            losses.append(loss.detach())
        return all_sum(torch.stack(losses).mean() / world_size()).item()

    def _batches(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        from tqdm.auto import tqdm

        recipe, data = self.recipe, self.dataset
        batches = training_batches(
            self.images, recipe.batch_size, self.augmentation, data.mean, data.std, recipe.seed, epoch
        )
        label = f'epoch {epoch + 1}/{recipe.epochs}'
        silent = None if is_first() else True
        for batch in tqdm(batches, label, self.steps_per_epoch, leave=False, unit='batch', disable=silent):
            yield self.mix(*batch) if self.mix else batch

    def save(self, path: Path) -> None:
        state = {
            'recipe': asdict(self.recipe),
            'model': self.model.state_dict(),
            'ema': self.ema.module.state_dict() if self.ema else None,
            'optimizer': self.optimizer.state_dict(),
            'history': self.history,
            'bf16': self.bf16,
            'rng': torch.get_rng_state(),
            'gpu_rng': torch.cuda.get_rng_state(self.device) if self.device.type == 'cuda' else None,
        }
        with replacing(path) as temporary:
            torch.save(state, temporary)

    def load(self, path: Path) -> None:
        """Go on where `save` left off.

        Raises:
            InputError: it is of another recipe, or was trained in another precision.
        """
        state = torch.load(path, map_location='cpu', weights_only=True)
        changed = [k for k, v in asdict(self.recipe).items() if state['recipe'].get(k) != v]
        if changed:
            raise InputError(f'{path} was trained with another {", ".join(changed)}: resume with its own recipe.toml')
        if state.get('bf16', self.bf16) != self.bf16:
            raise InputError(
                f'{path} was trained with {"--no-bf16" if self.bf16 else "--bf16"}: resume with that option'
            )
        self.model.load_state_dict(state['model'])
        if self.ema:
            self.ema.module.load_state_dict(state['ema'])
        self.optimizer.load_state_dict(state['optimizer'])
        self.history = state['history']
        torch.set_rng_state(state['rng'])
        if state.get('gpu_rng') is not None and self.device.type == 'cuda':
            torch.cuda.set_rng_state(state['gpu_rng'], self.device)


def _make_optimizer(model: nn.Module, recipe: Recipe) -> Any:
    from timm.optim import create_optimizer_v2

    return create_optimizer_v2(
        model, recipe.opt, lr=recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay
    )


def make_augmentation(recipe: Recipe) -> Augmentation:
    return Augmentation(recipe.crop, recipe.padding, recipe.flip, recipe.cutout)


def _make_mix(recipe: Recipe, num_classes: int) -> Any:
    """Mixup (Zhang et al. 2018), cutmix (Yun et al. 2019) or for each batch one of both; None for neither."""
    from torchvision.transforms import v2

    makers = {v2.MixUp: recipe.mixup, v2.CutMix: recipe.cutmix}
    mixes = [make(alpha=alpha, num_classes=num_classes) for make, alpha in makers.items() if alpha]
    return v2.RandomChoice(mixes) if mixes else None


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

    recipe.toml is written at the start, history.csv, curves.png and checkpoint.pt after every epoch, model.safetensors and
    config.json at the end. The weights that count are the last epoch's; no test image is read. Where torch.distributed is
    initialised every process takes its share of each batch, and the first one writes.

    Args:
        recipe: what to train, on what, how.
        output: folder, created.
        data: folder with the parquet files, see `load_images`; None fetches them from the Hub.
        resume: go on from checkpoint.pt; on a CPU the result is that of an unbroken run, bit for bit.
        device: 'cuda', 'cpu', …; None takes a GPU where there is one.
        compile: torch.compile the network (faster steps, a minute more at the start).
        bf16: bf16 autocast, and Muon's arithmetic in bf16; None: where the hardware has it.

    Raises:
        InputError: an unusable recipe or data; a run that exists and is not resumed.
        MissingExtraError: a package of the extra 'train' is not installed.
        ResnetHubError: the loss is not finite; or torch.compile does not work here.
    """
    output = Path(output)
    _check(recipe, output, resume)
    where = choose_device(device)
    if compile:
        check_compiler(where)
    torch.backends.cudnn.benchmark = True  # all batches of an epoch have the same shape
    with first_goes_first():
        teacher = Teacher(recipe.teacher, where, find_dataset(recipe.dataset)) if recipe.teacher else None
        images = load_images(recipe.dataset, 'train', data)
    kept = _images_to_train_on(recipe, len(images))
    held_out = images[kept:].to(where)
    trainer = Trainer(recipe, images[:kept].to(where), teacher, compile, bf16)
    if resume:
        trainer.load(output / CHECKPOINT_FILE)
    if is_first():
        _begin(trainer, output)
    _run(trainer, held_out, output)
    return _finish(trainer, output) if is_first() else output


def _images_to_train_on(recipe: Recipe, count: int) -> int:
    """How many of `count` images are not held out; enough for a batch, which the processes can share."""
    kept = count - recipe.holdout
    if kept <= 0:
        raise InputError(f'holdout must be below {count}, the number of training images')
    if recipe.batch_size > kept:
        raise InputError(f'batch_size must be at most {kept}, the number of images to train on')
    if recipe.batch_size % world_size():
        raise InputError(f'batch_size must be a multiple of {world_size()}, the number of processes')
    return kept


def _begin(trainer: Trainer, output: Path) -> None:
    """Clear what a killed process left half-written, bring the curves up to date, write the recipe."""
    for name in (CHECKPOINT_FILE, HISTORY_FILE, CURVES_FILE, RECIPE_FILE, WEIGHTS_FILE, CONFIG_FILE):
        remove_leftovers(output / name)
    if trainer.history:
        _show(trainer.history, output)
    with replacing(output / RECIPE_FILE) as path:
        path.write_text(trainer.recipe.to_toml())


def _run(trainer: Trainer, held_out: Images, output: Path) -> None:
    """The epochs that are left, a checkpoint after each."""
    while len(trainer.history) < trainer.recipe.epochs:
        epoch, start = len(trainer.history) + 1, time.perf_counter()
        loss = trainer.train_epoch()
        speed = trainer.steps_per_epoch * trainer.recipe.batch_size / (time.perf_counter() - start)
        if not math.isfinite(loss):
            raise ResnetHubError(f'the loss of epoch {epoch} is {loss}: lower --lr; {output} keeps the epochs before')
        row = {'epoch': epoch, 'lr': trainer.optimizer.param_groups[0]['lr'], 'train_loss': loss}
        if len(held_out):
            copy_from_first(trainer.averaged.buffers())  # each process has seen other images
            metrics = evaluate(trainer.averaged, held_out, trainer.dataset.mean, trainer.dataset.std)
            row |= {'holdout_top1': metrics.top1, 'holdout_nll': metrics.nll}
        trainer.history.append(row)
        if is_first():
            trainer.save(output / CHECKPOINT_FILE)
            _show(trainer.history, output)
            _logger.info('  '.join(f'{k} {v:.4g}' for k, v in {**row, 'images_per_second': speed}.items()))


def _finish(trainer: Trainer, output: Path) -> Path:
    config = make_config(
        trainer.recipe.model,
        mean=trainer.dataset.mean,
        std=trainer.dataset.std,
        num_classes=len(trainer.dataset.classes),
        label_names=trainer.dataset.classes,
        recipe=asdict(trainer.recipe),
    )
    return write_folder(output, halve(trainer.averaged.state_dict()), config)


def _check(recipe: Recipe, output: Path, resume: bool) -> None:
    """What can be refused before any image is read."""
    find_dataset(recipe.dataset)
    make_augmentation(recipe)
    if recipe.model not in ARCHITECTURES:
        raise InputError(f'unknown architecture {recipe.model!r}: resnet-hub list shows those there are')
    _check_optimizer(recipe)
    if (output / CHECKPOINT_FILE).exists() and not resume:
        raise InputError(f'{output} holds a run already: --resume goes on with it, another -o starts afresh')
    if resume and not (output / CHECKPOINT_FILE).exists():
        raise InputError(f'nothing to resume: {output / CHECKPOINT_FILE} does not exist; leave out --resume to start')


def _check_optimizer(recipe: Recipe) -> None:
    from timm.optim import list_optimizers

    if recipe.opt not in list_optimizers():
        raise InputError(f'unknown optimiser {recipe.opt!r}: timm.optim.list_optimizers() shows them')
    try:
        optimizer = _make_optimizer(nn.Linear(1, 1), recipe)
    except Exception as error:  # values that it does not take, packages that are not there
        raise InputError(f'the optimiser {recipe.opt} refuses the recipe: {" ".join(str(error).split())}') from None
    if getattr(optimizer, 'is_second_order', False):
        raise InputError(f'the optimiser {recipe.opt} needs second derivatives, which are not computed: use another')


def _show(history: list[dict[str, float]], output: Path) -> None:
    """The curves, and one line an epoch as CSV."""
    from resnet_hub.utils.plots import plot_history

    plot_history(history, output / CURVES_FILE)
    with replacing(output / HISTORY_FILE) as temporary, open(temporary, 'w', newline='', encoding='utf-8') as file:
        writer = csv.DictWriter(file, history[0])
        writer.writeheader()
        writer.writerows(history)
