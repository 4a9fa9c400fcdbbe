"""Add a command to the parser, and the options that several commands share."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import Any


def add_command(
    commands: Any, name: str, run: Callable[[argparse.Namespace], int | None], summary: str, examples: Sequence[str]
) -> argparse.ArgumentParser:
    """Add a command with its summary, examples and the function that runs it, and return its parser."""
    command = commands.add_parser(
        name,
        help=summary,
        description=summary[0].upper() + summary[1:] + '.',
        epilog='examples:\n' + '\n'.join(f'  resnet-hub {example}' for example in examples),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.set_defaults(run=run, error=command.error)
    return command


def log_to_stderr() -> None:
    """Print the progress that the package logs to standard error."""
    import logging

    logging.basicConfig(format='%(message)s', stream=sys.stderr)
    logging.getLogger('resnet_hub').setLevel(logging.INFO)


class _NoOption(argparse.Action):
    """Says that a model is not given by an option."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: Any, values: Any, option: Any = None) -> None:
        parser.error(f'give the model without {option}: {parser.prog} {values} …')


def add_models(command: argparse.ArgumentParser, help: str) -> None:
    """Add the arguments MODEL …. --model, the option of `predict`, is refused with a hint."""
    command.add_argument('models', nargs='+', metavar='MODEL', help=help)
    command.add_argument('--model', action=_NoOption, help=argparse.SUPPRESS)


def add_device(command: argparse.ArgumentParser) -> None:
    command.add_argument('--device', help='cpu, cuda, cuda:1, …; default: a CUDA GPU if there is one')


def add_backend(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        '--backend', metavar='RUNTIME', help='what runs an ONNX file: onnxruntime (default) or openvino'
    )
