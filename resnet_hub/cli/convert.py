"""`resnet-hub convert`: turn a checkpoint of any code base into a model folder, or into a file for another code base."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from typing import Any

from resnet_hub.cli.command import add_command
from resnet_hub.cli.output import print_folder, print_json

_OPTIONS = ('dataset', 'mean', 'std', 'labels', 'key', 'check', 'assume', 'force', 'to')


def add(commands: Any) -> None:
    command = add_command(
        commands,
        'convert',
        _run,
        'turn a checkpoint of any code base into a folder that timm and transformers load (safetensors, config.json)',
        [
            'convert resnet20.th -o resnet20/ --mean 0.485 0.456 0.406 --std 0.229 0.224 0.225',
            'convert hf-hub:OWNER/NAME -o net/ --dataset cifar100 --check cifar100/',
            'convert cifar_resnet20.cifar10 -o resnet20.pth --to kuangliu',
        ],
    )
    command.add_argument(
        'source',
        metavar='SOURCE',
        help='a file, a URL, local-dir:FOLDER, hf-hub:OWNER/NAME[@REVISION], or the name of pretrained weights',
    )
    command.add_argument('-o', '--output', required=True, metavar='DIR', help='the new folder; with --to, the new file')
    command.add_argument(
        '--mean', type=float, nargs='+', metavar='X', help='mean of the pixels, from 0 to 1: one number per channel'
    )
    command.add_argument(
        '--std', type=float, nargs='+', metavar='X', help='standard deviation of the pixels, like --mean'
    )
    command.add_argument('--dataset', help='cifar10, cifar100 or svhn: sets normalisation and class names')
    command.add_argument('--labels', metavar='FILE', help='a text file with the name of one class per line')
    command.add_argument('--key', metavar='NAME', help='the network to take if the file has several')
    command.add_argument(
        '--check',
        metavar='DATA',
        help='measure the accuracy on these test images: a file near chance is refused; a good accuracy counts more than '
        'all other evidence',
    )
    command.add_argument(
        '--assume',
        nargs='+',
        default=(),
        metavar='NAME',
        help='keep an assumption although the file contradicts it; the error message names it',
    )
    command.add_argument(
        '--to',
        metavar='LAYOUT',
        help='write one file with the keys of another code base; an unknown name lists them all',
    )
    command.add_argument('--force', action='store_true', help='replace the output if it exists')
    command.add_argument('--json', action='store_true', help='print the result as JSON')


def _run(args: argparse.Namespace) -> None:
    from dataclasses import asdict

    from resnet_hub.checkpoints.refusal import show
    from resnet_hub.conversion.convert import convert_checkpoint

    options = {k: getattr(args, k) for k in vars(args) if k in _OPTIONS}
    result = convert_checkpoint(args.source, args.output, **options)
    if args.json:
        metrics = result.metrics and result.metrics.to_dict()
        print_json({**asdict(result), 'path': str(result.path), 'metrics': metrics})
        return
    print(f'{result.path}: {result.architecture}, {result.num_classes} classes, read as {result.layout}')
    for name, value in result.model_args.items():
        print(f'  {name}: {value}')
    if result.container:
        print(f'  the file holds {{{result.container!r}: state dict}}, as the files of that code base do')
    for note in result.notes:
        print(f'  note: {note}')
    for assumption in result.assumptions:
        print(f'  {assumption.outcome}: {assumption.text} ({assumption.evidence})')
    for names, reason in _group(result.dropped):
        print(f'  dropped: {show(names)}, {reason}')
    if result.metrics:
        print(f'  top-1 {result.metrics.top1:.2f} % on {result.metrics.images:,} test images')
    if not args.to:
        print_folder(result.path)


def _group(dropped: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Yield the names of dropped tensors with the reason. Four or more with the same beginning are one."""
    groups: dict[tuple[str, str], list[str]] = {}
    for name, reason in dropped.items():
        groups.setdefault((name.partition('.')[0], reason), []).append(name)
    for (start, reason), names in groups.items():
        yield from [(f'{start}.* ({len(names)} tensors)', reason)] if len(names) > 3 else [(n, reason) for n in names]
