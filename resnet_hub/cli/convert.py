"""`resnet-hub convert`: anyone's checkpoint becomes a model folder, or ours one of another layout."""

from __future__ import annotations

import argparse
from typing import Any

from resnet_hub.cli.command import add_command
from resnet_hub.cli.output import print_json


def add(commands: Any) -> None:
    command = add_command(
        commands,
        'convert',
        _run,
        "turn anyone's checkpoint of such a network into safetensors and config.json",
        [
            'convert resnet20.th -o resnet20/ --mean 0.485 0.456 0.406 --std 0.229 0.224 0.225',
            'convert hf-hub:OWNER/NAME -o net/ --dataset cifar100 --check cifar100/',
            'convert cifar_resnet20.cifar10 -o resnet20.pth --to kuangliu',
        ],
    )
    command.add_argument(
        'source', help='a file, a URL, hf-hub:OWNER/NAME[@REVISION], or the name of pretrained weights'
    )
    command.add_argument('-o', '--output', required=True, metavar='DIR', help='a new folder; with --to, a file')
    command.add_argument(
        '--mean', type=float, nargs='+', metavar='X', help='of the pixels, from 0 to 1: a number a channel'
    )
    command.add_argument('--std', type=float, nargs='+', metavar='X', help='likewise')
    command.add_argument('--dataset', help='cifar10, cifar100 or svhn: normalisation and class names')
    command.add_argument('--labels', metavar='FILE', help='names of the classes, one a line')
    command.add_argument('--key', metavar='NAME', help='which network, where the file holds several')
    command.add_argument('--check', metavar='DATA', help='measure the result on test-*.parquet; refuse one near chance')
    command.add_argument(
        '--to', metavar='LAYOUT', help='write the keys of another code base; any unknown name lists them'
    )
    command.add_argument('--force', action='store_true', help='replace the output')
    command.add_argument('--json', action='store_true', help='for programs')


def _run(args: argparse.Namespace) -> None:
    from dataclasses import asdict

    from resnet_hub.checkpoints.refusal import show
    from resnet_hub.conversion.convert import convert_checkpoint

    options = {k: getattr(args, k) for k in ('dataset', 'mean', 'std', 'labels', 'key', 'check', 'force', 'to')}
    result = convert_checkpoint(args.source, args.output, **options)
    if args.json:
        metrics = result.metrics and result.metrics.to_dict()
        print_json({**asdict(result), 'path': str(result.path), 'metrics': metrics})
        return
    print(f'{result.path}: {result.architecture}, {result.num_classes} classes, read as {result.layout}')
    for name, value in result.model_args.items():
        print(f'  {name}: {value}')
    for assumption in result.assumptions:
        print(f'  assumed: {assumption}')
    for name, reason in result.dropped.items():
        print(f'  dropped: {show(name)}, {reason}')
    if result.metrics:
        print(f'  top-1 {result.metrics.top1:.2f} % on {result.metrics.images:,} test images')
