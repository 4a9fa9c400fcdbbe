"""The command line: one module per command. A command imports what it needs when it runs."""

from __future__ import annotations

import argparse
import os
import sys
import traceback
import warnings
from collections.abc import Sequence

from resnet_hub.cli import convert, demo, download, evaluate, export, list, predict, train, upload
from resnet_hub.utils.errors import ResnetHubError

TRACEBACK = 'RESNET_HUB_TRACEBACK'  #: environment variable that shows the traceback of every error


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Returns:
        The exit code: 0 done, 1 failed on the way, 2 unusable input or options, 130 interrupted.
    """
    parser = _parser()
    args, unknown = parser.parse_known_args(argv)
    if args.command is None:
        parser.print_help(sys.stderr)
        return 2
    if unknown:
        args.error(f'unrecognized arguments: {" ".join(unknown)}')
    try:
        with warnings.catch_warnings():  # restores `showwarning` at its end
            warnings.showwarning = lambda message, *_, **__: _print_error(args.command, str(message))
            return args.run(args) or 0
    except ResnetHubError as error:
        return _fail(args.command, str(error), error.exit_code)
    except BrokenPipeError:  # the program that reads the output has ended, such as head or less
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:  # a full disk, a folder without write permission
        return _fail(args.command, f'{error}; remove the cause and run the command again', 1)
    except KeyboardInterrupt:
        return _fail(args.command, 'interrupted', 130)


def _fail(command: str, message: str, exit_code: int) -> int:
    if os.environ.get(TRACEBACK, '0') != '0':
        traceback.print_exc()
    _print_error(command, message)
    return exit_code


def _print_error(command: str, message: str) -> None:
    print(f'resnet-hub {command}: {message}', file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    from resnet_hub.utils.version import __version__

    parser = argparse.ArgumentParser(
        'resnet-hub',
        description='CIFAR-style ResNets for timm and torch.hub: list, run, measure, train, convert and share them.',
        epilog=f'{TRACEBACK}=1 in the environment shows the traceback of every error.',
    )
    parser.add_argument('--version', action='version', version=f'resnet-hub {__version__}')
    commands = parser.add_subparsers(dest='command', metavar='COMMAND')
    for command in (list, predict, evaluate, train, convert, export, upload, download, demo):
        command.add(commands)
    return parser
