"""Train a network from a recipe: check it, read the images, and run its epochs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

from resnet_hub.data.images import Images, normalise
from resnet_hub.data.sources import read_labelled
from resnet_hub.inference.optimize import CALIBRATION_IMAGES, check_compiler
from resnet_hub.tables.architectures import ARCHITECTURES
from resnet_hub.tables.datasets import find_dataset
from resnet_hub.training.network import architecture_of
from resnet_hub.training.objective import Teacher
from resnet_hub.training.optimizer import make_optimizer
from resnet_hub.training.recipe import Recipe
from resnet_hub.training.run import Run
from resnet_hub.training.task import Task, known_dataset, split, usual_size
from resnet_hub.training.trainer import Trainer
from resnet_hub.utils.distributed import choose_device, first_goes_first, world_size
from resnet_hub.utils.errors import InputError, ResnetHubError, did_you_mean
from resnet_hub.utils.memory import keep_freed_memory
from resnet_hub.weights.folder import (
    CHECKPOINT_FILE,
    CONFIG_FILE,
    CURVES_FILE,
    HISTORY_FILE,
    RECIPE_FILE,
    WEIGHTS_FILE,
)


def train(
    recipe: Recipe | None = None,
    output: str | Path | None = None,
    data: Any = None,
    resume: bool = False,
    device: str | None = None,
    compile: bool = False,
    bf16: bool | None = None,
    teacher_int8: bool = False,
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
        teacher_int8: compute the teacher's answers with OpenVINO in int8: several times as fast on a CPU with AVX-512
            VNNI. It needs the extra `export`. The answers then differ a little.
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
    _check_folder(output, resume)
    where = choose_device(device)
    if compile:
        check_compiler(where)
    with first_goes_first():
        if recipe.init:
            recipe = replace(recipe, model=architecture_of(recipe.init, recipe.model))
        _check_recipe(recipe)
        recipe, images = _read_images(recipe, data)
        kept, held_out = _split(recipe, images)
        task = Task.of(kept, recipe.dataset)
        teacher = _load_teacher(recipe, where, task)
        if teacher and teacher_int8:
            sample = kept.pixels[:: max(1, len(kept) // CALIBRATION_IMAGES)]
            teacher.quantise(normalise(sample, task.mean, task.std).to(where))
    trainer = Trainer(recipe, kept.to(where), teacher, compile, bf16, task=task)
    if resume:
        trainer.load(output / CHECKPOINT_FILE)
    run = Run(trainer, held_out.to(where), output)
    run.begin()
    with _fixed_shapes(), keep_freed_memory():
        run.epochs()
    return output


def _check_folder(output: Path, resume: bool) -> None:
    """Check that the folder is free, or with `resume` that it holds a run.

    Raises:
        InputError: it is not so.
    """
    checkpoint = output / CHECKPOINT_FILE
    if resume and not checkpoint.exists():
        raise InputError(f'nothing to resume: {checkpoint} does not exist; leave out --resume to start')
    if resume:
        return
    if checkpoint.exists():
        raise InputError(f'{output} already holds a run: continue it with --resume, or give another folder with -o')
    for name in (WEIGHTS_FILE, CONFIG_FILE, HISTORY_FILE, CURVES_FILE):
        if (output / name).exists():
            raise InputError(f'{output} already holds a model ({name}): give another folder with -o')
    recipe = output / RECIPE_FILE  # a run that was interrupted in its first epoch leaves it
    if recipe.exists() and recipe.read_text(encoding='utf-8') != Recipe.from_file(recipe).to_toml():
        raise InputError(f'{recipe} is a recipe of your own, which the run would replace: give another folder with -o')


def _check_recipe(recipe: Recipe) -> None:
    """Check the recipe before any image is read.

    Raises:
        InputError: a name is unknown, the architecture has no such option, or the optimizer cannot be used.
    """
    if recipe.dataset:
        find_dataset(recipe.dataset)
    if recipe.model not in ARCHITECTURES:
        near = did_you_mean(recipe.model, ARCHITECTURES) or '; resnet-hub list shows all architectures'
        raise InputError(f'unknown architecture {recipe.model!r}{near}')
    if recipe.conv_drop_rate and 'conv_drop_rate' not in ARCHITECTURES[recipe.model].family.arguments:
        having = next(name for name, row in ARCHITECTURES.items() if 'conv_drop_rate' in row.family.arguments)
        raise InputError(
            f'conv_drop_rate must be 0 for {recipe.model}, whose blocks have no dropout: choose another architecture, '
            f'such as {having}'
        )
    _check_arguments(recipe)
    _check_optimizer(recipe)


def _check_arguments(recipe: Recipe) -> None:
    """Check `model_args` by making the network without memory for its weights.

    Raises:
        InputError: the architecture does not take them, or another option sets them.
    """
    arguments = recipe.arguments()
    if not arguments:
        return
    if recipe.init:
        raise InputError(
            'the network has the arguments of the trained one from which it starts: leave out --model-args'
        )
    fixed = {'num_classes', 'in_chans', 'drop_path_rate', 'conv_drop_rate'} & arguments.keys()
    if fixed:
        raise InputError(f'model_args cannot set {", ".join(sorted(fixed))}: the images or other options do')
    try:
        timm.create_model(recipe.model, device='meta', **arguments)
    except (TypeError, ValueError, RuntimeError) as error:
        reason = ' '.join(str(error).split())
        raise InputError(f'{recipe.model} does not take model_args {recipe.model_args!r}: {reason}') from error


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


def _read_images(recipe: Recipe, data: Any) -> tuple[Recipe, Images]:
    """Read the training images. Return the recipe, completed with their data set and channels, and the images.

    `size` stays 0, so that the recipe does not resize other images when it is used again. config.json has the size.
    """
    if isinstance(data, tuple):
        pixels, labels = map(torch.as_tensor, data)
        data = Images(pixels, labels)
    if isinstance(data, Images):
        images = data.check()
        _, height, _, channels = images.pixels.shape
        recipe = replace(recipe, size=height if recipe.size else 0, channels=channels)
    else:
        source = data or recipe.dataset or 'cifar10'
        found = read_labelled(source, 'train', dataset=recipe.dataset or None)
        images = found.load(recipe.size or usual_size(found, recipe.channels), recipe.channels)
        recipe = replace(recipe, dataset=recipe.dataset or known_dataset(found))
    replace(recipe, size=images.pixels.shape[1])  # checks that `image_sizes` leaves epochs at this size
    return recipe, images


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


@contextmanager
def _fixed_shapes() -> Iterator[None]:
    """Let cuDNN try its kernels and keep the fastest. This is worthwhile if all batches have the same shape."""
    before, torch.backends.cudnn.benchmark = torch.backends.cudnn.benchmark, True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before
