"""The command line: a module a command. What a command needs is imported when it runs."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from resnet_hub.cli import convert, download, evaluate, list, predict, train, upload
from resnet_hub.utils.errors import ResnetHubError


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; 0 done, 1 a failure on the way, 2 unusable input or options."""
    args = _parser().parse_args(argv)
    try:
        return args.run(args) or 0
    except ResnetHubError as error:
        print(f'resnet-hub {args.command}: {error}', file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:  # the reader of our output has left: head, less
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:  # a disk that is full, a folder that is not ours to write to
        print(f'resnet-hub {args.command}: {error}; see to that and run it again', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    from resnet_hub import __version__

    parser = argparse.ArgumentParser('resnet-hub', description='CIFAR-style ResNets for timm and torch.hub.')
    parser.add_argument('--version', action='version', version=f'resnet-hub {__version__}')
    commands = parser.add_subparsers(dest='command', required=True, metavar='COMMAND')
    for command in (list, predict, evaluate, train, convert, upload, download):
        command.add(commands)
    return parser
