"""`resnet-hub list`: the architectures and the weights."""

from __future__ import annotations

import argparse
from typing import Any

from resnet_hub.cli.command import add_command
from resnet_hub.cli.output import print_json, print_rows
from resnet_hub.utils.errors import InputError


def add(commands: Any) -> None:
    command = add_command(
        commands,
        'list',
        _run,
        'show the architectures, or the pretrained weights',
        ['list', "list 'preact*'", 'list --pretrained', 'list --verify'],
    )
    command.add_argument('filter', nargs='?', default='*', help='a shell pattern of names')
    command.add_argument('--pretrained', action='store_true', help='the weights, with their accuracy')
    command.add_argument(
        '--verify', action='store_true', help='the weights, and whether the files of ours have their digests'
    )
    command.add_argument('--json', action='store_true', help='for programs')


def _run(args: argparse.Namespace) -> None:
    from fnmatch import fnmatch

    from resnet_hub.tables.architectures import ARCHITECTURES
    from resnet_hub.tables.weights import WEIGHTS, tags

    pretrained = args.pretrained or args.verify
    rows: list[dict[str, Any]] = []
    for name, row in ARCHITECTURES.items():
        if not pretrained and fnmatch(name, args.filter):
            shape = {
                'block': row.block,
                'layers': ' '.join(map(str, row.layers)),
                'widths': ' '.join(map(str, row.widths)),
            }
            rows.append(
                {'architecture': name, **shape, 'parameters': row.params, 'weights': ' '.join(tags(name)) or '-'}
            )
        for weights in (f'{name}.{tag}' for tag in tags(name)):
            if pretrained and (fnmatch(weights, args.filter) or fnmatch(name, args.filter)):
                w = WEIGHTS[weights]
                figures = {'parameters': row.params, 'top1': w.top1, 'top5': w.top5, 'nll': w.nll}
                origin = {'license': w.publisher.license, 'publisher': w.publisher.name}
                verified = {'file': _verify(weights)} if args.verify else {}
                rows.append({'weights': weights, 'dataset': w.dataset, **figures, **origin, **verified})
    if not rows:
        what, all = ('no weights are', ' --pretrained') if pretrained else ('nothing is', '')
        raise InputError(f'{what} called {args.filter!r}; resnet-hub list{all} shows all there is')
    (print_json if args.json else print_rows)(rows)


def _verify(name: str) -> str:
    from resnet_hub.tables.weights import WEIGHTS
    from resnet_hub.weights.fetch import check_digest, find

    row, path = WEIGHTS[name], find(name)
    if row.url and not path.is_file():
        return 'not here'
    if row.url and not row.repo_id:
        return 'verified when it came'  # what is here was converted
    check_digest(name, row, path)
    return 'verified'
