"""`resnet-hub train`: a recipe becomes a model folder."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from resnet_hub.cli.command import add_command, add_device
from resnet_hub.cli.output import print_folder


def add(commands: Any) -> None:
    from resnet_hub.training.recipe import Recipe, fields

    command = add_command(
        commands,
        'train',
        _run,
        'train a network on labelled images, and write it to a folder that timm loads',
        [
            'train --recipe cifar_resnet20.cifar10 --data cifar10/ -o runs/resnet20',
            'train --model preact_resnet20 --epochs 60 --holdout 5000 -o runs/mine',
            'train -o runs/mine --data cifar10/ --resume',
        ],
    )
    command.add_argument('-o', '--output', required=True, metavar='DIR', help='weights, curves and checkpoint go here')
    command.add_argument('--data', metavar='DIR', help='folder with train-*.parquet; default: from the Hub')
    command.add_argument(
        '--recipe', help='a TOML file, or the name of one in resnet_hub/weights, such as cifar_resnet20.cifar10'
    )
    command.add_argument('--resume', action='store_true', help='go on with the run in DIR')
    command.add_argument('--compile', action='store_true', help='torch.compile: a slower start, faster steps on a GPU')
    command.add_argument('--bf16', action=argparse.BooleanOptionalAction, help='default: where the hardware has it')
    add_device(command)
    options = command.add_argument_group('recipe', 'each of these wins over the recipe file')
    for field in fields(Recipe):
        kind: Any = type(field.default)
        name, help = f'--{field.name.replace("_", "-")}', f'{field.metadata["help"]} ({field.default})'
        options.add_argument(name, type=kind, metavar=kind.__name__.upper(), help=help)


def _run(args: argparse.Namespace) -> None:
    import logging

    from resnet_hub.training.recipe import Recipe, fields
    from resnet_hub.training.trainer import train
    from resnet_hub.utils.distributed import is_first, process_group

    given = {f.name: getattr(args, f.name) for f in fields(Recipe) if getattr(args, f.name) is not None}
    recipe = Recipe.from_file(_recipe_path(args), **given)
    logging.basicConfig(format='%(message)s', stream=sys.stderr)
    logging.getLogger('resnet_hub').setLevel(logging.INFO)
    with process_group(args.device) as device:
        folder = train(recipe, args.output, args.data, args.resume, str(device), args.compile, args.bf16)
        if is_first():
            print_folder(folder)


def _recipe_path(args: argparse.Namespace) -> Path | None:
    """A file, or one of the recipes that come with the package; a run that is resumed has its own."""
    from resnet_hub.checkpoints.folder import RECIPE_FILE
    from resnet_hub.tables.weights import recipe_file

    if not args.recipe:
        return Path(args.output) / RECIPE_FILE if args.resume else None
    named = recipe_file(args.recipe)
    return named if named.is_file() else Path(args.recipe)
