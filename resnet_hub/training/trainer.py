"""Train a network epoch by epoch. All images are in memory, and an epoch's random numbers are drawn before it starts."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from resnet_hub.data.augmentation import Augmentation, Draws, resize
from resnet_hub.data.images import Images
from resnet_hub.training.capture import Captured
from resnet_hub.training.network import freeze_all_but_classifier, make_network
from resnet_hub.training.objective import Objective, Teacher
from resnet_hub.training.optimizer import (
    DEVICE_OPTIONS,
    Average,
    average_share,
    is_capturable,
    learning_rate,
    make_optimizer,
    set_learning_rate,
)
from resnet_hub.training.recipe import Recipe
from resnet_hub.training.task import Task, balancing_weights
from resnet_hub.utils.distributed import all_sum, has_fast_bf16, is_first, rank, world_size
from resnet_hub.utils.errors import InputError
from resnet_hub.utils.files import replacing


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
            self.run_step = Captured(self._step, self.device)  # another image size needs another graph
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
        loss.backward()
        if self.recipe.clip_grad:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip_grad)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)  # a CUDA graph needs all gradients to be its own
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
        before = {**asdict(Recipe()), **state['recipe']}  # an older version may lack fields
        same_size = {before['size'], self.recipe.size} <= {0, self.images.pixels.shape[1]}  # 0: that of the images
        changed = [k for k, v in asdict(self.recipe).items() if before[k] != v and not (k == 'size' and same_size)]
        if changed:
            values = ', '.join(f'{name} = {json.dumps(before[name])}' for name in changed)
            raise InputError(
                f'{path} was trained with {values}, and a run keeps its recipe: resume without other values, or start a '
                f'new run from its weights by --init local-dir:{path.parent}'
            )
        if state['task'] != self._task_state():
            raise InputError(f'{path} was trained on other images: resume with the same --data')
        if state.get('bf16', self.bf16) != self.bf16:
            raise InputError(
                f'{path} was trained with {"--no-bf16" if self.bf16 else "--bf16"}: resume with that option'
            )
        self.model.load_state_dict(state['model'])
        if self.average:
            self.average.module.load_state_dict(state['ema'])
        for saved, group in zip(state['optimizer']['param_groups'], self.optimizer.param_groups, strict=True):
            saved.update({name: group[name] for name in DEVICE_OPTIONS if name in group})
        self.optimizer.load_state_dict(state['optimizer'])
        self.history = state['history']
        torch.set_rng_state(state['rng'])
        if state.get('gpu_rng') is not None and self.device.type == 'cuda':
            torch.cuda.set_rng_state(state['gpu_rng'], self.device)


def make_augmentation(recipe: Recipe) -> Augmentation:
    return Augmentation(recipe.crop, recipe.padding, recipe.flip, recipe.cutout, recipe.mixup, recipe.cutmix)
