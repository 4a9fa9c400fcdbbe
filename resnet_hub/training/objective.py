"""What training minimises: cross-entropy with the labels, and the distance from a teacher's answers."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from resnet_hub.tables.datasets import DATASETS, Dataset
from resnet_hub.training.recipe import Recipe
from resnet_hub.utils.errors import InputError


class Teacher:
    """A trained network whose answers another one learns (Hinton et al. 2015), with a normalisation of its own."""

    def __init__(self, name: str, device: torch.device, dataset: Dataset) -> None:
        from resnet_hub.registry import load_model

        self.model = load_model(name, str(device)).to(memory_format=torch.channels_last).requires_grad_(False)
        cfg: Any = self.model.pretrained_cfg
        if cfg['num_classes'] != len(dataset.classes):
            raise InputError(f'the teacher {name} knows {cfg["num_classes"]} classes, not {len(dataset.classes)}')
        taught = tuple(cfg.get('label_names') or ())
        if any(taught == other.classes for other in DATASETS.values() if other is not dataset):
            raise InputError(
                f'the teacher {name} knows {", ".join(taught[:3])} …, not {", ".join(dataset.classes[:3])} …'
            )
        ours, theirs = (
            torch.tensor(t, device=device).reshape(2, 3, 1, 1)
            for t in ((dataset.mean, dataset.std), (cfg['mean'], cfg['std']))
        )
        self.scale = ours[1] / theirs[1]
        self.shift = (ours[0] - theirs[0]) / theirs[1]

    @torch.no_grad()
    def __call__(self, x: Tensor) -> Tensor:
        """Logits (N, classes) of images (N, 3, H, W) that are normalised for the student."""
        return self.model(x * self.scale + self.shift)


class Objective:
    """The loss of a batch: cross-entropy with the labels, and with a teacher's answers where there is one."""

    def __init__(self, recipe: Recipe, teacher: Teacher | None) -> None:
        self.recipe, self.teacher = recipe, teacher

    def __call__(self, logits: Tensor, targets: Tensor, x: Tensor) -> Tensor:
        """Mean loss in nats of logits (N, classes) for labels (N,) or their shares (N, classes) of images `x`.

        Distillation is Hinton et al. 2015, §2: both answers softened by the temperature T, times T² so that the
        gradient keeps its size.
        """
        loss = F.cross_entropy(logits, targets, label_smoothing=self.recipe.label_smoothing)
        if self.teacher is None:
            return loss
        t = self.recipe.temperature
        answers = F.log_softmax(logits / t, 1), F.log_softmax(self.teacher(x).float() / t, 1)
        soft = F.kl_div(*answers, reduction='batchmean', log_target=True) * t * t
        return torch.lerp(loss, soft, self.recipe.distillation)
