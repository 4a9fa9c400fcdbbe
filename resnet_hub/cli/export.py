"""`resnet-hub export`: write a network as a file for another runtime."""

from __future__ import annotations

import argparse
from typing import Any

from resnet_hub.cli.command import add_command, log_to_stderr
from resnet_hub.cli.output import print_json


def add(commands: Any) -> None:
    command = add_command(
        commands,
        'export',
        _run,
        'write a network as an ONNX, OpenVINO, PyTorch (pt2) or ExecuTorch file, in float32 or int8',
        [
            'export cifar_resnet20.cifar10 -o resnet20.onnx',
            'export cifar_resnet20.cifar10 -o resnet20.xml --int8 --calibrate cifar10/ --check cifar10/',
            'export local-dir:runs/mine -o mine.onnx --with-preprocessing',
        ],
    )
    command.add_argument('model', metavar='MODEL', help='any model with weights')
    command.add_argument(
        '-o', '--output', required=True, metavar='PATH', help='the file to write, or a folder for a file named model.*'
    )
    command.add_argument(
        '--to', metavar='FORMAT', help='onnx, openvino, pt2 or executorch; default: the format of the suffix of PATH'
    )
    command.add_argument('--int8', action='store_true', help='quantise to 8 bits; needs --calibrate')
    command.add_argument(
        '--calibrate',
        metavar='DATA',
        help='training images in any format that evaluate reads, or pictures: set the ranges for int8',
    )
    command.add_argument(
        '--check',
        metavar='DATA',
        help='test images in any format that evaluate reads: measure the accuracy of the file on them',
    )
    command.add_argument(
        '--tolerance',
        type=float,
        default=0.5,
        metavar='POINTS',
        help='refuse an int8 file that loses more percentage points of top-1 on --check (default: %(default)s)',
    )
    command.add_argument('--dataset', help='cifar10, cifar100 or svhn; default: by the classes of the model')
    command.add_argument('--dynamic-batch', action='store_true', help='take any number of images at once, not just one')
    command.add_argument(
        '--with-preprocessing', action='store_true', help='take a uint8 picture of any size, and resize it in the file'
    )
    command.add_argument('--force', action='store_true', help='replace an existing file')
    command.add_argument('--json', action='store_true', help='print JSON, for programs')


def _run(args: argparse.Namespace) -> None:
    from dataclasses import asdict

    from resnet_hub.exporting.export import export
    from resnet_hub.runtimes.formats import FORMATS

    log_to_stderr()
    names = 'to int8 calibrate check tolerance dynamic_batch with_preprocessing dataset force'.split()
    report = export(args.model, args.output, **{name: getattr(args, name) for name in names})
    if args.json:
        print_json({**asdict(report), 'path': str(report.path)})
        return
    precision = 'int8' if report.int8 else 'float32'
    print(f'{report.path}: {FORMATS[report.format].title}, {precision}, {report.size:,} bytes')
    print(f'  largest error of a logit: {report.logit_error:.1e} of the largest logit')
    if report.norms_left:
        print(f'  norms that could not be folded into a convolution: {report.norms_left}')
    if report.top1 is not None:
        print(
            f'  top-1 {report.top1:.2f} %, the network itself {report.network_top1:.2f} %; '
            f'{report.changed:.2f} % of the predictions differ'
        )
    print(f'  try it: resnet-hub predict IMAGE --model {report.path}')
