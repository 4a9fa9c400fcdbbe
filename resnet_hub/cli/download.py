"""`resnet-hub download`: download a model folder from the Hub."""

from __future__ import annotations

import argparse
from typing import Any

from resnet_hub.cli.command import add_command
from resnet_hub.cli.output import print_folder


def add(commands: Any) -> None:
    command = add_command(
        commands,
        'download',
        _run,
        'download a network of resnet-hub from the Hugging Face Hub and verify every file',
        ['download OWNER/NAME -o resnet20', 'download OWNER/NAME --revision v1'],
    )
    command.add_argument('repository', metavar='OWNER/NAME', help='the repository on the Hub')
    command.add_argument(
        '-o', '--output', metavar='DIR', help='new folder for the files; default: the cache of huggingface_hub'
    )
    command.add_argument('--revision', help='branch, tag or commit; default: main')


def _run(args: argparse.Namespace) -> None:
    from resnet_hub.hub.download import download

    folder = download(args.repository, args.output, revision=args.revision)
    print_folder(folder)
