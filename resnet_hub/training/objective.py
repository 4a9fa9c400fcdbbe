"""The loss that training minimises: cross-entropy with the labels, and the distance from a teacher's predictions."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from resnet_hub.inference.optimize import optimize
from resnet_hub.tables.datasets import DATASETS
from resnet_hub.training.recipe import Recipe
from resnet_hub.training.task import Task
from resnet_hub.utils.errors import InputError


class Teacher:
    """A trained network whose predictions the student learns (Hinton et al. 2015). It has its own normalisation.

    Args:
        name: name of the network, see `load_model`.
        device: device of the images.
        task: classes and normalisation of the student.

    Raises:
        InputError: the teacher has other classes, or takes images of another number of channels.
    """

    def __init__(self, name: str, device: torch.device, task: Task) -> None:
        from resnet_hub.registry.loading import load_model

        self.model = load_model(name, str(device)).to(memory_format=torch.channels_last).requires_grad_(False)
        cfg: Any = self.model.pretrained_cfg
        if cfg['num_classes'] != len(task.classes):
            raise InputError(
                f'the teacher {name} knows {cfg["num_classes"]} classes, not {len(task.classes)}: choose a teacher of the '
                'same classes'
            )
        taught = tuple(cfg.get('label_names') or ())
        if taught != task.classes and any(taught == row.classes for row in DATASETS.values()):
            raise InputError(
                f'the teacher {name} knows {", ".join(taught[:3])} …, not {", ".join(task.classes[:3])} …: choose a '
                'teacher of the same classes'
            )
        channels = len(task.mean)
        if len(cfg['mean']) != channels:
            raise InputError(
                f'the teacher {name} takes images of {len(cfg["mean"])} channels, not {channels}: choose another teacher, '
                'or other channels'
            )
        ours, theirs = (
            torch.tensor(t, device=device).reshape(2, channels, 1, 1)
            for t in ((task.mean, task.std), (cfg['mean'], cfg['std']))
        )
        self.scale = ours[1] / theirs[1]
        self.shift = (ours[0] - theirs[0]) / theirs[1]

    @torch.no_grad()
    def __call__(self, x: Tensor) -> Tensor:
        """Return the teacher's logits (N, classes) for images (N, C, H, W) that are normalised for the student."""
        return self.model(x * self.scale + self.shift)

    def quantise(self, images: Tensor) -> None:
        """Compute the answers with OpenVINO in int8 from now on, on the CPU, several times as fast.

        Args:
            images: that set the ranges of the activations, float32 (N, C, H, W), normalised for the student.

        Raises:
            InputError: the images are on a GPU.
            MissingExtraError: the packages of the extra 'export' are not installed.
        """
        if images.device.type != 'cpu':
            raise InputError('a teacher in int8 runs on a CPU only: leave out --teacher-int8')
        self.model = optimize(self.model, backend='openvino', int8=images * self.scale + self.shift)


class Objective:
    """The loss of a batch: cross-entropy with the labels, and distillation if there is a teacher.

    Args:
        recipe: gives the weight of distillation, its temperature, and the label smoothing.
        teacher: the teacher; None for none.
        class_weights: weight of each class in the cross-entropy, float32 (classes,); None weights all classes equally.
    """

    def __init__(self, recipe: Recipe, teacher: Teacher | None, class_weights: Tensor | None = None) -> None:
        self.recipe, self.teacher, self.class_weights = recipe, teacher, class_weights

    def __call__(self, logits: Tensor, targets: Tensor, x: Tensor) -> Tensor:
        """Return the mean loss in nats.

        Distillation is that of Hinton et al. 2015, §2: the logits of both networks are divided by the temperature T.
        The distillation loss is multiplied by T², so that the size of its gradient does not depend on T.

        Args:
            logits: logits of the student, (N, classes).
            targets: labels, int64 (N,), or shares of the classes, float32 (N, classes).
            x: the images for the teacher, (N, C, H, W).
        """
        loss = F.cross_entropy(logits, targets, self.class_weights, label_smoothing=self.recipe.label_smoothing)
        if self.teacher is None:
            return loss
        t = self.recipe.temperature
        answers = F.log_softmax(logits / t, 1), F.log_softmax(self.teacher(x).float() / t, 1)
        soft = F.kl_div(*answers, reduction='batchmean', log_target=True) * t * t
        return torch.lerp(loss, soft, self.recipe.distillation)
