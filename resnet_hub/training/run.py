"""A training run in its folder: train epoch after epoch, measure, report progress, and save."""

from __future__ import annotations

import csv
import logging
import math
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from resnet_hub.data.images import Images
from resnet_hub.inference.evaluate import evaluate
from resnet_hub.training.network import model_args
from resnet_hub.training.optimizer import learning_rate
from resnet_hub.training.task import describe_classes
from resnet_hub.training.trainer import Trainer
from resnet_hub.utils.distributed import copy_from_first, is_first
from resnet_hub.utils.errors import ResnetHubError
from resnet_hub.utils.files import halve, remove_leftovers, replacing
from resnet_hub.weights.folder import (
    CHECKPOINT_FILE,
    CONFIG_FILE,
    CURVES_FILE,
    HISTORY_FILE,
    RECIPE_FILE,
    WEIGHTS_FILE,
    make_config,
    write_folder,
)

_logger = logging.getLogger(__name__)
SAVE_EVERY = 30  #: smallest number of seconds between two checkpoints
SAVE_SHARE = 0.05  #: largest share of the time in which checkpoints and plots may be written


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
        if trainer.history:
            _logger.info(f'{len(trainer.history)} of {trainer.recipe.epochs} epochs are done')
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


def _show(history: list[dict[str, float]], output: Path, title: str) -> None:
    """Write the training curves as a PNG, and as a CSV file with one row per epoch."""
    from resnet_hub.utils.plots import plot_history

    plot_history(history, output / CURVES_FILE, title)
    with replacing(output / HISTORY_FILE) as temporary, open(temporary, 'w', newline='', encoding='utf-8') as file:
        writer = csv.DictWriter(file, history[0])
        writer.writeheader()
        writer.writerows(history)
