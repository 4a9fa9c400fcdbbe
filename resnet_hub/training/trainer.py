"""Train a network. All images are in memory, and the random numbers of an epoch are drawn before its first step."""

from __future__ import annotations

import csv
import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

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
from resnet_hub.data.augmentation import Augmentation, Draws, resize
from resnet_hub.data.images import Images
from resnet_hub.data.sources import read_labelled
from resnet_hub.inference.evaluate import evaluate
from resnet_hub.inference.optimize import check_compiler
from resnet_hub.tables.architectures import ARCHITECTURES
from resnet_hub.tables.datasets import find_dataset
from resnet_hub.training.capture import Captured
from resnet_hub.training.network import architecture_of, freeze_all_but_classifier, make_network, model_args
from resnet_hub.training.objective import Objective, Teacher
from resnet_hub.training.optimizer import (
    Average,
    average_share,
    is_capturable,
    learning_rate,
    make_optimizer,
    set_learning_rate,
)
from resnet_hub.training.recipe import Recipe
from resnet_hub.training.task import Task, balancing_weights, describe_classes, known_dataset, split, usual_size
from resnet_hub.utils.distributed import (
    all_sum,
    choose_device,
    copy_from_first,
    first_goes_first,
    has_fast_bf16,
    is_first,
    rank,
    world_size,
)
from resnet_hub.utils.errors import InputError, ResnetHubError, did_you_mean
from resnet_hub.utils.files import halve, remove_leftovers, replacing

_logger = logging.getLogger(__name__)
CHECKPOINT_FILE = 'checkpoint.pt'
SAVE_EVERY = 30  #: smallest number of seconds between two checkpoints
SAVE_SHARE = 0.05  #: largest share of the time in which checkpoints and plots may be written


class Plan(NamedTuple):
    """Everything that differs from step to step in an epoch: one row per step."""

    draws: Draws
    learning_rate: Tensor  #: float32 (steps,)
    average_share: Tensor  #: float32 (steps,), see `average_share`

    def tensors(self) -> tuple[Tensor, ...]:
        return (*self.draws, self.learning_rate, self.average_share)

    def to(self, device: torch.device) -> Plan:
        return Plan(Draws(*(t.to(device) for t in self.draws)), *(t.to(device) for t in self[1:]))


class Trainer:
    """Trains a network, and saves and loads its state: weights, their average, optimizer, history, random state.

    On one GPU the step is captured as a CUDA graph, if the optimizer allows it. Everywhere else the same step runs
    without a graph.

    Args:
        recipe: what to train and how.
        images: all training images, on the device on which to train.
        teacher: a network whose predictions are learnt too; None for none.
        compile: compile the network with torch.compile.
        bf16: use bf16 autocast, and on a GPU Muon's arithmetic in bf16; None does so if the hardware computes in bf16.
        capture: False never captures the step as a CUDA graph.
        task: classes and normalisation; None takes those of the data set in the recipe, or measures them on `images`.
    """

    def __init__(
        self,
        recipe: Recipe,
        images: Images,
        teacher: Teacher | None = None,
        compile: bool = False,
        bf16: bool | None = None,
        capture: bool = True,
        task: Task | None = None,
    ) -> None:
        self.recipe, self.images = recipe, images
        self.device = images.pixels.device
        self.task = task or Task.of(images, recipe.dataset)
        self.class_counts = torch.bincount(images.labels, minlength=len(self.task.classes))
        self.augmentation = make_augmentation(recipe)
        self.bf16 = has_fast_bf16(self.device) if bf16 is None else bf16
        self.steps_per_epoch = len(images) // recipe.batch_size
        self.history: list[dict[str, float]] = []
        torch.manual_seed(recipe.seed)
        self.model = (
            make_network(recipe, self.task, images.pixels.shape[1])
            .to(self.device)
            .to(memory_format=torch.channels_last)
        )
        if recipe.trainable == 'classifier':
            freeze_all_but_classifier(self.model)
        self.average = Average(self.model) if recipe.ema_decay else None
        self.forward: Any = self.model
        if world_size() > 1:
            self.forward = nn.parallel.DistributedDataParallel(self.model)
        if compile:
            self.forward = torch.compile(self.forward, dynamic=False)
        weights = balancing_weights(self.class_counts) if recipe.class_weights == 'balanced' else None
        self.objective = Objective(recipe, teacher, weights)
        fast = torch.bfloat16 if self.bf16 and self.device.type == 'cuda' else torch.float32
        self.optimizer = make_optimizer(self.model, recipe, fast)  # on CPUs Muon is faster in float32
        self.captures = capture and self.device.type == 'cuda' and world_size() == 1 and is_capturable(self.optimizer)
        self.plan = self._make_plan(0).to(self.device)
        self.step_number = torch.zeros(1, dtype=torch.int64, device=self.device)  # within the epoch, from 0
        self.loss_sum = torch.zeros((), device=self.device)
        self.size: int | None = None  # height and width of the images in this epoch; None means full size
        self.run_step: Callable[[], None] = self._step

    @property
    def averaged(self) -> nn.Module:
        """Return the network to evaluate and to publish: the average of the weights, or the last weights."""
        return self.average.module if self.average else self.model

    def train_epoch(self) -> float:
        """Train the next epoch, and return its mean training loss."""
        from tqdm.auto import tqdm

        self.begin_epoch()
        label, silent = f'epoch {len(self.history) + 1}/{self.recipe.epochs}', None if is_first() else True
        for _ in tqdm(range(self.steps_per_epoch), label, leave=False, unit='batch', disable=silent):
            self.run_step()
        return all_sum(self.loss_sum / (self.steps_per_epoch * world_size())).item()

    def begin_epoch(self) -> None:
        """Draw the random numbers of the next epoch; `run_step` then trains on one batch after the other."""
        epoch = len(self.history)
        size = self.recipe.image_size(epoch)
        if self.captures and (size != self.size or self.run_step == self._step):
            self.run_step = Captured(self._step)  # another image size needs another graph
        self.size = size
        for held, new in zip(self.plan.tensors(), self._make_plan(epoch).tensors(), strict=True):
            held.copy_(new)  # in place, because the graph reads these tensors
        self.step_number.zero_()
        self.loss_sum.zero_()
        self.model.train(self.recipe.trainable == 'all')  # frozen layers keep their running statistics

    def _step(self) -> None:
        """Train on one batch: augment, compute the loss, update the weights and their average. Never wait for the GPU."""
        task, plan = self.task, self.plan
        draws = plan.draws.at(self.step_number)
        x, y = self.augmentation.batch(self.images, draws, task.mean, task.std, len(task.classes))
        set_learning_rate(self.optimizer, plan.learning_rate.index_select(0, self.step_number).squeeze(0))
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            logits = self.forward(resize(x, self.size))
            loss = self.objective(logits.float(), y, x)  # a teacher gets the images at full size
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if self.recipe.clip_grad:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip_grad)
        self.optimizer.step()
        if self.average:
            self.average.update(plan.average_share.index_select(0, self.step_number).squeeze(0))
        self.loss_sum += loss.detach()
        self.step_number += 1

    def _make_plan(self, epoch: int) -> Plan:
        recipe, steps = self.recipe, self.steps_per_epoch
        draws = self.augmentation.draw(self.images.pixels, recipe.batch_size, recipe.seed, epoch)
        draws = draws._replace(images=draws.images[:, :, rank() :: world_size()])  # the share of this process
        numbers = range(epoch * steps, (epoch + 1) * steps)
        rates = torch.tensor([learning_rate(recipe, number, steps) for number in numbers])
        shares = torch.tensor([average_share(recipe.ema_decay, number) for number in numbers])
        return Plan(draws, rates, shares)

    def _task_state(self) -> dict[str, Any]:
        return {'images': len(self.images), **asdict(self.task)}

    def save(self, path: Path) -> None:
        """Write a checkpoint, from which `load` continues."""
        state = {
            'recipe': asdict(self.recipe),
            'task': self._task_state(),
            'model': self.model.state_dict(),
            'ema': self.average.module.state_dict() if self.average else None,
            'optimizer': self.optimizer.state_dict(),
            'history': self.history,
            'bf16': self.bf16,
            'rng': torch.get_rng_state(),
            'gpu_rng': torch.cuda.get_rng_state(self.device) if self.device.type == 'cuda' else None,
        }
        with replacing(path) as temporary:
            torch.save(state, temporary)

    def load(self, path: Path) -> None:
        """Continue from a checkpoint that `save` wrote.

        Raises:
            InputError: the checkpoint is from an earlier version, another recipe, other images or another precision.
        """
        state = torch.load(path, map_location='cpu', weights_only=True)
        if 'task' not in state:
            raise InputError(
                f'{path} is from an earlier version, whose runs cannot be resumed: start a new run with another -o'
            )
        changed = [k for k, v in asdict(self.recipe).items() if state['recipe'].get(k) != v]
        if changed:
            raise InputError(f'{path} was trained with another {", ".join(changed)}: resume with its own recipe.toml')
        if state['task'] != self._task_state():
            raise InputError(f'{path} was trained on other images: resume with the same --data')
        if state.get('bf16', self.bf16) != self.bf16:
            raise InputError(
                f'{path} was trained with {"--no-bf16" if self.bf16 else "--bf16"}: resume with that option'
            )
        self.model.load_state_dict(state['model'])
        if self.average:
            self.average.module.load_state_dict(state['ema'])
        self.optimizer.load_state_dict(state['optimizer'])
        for group in self.optimizer.param_groups:
            if isinstance(group['lr'], Tensor):
                group['lr'] = group['lr'].to(self.device)
        self.history = state['history']
        torch.set_rng_state(state['rng'])
        if state.get('gpu_rng') is not None and self.device.type == 'cuda':
            torch.cuda.set_rng_state(state['gpu_rng'], self.device)


def make_augmentation(recipe: Recipe) -> Augmentation:
    return Augmentation(recipe.crop, recipe.padding, recipe.flip, recipe.cutout, recipe.mixup, recipe.cutmix)


def train(
    recipe: Recipe | None = None,
    output: str | Path | None = None,
    data: Any = None,
    resume: bool = False,
    device: str | None = None,
    compile: bool = False,
    bf16: bool | None = None,
    **fields: Any,
) -> Path:
    """Train a network, and write it as a model folder, which timm loads as `local-dir:FOLDER`.

    The fields of `Recipe` can be given by name: `train(model='cifar_resnet20', data='cifar10/', epochs=3)`.

    recipe.toml is written at the start. The latest weights, config.json, history.csv, curves.png and checkpoint.pt are
    written after the first epoch, then at most every 30 seconds, and at the end. Therefore an interrupted run can be
    evaluated and uploaded. The result has the weights of the last epoch. No test image is read.

    If torch.distributed is initialised, every process trains on its share of each batch, and the first one writes.

    Args:
        recipe: what to train and how; None takes the defaults.
        output: the folder to write; it is created. None writes to runs/MODEL.
        data: anything that `read_labelled` reads, an `Images`, or a pair of pixels, uint8 (N, H, W, C), and labels,
            int64 (N,). None downloads the recipe's data set from the Hub.
        resume: continue from checkpoint.pt. On a CPU the result has the same bits as without the interruption.
        device: 'cuda', 'cpu', …; None chooses a GPU if there is one.
        compile: compile the network with torch.compile: faster steps, a minute more at the start.
        bf16: use bf16 autocast, and on a GPU Muon's arithmetic in bf16; None does so if the hardware computes in bf16.
        **fields: fields of the recipe; they replace those of `recipe`.

    Returns:
        The folder.

    Raises:
        InputError: the recipe or the data are unusable; or `output` has a run or a model, and `resume` is False.
        MissingExtraError: a package of the extra 'train' is not installed.
        ResnetHubError: the loss is not finite, or torch.compile does not work on this machine.
    """
    recipe = replace(recipe, **fields) if recipe else Recipe.from_file(None, **fields)
    output = Path('runs', recipe.model) if output is None else Path(output)
    _check(recipe, output, resume)
    where = choose_device(device)
    if compile:
        check_compiler(where)
    with first_goes_first():
        if recipe.init:
            recipe = replace(recipe, model=architecture_of(recipe.init, recipe.model))
        recipe, images = _read_images(recipe, data)
        kept, held_out = _split(recipe, images)
        task = Task.of(kept, recipe.dataset)
        teacher = _load_teacher(recipe, where, task)
    trainer = Trainer(recipe, kept.to(where), teacher, compile, bf16, task=task)
    if resume:
        trainer.load(output / CHECKPOINT_FILE)
    run = Run(trainer, held_out.to(where), output)
    run.begin()
    with _fixed_shapes():
        run.epochs()
    return output


def _read_images(recipe: Recipe, data: Any) -> tuple[Recipe, Images]:
    """Read the training images. Return the recipe, completed with their data set, size and channels, and the images."""
    if isinstance(data, tuple):
        pixels, labels = map(torch.as_tensor, data)
        data = Images(pixels, labels)
    if isinstance(data, Images):
        images = data.check()
        return replace(recipe, size=images.pixels.shape[1], channels=images.pixels.shape[3]), images
    source = data or recipe.dataset or 'cifar10'
    found = read_labelled(source, 'train', dataset=recipe.dataset or None)
    size = recipe.size or usual_size(found, recipe.channels)
    return replace(recipe, dataset=recipe.dataset or known_dataset(found), size=size), found.load(size, recipe.channels)


def _split(recipe: Recipe, images: Images) -> tuple[Images, Images]:
    """Divide the images into those to train on and those to hold out.

    Raises:
        InputError: too few images are left for a batch, or the processes cannot share a batch equally.
    """
    kept = len(images) - recipe.holdout
    if kept <= 0:
        raise InputError(f'holdout must be below {len(images)}, the number of training images')
    if recipe.batch_size > kept:
        raise InputError(f'batch_size must be at most {kept}, the number of images to train on')
    if recipe.batch_size % world_size():
        raise InputError(f'batch_size must be a multiple of {world_size()}, the number of processes')
    if recipe.crop >= images.pixels.shape[1]:
        raise InputError(f'crop must be below {images.pixels.shape[1]}, the size of the images: add --crop 1')
    train_on, hold_out = split(images.labels, recipe.holdout)
    return images[train_on], images[hold_out]


@contextmanager
def _fixed_shapes() -> Iterator[None]:
    """Let cuDNN try its kernels and keep the fastest. This is worthwhile if all batches have the same shape."""
    before, torch.backends.cudnn.benchmark = torch.backends.cudnn.benchmark, True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


def _load_teacher(recipe: Recipe, device: torch.device, task: Task) -> Teacher | None:
    if not recipe.teacher:
        return None
    try:
        return Teacher(recipe.teacher, device, task)
    except InputError:
        raise
    except ResnetHubError as error:
        raise ResnetHubError(
            f"the teacher {recipe.teacher} cannot be loaded: {error}; or train without a teacher: --teacher ''"
        ) from error


class Run:
    """A training run and its folder.

    Args:
        trainer: trains the epochs.
        held_out: images on which to measure after each epoch; may be empty.
        output: the folder to write.
    """

    def __init__(self, trainer: Trainer, held_out: Images, output: Path) -> None:
        self.trainer, self.held_out, self.output = trainer, held_out, output
        self.saved_epochs = len(trainer.history)
        self.next_save = 0.0  # save at the end of the first epoch

    def begin(self) -> None:
        """Remove temporary files that a killed process left, write the recipe, and log what is trained."""
        if not is_first():
            return
        trainer, output = self.trainer, self.output
        for name in (CHECKPOINT_FILE, HISTORY_FILE, CURVES_FILE, RECIPE_FILE, WEIGHTS_FILE, CONFIG_FILE):
            remove_leftovers(output / name)
        if trainer.history:
            _show(trainer.history, output, trainer.recipe.model)
        with replacing(output / RECIPE_FILE) as path:
            path.write_text(trainer.recipe.to_toml())
        _logger.info(_describe(trainer, len(self.held_out)))
        _logger.info(describe_classes(trainer.class_counts, trainer.task))
        most, least = int(trainer.class_counts.max()), int(trainer.class_counts.min())
        if most > 3 * least and trainer.recipe.class_weights == 'none':
            _logger.info(
                'the classes are unbalanced; --class-weights balanced gives images of rare classes more weight'
            )

    def epochs(self) -> None:
        """Train the epochs that are left.

        Raises:
            ResnetHubError: the loss is not finite.
        """
        trainer = self.trainer
        try:
            while len(trainer.history) < trainer.recipe.epochs:
                self._epoch()
        except KeyboardInterrupt:
            if is_first():
                _logger.warning(self._how_to_go_on())
            raise
        if is_first() and not (self.output / WEIGHTS_FILE).exists():  # the weights of a complete run were removed
            self._save()

    def _epoch(self) -> None:
        trainer, start = self.trainer, time.perf_counter()
        epoch, epochs = len(trainer.history) + 1, trainer.recipe.epochs
        loss = trainer.train_epoch()
        seconds = time.perf_counter() - start
        if not math.isfinite(loss):
            raise ResnetHubError(
                f'the loss of epoch {epoch} is {loss}: lower --lr; {self.output} keeps the epochs up to {self.saved_epochs}'
            )
        row = {
            'epoch': epoch,
            'lr': learning_rate(trainer.recipe, epoch * trainer.steps_per_epoch - 1, trainer.steps_per_epoch),
            'train_loss': loss,
        }
        if len(self.held_out):
            row |= self._measure()
        trainer.history.append(row)
        if not is_first():
            return
        speed = trainer.steps_per_epoch * trainer.recipe.batch_size / seconds
        shown = '  '.join(f'{k} {v:.4g}' for k, v in row.items() if k != 'epoch')
        left = _minutes(self._seconds_left(seconds))
        _logger.info(f'epoch {epoch}/{epochs}  {shown}  {speed:,.0f} images per second  {left} left')
        if epoch == epochs or time.perf_counter() >= self.next_save:
            self._save()

    def _measure(self) -> dict[str, float]:
        trainer = self.trainer
        copy_from_first(trainer.averaged.buffers())  # the running statistics differ among the processes
        metrics = evaluate(trainer.averaged, self.held_out, trainer.task.mean, trainer.task.std)
        return {'holdout_top1': metrics.top1, 'holdout_nll': metrics.nll}

    def _save(self) -> None:
        """Write the checkpoint, the latest weights and the curves."""
        trainer, start = self.trainer, time.perf_counter()
        trainer.save(self.output / CHECKPOINT_FILE)
        _show(trainer.history, self.output, trainer.recipe.model)
        write_folder(self.output, halve(trainer.averaged.state_dict()), _make_config(trainer))
        self.saved_epochs = len(trainer.history)
        now = time.perf_counter()
        self.next_save = now + max(SAVE_EVERY, (now - start) / SAVE_SHARE)

    def _seconds_left(self, seconds: float) -> float:
        """Estimate the time of the remaining epochs from that of the last one, in proportion to the area of the images."""
        recipe, done = self.trainer.recipe, len(self.trainer.history)
        full = self.trainer.images.pixels.shape[1]
        areas = [(recipe.image_size(epoch) or full) ** 2 for epoch in range(recipe.epochs)]
        return seconds * sum(areas[done:]) / areas[done - 1]

    def _how_to_go_on(self) -> str:
        epoch, output = len(self.trainer.history) + 1, self.output
        stopped = f'stopped in epoch {epoch} of {self.trainer.recipe.epochs}'
        if not self.saved_epochs:
            return f'{stopped}; nothing was saved, because the first epoch was not complete'
        return (
            f'{stopped}; {output} holds the network after epoch {self.saved_epochs}. To go on: resnet-hub train '
            f'-o {output} --resume (with the same --data); to measure this network: resnet-hub evaluate local-dir:{output}'
        )


def _make_config(trainer: Trainer) -> dict[str, Any]:
    recipe, task = trainer.recipe, trainer.task
    return make_config(
        recipe.model,
        mean=task.mean,
        std=task.std,
        num_classes=len(task.classes),
        in_chans=len(task.mean),
        image_size=trainer.images.pixels.shape[1],
        label_names=task.classes,
        model_args=model_args(trainer.model),
        recipe=asdict(recipe),
        epochs_trained=len(trainer.history),
    )


def _describe(trainer: Trainer, held_out: int) -> str:
    """Return a line that describes the network, the device, the precision and the number of images."""
    recipe, device = trainer.recipe, trainer.device
    parameters = sum(p.numel() for p in trainer.model.parameters())
    name = torch.cuda.get_device_name(device) if device.type == 'cuda' else f'{torch.get_num_threads()} threads'
    return (
        f'{recipe.model}, {parameters:,} parameters, on {device} ({name}) in {"bf16" if trainer.bf16 else "float32"}'
        f'{", steps captured as a CUDA graph" if trainer.captures else ""}: {len(trainer.images):,} training images'
        f'{f", {held_out:,} held out" if held_out else ""}'
    )


def _minutes(seconds: float) -> str:
    """Format a duration as 1:02:03 or 2:03."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f'{hours}:{minutes:02}:{seconds:02}' if hours else f'{minutes}:{seconds:02}'


def _check(recipe: Recipe, output: Path, resume: bool) -> None:
    """Check the recipe and the folder before any image is read.

    Raises:
        InputError: a name is unknown, the optimizer cannot be used, or the folder is in use or has nothing to resume.
    """
    if recipe.dataset:
        find_dataset(recipe.dataset)
    if recipe.model not in ARCHITECTURES:
        near = did_you_mean(recipe.model, ARCHITECTURES) or '; resnet-hub list shows all architectures'
        raise InputError(f'unknown architecture {recipe.model!r}{near}')
    _check_optimizer(recipe)
    checkpoint = output / CHECKPOINT_FILE
    if resume and not checkpoint.exists():
        raise InputError(f'nothing to resume: {checkpoint} does not exist; leave out --resume to start')
    if resume:
        return
    if checkpoint.exists():
        raise InputError(f'{output} already holds a run: continue it with --resume, or give another folder with -o')
    for name in (WEIGHTS_FILE, CONFIG_FILE):
        if (output / name).exists():
            raise InputError(f'{output} already holds a model ({name}): give another folder with -o')


def _check_optimizer(recipe: Recipe) -> None:
    from timm.optim import list_optimizers

    if recipe.opt not in list_optimizers():
        near = did_you_mean(recipe.opt, list_optimizers()) or '; timm.optim.list_optimizers() lists the known ones'
        raise InputError(f'unknown optimizer {recipe.opt!r}{near}')
    try:
        optimizer = make_optimizer(nn.Linear(1, 1), recipe)
    except Exception as error:  # of any kind: a value that it does not accept, a package that is not installed
        reason = ' '.join(str(error).split())
        raise InputError(
            f'the optimizer {recipe.opt} refuses the recipe: {reason}; change its values, or use another --opt'
        ) from error
    if getattr(optimizer, 'is_second_order', False):
        raise InputError(
            f'the optimizer {recipe.opt} needs second derivatives, which are not computed: use another --opt'
        )


def _show(history: list[dict[str, float]], output: Path, title: str) -> None:
    """Write the training curves as a PNG, and as a CSV file with one row per epoch."""
    from resnet_hub.utils.plots import plot_history

    plot_history(history, output / CURVES_FILE, title)
    with replacing(output / HISTORY_FILE) as temporary, open(temporary, 'w', newline='', encoding='utf-8') as file:
        writer = csv.DictWriter(file, history[0])
        writer.writeheader()
        writer.writerows(history)
