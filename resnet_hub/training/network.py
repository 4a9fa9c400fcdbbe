"""Make the network to train: with random weights, or from trained weights with a new classifier if needed."""

from __future__ import annotations

from typing import Any

import timm
from timm.models import get_model_args
from torch import nn

from resnet_hub.tables.architectures import ARCHITECTURES
from resnet_hub.training.recipe import Recipe
from resnet_hub.training.task import Task
from resnet_hub.utils.errors import InputError

_DEFAULT_MODEL = Recipe.model


def architecture_of(init: str, model: str) -> str:
    """Return the architecture of the trained network from which training starts.

    Args:
        init: name of the trained network, see `load_model`.
        model: the architecture that the recipe names.

    Raises:
        InputError: the architecture is not one of ours, or not `model`.
        ResnetHubError: the weights cannot be loaded.
    """
    from resnet_hub.registry.loading import load_model

    cfg: Any = load_model(init, 'cpu').pretrained_cfg
    architecture = cfg['architecture']
    if architecture not in ARCHITECTURES:
        raise InputError(f'{init} is {architecture}: start from one of the architectures that resnet-hub list shows')
    if model not in (architecture, _DEFAULT_MODEL):
        raise InputError(f'{init} is {architecture}, not {model}: leave out --model')
    return architecture


def make_network(recipe: Recipe, task: Task, size: int) -> nn.Module:
    """Make the network that a recipe describes.

    If the recipe starts from trained weights, the classifier keeps its weights only if it has the same classes in the
    same order. Otherwise the classifier gets random weights.

    Args:
        recipe: the architecture, or the trained network to start from.
        task: the classes, and the mean and std of each channel.
        size: height and width of the images.
    """
    options: dict[str, Any] = {
        'num_classes': len(task.classes),
        'in_chans': len(task.mean),
        'drop_path_rate': recipe.drop_path_rate,
        **({'conv_drop_rate': recipe.conv_drop_rate} if recipe.conv_drop_rate else {}),  # not every family has it
        **recipe.arguments(),
    }
    model = timm.create_model(recipe.init or recipe.model, pretrained=bool(recipe.init), **options)
    if recipe.init and tuple(model.pretrained_cfg.get('label_names') or ()) != task.classes:
        model.reset_classifier(len(task.classes))
    described = {'input_size': (len(task.mean), size, size), 'mean': task.mean, 'std': task.std}
    model.pretrained_cfg = {**model.pretrained_cfg, **described, 'label_names': task.classes}
    return model


def model_args(model: nn.Module) -> dict[str, Any]:
    """Return the arguments that differ from those of the architecture, without classes, channels and pooling."""
    args = get_model_args(model)
    return {name: value for name, value in args.items() if name not in ('num_classes', 'in_chans', 'global_pool')}


def freeze_all_but_classifier(model: nn.Module) -> None:
    """Freeze all parameters except those of the classifier."""
    model.requires_grad_(False)
    model.get_classifier().requires_grad_(True)  # type: ignore[operator]
