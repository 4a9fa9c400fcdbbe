"""`resnet-hub demo`: a page that runs networks in a browser."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from resnet_hub.cli.command import add_command, add_models, log_to_stderr
from resnet_hub.cli.output import print_json


def add(commands: Any) -> None:
    command = add_command(
        commands,
        'demo',
        _run,
        'write a web page that classifies pictures, with the network running in the browser',
        [
            'demo cifar_resnet20.cifar10 -o page/',
            'demo cifar_resnet20.cifar10 preact_resnet20.cifar10 -o page/',
            'demo local-dir:runs/mine -o page/ --data cifar10/',
        ],
    )
    add_models(command, 'one or two models with weights, or ONNX files of resnet-hub export')
    command.add_argument('-o', '--output', required=True, metavar='DIR', help='the folder to write')
    command.add_argument(
        '--data',
        metavar='DATA',
        help='test images in any format that evaluate reads: they give the energy score below which the page says that a '
        'picture shows none of the classes; default: the measured score of our own weights',
    )
    command.add_argument(
        '--runtime',
        metavar='DIR',
        help='the folder dist/ of the npm package onnxruntime-web; default: npm fetches it at first use (14 MB)',
    )
    command.add_argument('--force', action='store_true', help='replace the files of an existing page')
    command.add_argument('--json', action='store_true', help='print JSON, for programs')


def _run(args: argparse.Namespace) -> None:
    from resnet_hub.demo.build import build_demo
    from resnet_hub.demo.runtime import PACKAGE, is_cached

    if args.runtime is None and not is_cached():
        print(f'npm downloads {PACKAGE}; this happens only once', file=sys.stderr)
    log_to_stderr()
    page = build_demo(args.models, args.output, data=args.data, runtime=args.runtime, force=args.force)
    if args.json:
        print_json({**page._asdict(), 'folder': str(page.folder)})
        return
    print(f'{page.folder}: {" and ".join(row["name"] for row in page.models)}, {page.size:,} bytes')
    for row in page.models:
        if row['threshold'] is None:
            print(
                f'  {row["name"]}: no energy threshold is known, so the page cannot say that a picture shows no class;'
            )
            print('  --data measures a threshold')
    print(f'  see it: python -m http.server -b localhost -d {page.folder}, then open http://localhost:8000')
