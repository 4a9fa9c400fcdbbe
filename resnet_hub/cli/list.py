"""`resnet-hub list`: the architectures and the pretrained weights."""

from __future__ import annotations

import argparse
from typing import Any

from resnet_hub.cli.command import add_command
from resnet_hub.cli.output import print_json, print_rows
from resnet_hub.utils.errors import InputError, did_you_mean


def add(commands: Any) -> None:
    command = add_command(
        commands,
        'list',
        _run,
        'show the architectures, or the pretrained weights',
        ['list', 'list preact', "list 'cifar_resnet?'", 'list --pretrained cifar100', 'list --verify'],
    )
    command.add_argument('filter', nargs='?', default='', help='part of a name, or a shell pattern of whole names')
    command.add_argument('--pretrained', action='store_true', help='show the weights and their accuracy')
    command.add_argument(
        '--verify', action='store_true', help='show the weights, and check the files on this machine by their digests'
    )
    command.add_argument('--json', action='store_true', help='print JSON, for programs')


def _run(args: argparse.Namespace) -> None:
    from resnet_hub.tables.architectures import ARCHITECTURES
    from resnet_hub.tables.weights import WEIGHTS, tags

    pretrained = args.pretrained or args.verify
    names = [f'{name}.{tag}' for name in ARCHITECTURES for tag in tags(name)] if pretrained else [*ARCHITECTURES]
    shown = [name for name in names if _matches(name, args.filter)]
    if not shown:
        what, option = ('weights match', ' --pretrained') if pretrained else ('architecture matches', '')
        known = any(_matches(name, args.filter) for name in ARCHITECTURES)  # the name is right, but has no weights
        hint = (not known and did_you_mean(args.filter, names)) or f'; resnet-hub list{option} shows all names'
        raise InputError(f'no {what} {args.filter!r}{hint}')
    rows = [_weights_row(WEIGHTS[name], args.verify) if pretrained else _architecture_row(name) for name in shown]
    if args.json:
        print_json(rows)
    else:
        print_rows([{key: _text(value) for key, value in row.items()} for row in rows])


def _matches(name: str, pattern: str) -> bool:
    """Return whether a name matches: a shell pattern the whole name or its architecture, other text any part of it."""
    from fnmatch import fnmatch

    if any(sign in pattern for sign in '*?['):
        return fnmatch(name, pattern) or fnmatch(name.partition('.')[0], pattern)
    return pattern.lower() in name


def _architecture_row(name: str) -> dict[str, Any]:
    from resnet_hub.tables.architectures import ARCHITECTURES
    from resnet_hub.tables.weights import tags

    row = ARCHITECTURES[name]
    shape = {'block': row.block, 'layers': list(row.layers), 'widths': list(row.widths)}
    return {'architecture': name, **shape, 'parameters': row.params, 'weights': tags(name)}


def _weights_row(row: Any, verify: bool) -> dict[str, Any]:
    from resnet_hub.tables.architectures import ARCHITECTURES

    figures = {figure: getattr(row, figure) for figure in ('top1', 'top5', 'nll', 'ece', 'auroc')}
    return {
        'weights': row.name,
        'dataset': row.dataset,
        'parameters': ARCHITECTURES[row.architecture].params,
        **figures,
        'license': row.publisher.license,
        'publisher': row.publisher.name,
        'file': _state_of_file(row, verify),
    }


def _state_of_file(row: Any, verify: bool) -> str:
    """Return whether a file is on this machine or must be downloaded, and with `verify`, that its digest is right."""
    from resnet_hub.weights.cache import check_digest, find

    path = find(row.name)
    if path is None:
        return 'to download'
    if not verify:
        return 'here'
    if row.path is None:
        return 'verified at download'  # the file here is a conversion of the published one
    check_digest(row, path)
    return 'verified'


def _text(value: Any) -> Any:
    """Return a value for a cell of a table: a list becomes text."""
    return (' '.join(map(str, value)) or '-') if isinstance(value, list) else value
