"""What training minimises: cross-entropy with the labels, and the distance from a teacher's answers."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from resnet_hub.tables.datasets import DATASETS
from resnet_hub.training.recipe import Recipe
from resnet_hub.training.task import Task
from resnet_hub.utils.errors import InputError


class Teacher:
    """A trained network whose answers another one learns (Hinton et al. 2015), with its own normalisation.

    Args:
        name: of the network, see `load_model`.
        device: of the images.
        task: what the student is trained for.

    Raises:
        InputError: it knows other classes.
    """

    def __init__(self, name: str, device: torch.device, task: Task) -> None:
        from resnet_hub.registry import load_model

        self.model = load_model(name, str(device)).to(memory_format=torch.channels_last).requires_grad_(False)
        cfg: Any = self.model.pretrained_cfg
        if cfg['num_classes'] != len(task.classes):
            raise InputError(f'the teacher {name} knows {cfg["num_classes"]} classes, not {len(task.classes)}')
        taught = tuple(cfg.get('label_names') or ())
        if taught != task.classes and any(taught == row.classes for row in DATASETS.values()):
            raise InputError(f'the teacher {name} knows {", ".join(taught[:3])} …, not {", ".join(task.classes[:3])} …')
        channels = len(task.mean)
        if len(cfg['mean']) != channels:
            raise InputError(f'the teacher {name} takes images of {len(cfg["mean"])} channels, not {channels}')
        ours, theirs = (
            torch.tensor(t, device=device).reshape(2, channels, 1, 1)
            for t in ((task.mean, task.std), (cfg['mean'], cfg['std']))
        )
        self.scale = ours[1] / theirs[1]
        self.shift = (ours[0] - theirs[0]) / theirs[1]

    @torch.no_grad()
    def __call__(self, x: Tensor) -> Tensor:
        """Return logits (N, classes) of images (N, C, H, W) that are normalised for the student."""
        return self.model(x * self.scale + self.shift)


class Objective:
    """The loss of a batch: cross-entropy with the labels, and with a teacher's answers where there is one.

    Args:
        recipe: says how both parts count, and how targets are smoothed.
        teacher: maps images to logits.
        class_weights: weight of each class in the cross-entropy, float32 (classes,); None: all count the same.
    """

    def __init__(self, recipe: Recipe, teacher: Teacher | None, class_weights: Tensor | None = None) -> None:
        self.recipe, self.teacher, self.class_weights = recipe, teacher, class_weights

    def __call__(self, logits: Tensor, targets: Tensor, x: Tensor) -> Tensor:
        """Return the mean loss in nats.

        Distillation is that of Hinton et al. 2015, §2: the logits of both networks are divided by the temperature T.
        The loss is multiplied by T², so that its gradient keeps its size.

        Args:
            logits: (N, classes) of the student.
            targets: labels, int64 (N,), or shares of the classes, float32 (N, classes).
            x: the images, (N, C, H, W), for the teacher.
        """
        loss = F.cross_entropy(logits, targets, self.class_weights, label_smoothing=self.recipe.label_smoothing)
        if self.teacher is None:
            return loss
        t = self.recipe.temperature
        answers = F.log_softmax(logits / t, 1), F.log_softmax(self.teacher(x).float() / t, 1)
        soft = F.kl_div(*answers, reduction='batchmean', log_target=True) * t * t
        return torch.lerp(loss, soft, self.recipe.distillation)
