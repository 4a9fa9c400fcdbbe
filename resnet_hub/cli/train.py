"""`resnet-hub train`: train a network and write it as a model folder."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from resnet_hub.cli.command import add_command, add_device, log_to_stderr
from resnet_hub.cli.output import print_folder

#: description of each group of recipe options
_GROUPS = {
    'network': 'which network is trained, and from which weights it starts',
    'images': 'on which images it is trained',
    'schedule': 'how long it is trained, and in which steps',
    'optimizer': 'how the weights change',
    'augmentation': 'how images change from epoch to epoch',
    'distillation': 'learn from another network (Hinton et al. 2015)',
}


def add(commands: Any) -> None:
    from resnet_hub.training.recipe import FINE_TUNING, Recipe, fields

    command = add_command(
        commands,
        'train',
        _run,
        'train a network on CIFAR or on your own images, and get a folder that every other command and timm can load',
        [
            'train --recipe cifar_resnet20.cifar10 --teacher "" --data cifar10/ -o runs/resnet20',
            'train --init cifar_resnet18.cifar10 --data my_images/ -o runs/mine',
            'train --model preact_resnet20 --dataset cifar10 --epochs 60 --holdout 5000 -o runs/preact',
            'train --resume --data cifar10/ -o runs/resnet20',
        ],
    )
    command.usage = 'resnet-hub train -o DIR [--data DATA] [--recipe RECIPE] [--resume] [option …]'
    command.add_argument('-o', '--output', required=True, metavar='DIR', help='folder for weights, curves, checkpoint')
    command.add_argument(
        '--data',
        metavar='DATA',
        help='training images: a folder with a folder for each class, parquet files, hf://datasets/OWNER/NAME, …; '
        'default: the data set of the recipe, from the Hub',
    )
    command.add_argument(
        '--recipe',
        help='a TOML file, or the name of a recipe of ours, such as cifar_resnet20.cifar10; default: the options below',
    )
    command.add_argument('--resume', action='store_true', help='continue the run in DIR')
    command.add_argument(
        '--compile', action='store_true', help='compile the network with torch.compile: a slower start, faster steps'
    )
    command.add_argument(
        '--bf16',
        action=argparse.BooleanOptionalAction,
        help='compute in bfloat16; default: if the hardware supports it',
    )
    command.add_argument(
        '--teacher-int8',
        action='store_true',
        help="compute the teacher's answers in int8 with OpenVINO, several times as fast on a CPU (extra: export)",
    )
    add_device(command)
    groups = {name: command.add_argument_group(f'recipe: {name}', about) for name, about in _GROUPS.items()}
    for field in fields(Recipe):
        kind: Any = type(field.default)
        default = (
            f'{field.default}; with --init {FINE_TUNING[field.name]}' if field.name in FINE_TUNING else field.default
        )
        help = f'{field.metadata["help"]} (default: {default!s})' if default != '' else field.metadata['help']
        choices = field.metadata['choices']
        metavar = '{' + ','.join(choices) + '}' if choices else {int: 'N', float: 'X', str: 'TEXT'}[kind]
        option = f'--{field.name.replace("_", "-")}'
        groups[field.metadata['group']].add_argument(option, type=kind, metavar=metavar, help=help)


def _run(args: argparse.Namespace) -> None:
    from resnet_hub.training.recipe import Recipe, fields
    from resnet_hub.training.train import train
    from resnet_hub.utils.distributed import is_first, process_group

    given = {f.name: getattr(args, f.name) for f in fields(Recipe) if getattr(args, f.name) is not None}
    recipe = Recipe.from_file(_recipe_path(args), **given)
    log_to_stderr()
    with process_group(args.device) as device:
        folder = train(
            recipe, args.output, args.data, args.resume, str(device), args.compile, args.bf16, args.teacher_int8
        )
        if is_first():
            print_folder(folder)


def _recipe_path(args: argparse.Namespace) -> Path | None:
    """Return the file of the recipe: that of the user, of the package, or of the run to resume; None for no file."""
    from resnet_hub.tables.weights import recipe_file
    from resnet_hub.utils.errors import InputError, did_you_mean
    from resnet_hub.weights.folder import RECIPE_FILE

    if not args.recipe:
        path = Path(args.output) / RECIPE_FILE
        if args.resume and not path.is_file():
            raise InputError(f'nothing to resume: {path} does not exist; leave out --resume to start')
        return path if args.resume else None
    named, path = recipe_file(args.recipe), Path(args.recipe)
    if named.is_file() or path.is_file():
        return named if named.is_file() else path
    known = sorted(file.stem for file in named.parent.glob('*.toml'))
    near = did_you_mean(args.recipe, known) or f'; ours are {", ".join(known)}'
    raise InputError(f'no recipe {args.recipe}{near}')
