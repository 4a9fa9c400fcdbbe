"""`resnet-hub upload`: publish model folders on the Hub."""

from __future__ import annotations

import argparse
from typing import Any

from resnet_hub.cli.command import add_command
from resnet_hub.cli.output import print_rows
from resnet_hub.utils.errors import InputError


def add(commands: Any) -> None:
    command = add_command(
        commands,
        'upload',
        _run,
        'publish model folders on the Hugging Face Hub',
        [
            'upload runs/resnet20 OWNER/NAME',
            'upload runs/a runs/b OWNER --private',
            'upload runs/resnet20 OWNER/NAME --dry-run',
            'upload runs/resnet20 OWNER/NAME --onnx --calibrate cifar10/ --check cifar10/',
        ],
    )
    command.add_argument(
        'folders', nargs='+', metavar='DIR', help='folders that `resnet-hub train` or `resnet-hub convert` wrote'
    )
    command.add_argument(
        'target',
        metavar='OWNER[/NAME]',
        help='repository; with only OWNER, each folder gives the name of its repository',
    )
    command.add_argument('--private', action='store_true', help='create a private repository')
    command.add_argument(
        '--revision', metavar='BRANCH', help='commit to this branch, which is created if it is missing; default: main'
    )
    command.add_argument('--create-pr', action='store_true', help='open a pull request against main')
    command.add_argument('--message', help='title of the commit')
    command.add_argument(
        '--license',
        metavar='SPDX',
        help='license of the weights; default: the license of the card on the Hub or of published weights, else unknown',
    )
    command.add_argument(
        '--description',
        metavar='TEXT',
        help='Markdown for the beginning of the model card; default: that of the card on the Hub',
    )
    command.add_argument(
        '--onnx', action='store_true', help='also publish OWNER/NAME-ONNX, with ONNX files for transformers.js'
    )
    command.add_argument(
        '--calibrate', metavar='DATA', help='training images: --onnx adds an int8 file, which browsers load by default'
    )
    command.add_argument(
        '--check', metavar='DATA', help='test images: refuse an int8 file that loses more than half a point of top-1'
    )
    command.add_argument('--dry-run', action='store_true', help='show the files and the card, and make no request')


def _run(args: argparse.Namespace) -> int:
    from resnet_hub.hub.upload import check_options, push_folders, push_onnx, push_to_hub, repo_ids

    options = {k: getattr(args, k) for k in ('private', 'revision', 'create_pr', 'message', 'license', 'description')}
    single = '/' in args.target
    if single and len(args.folders) > 1:
        raise InputError(f'{len(args.folders)} folders cannot all be {args.target}: give only OWNER')
    if args.onnx and not single:
        raise InputError('--onnx publishes one folder: give OWNER/NAME')
    if (args.calibrate and not args.onnx) or (args.check and not args.calibrate):
        raise InputError('--calibrate needs --onnx, and --check needs --calibrate: add it')
    if args.dry_run:
        check_options(args.revision, args.create_pr)
        _show_packages({args.folders[0]: args.target} if single else repo_ids(args.folders, args.target), args)
        return 0
    if single:
        upload = push_to_hub(args.folders[0], args.target, **options)
        print(f'{upload.folder}: {upload.result}, {upload.detail}')
        if args.onnx:
            del options['description']
            upload = push_onnx(args.folders[0], args.target, calibrate=args.calibrate, check=args.check, **options)
            print(f'{upload.folder}: {upload.result}, {upload.detail}')
        return 0
    uploads = push_folders(args.folders, args.target, **options)
    print_rows(
        [{'folder': str(u.folder), 'repository': u.repo_id, 'result': u.result, 'detail': u.detail} for u in uploads]
    )
    return int(any(upload.result == 'failed' for upload in uploads))


def _show_packages(repo_ids: dict[Any, str], args: argparse.Namespace) -> None:
    """Print the files and the card that would be sent for each folder."""
    from hashlib import sha256

    from resnet_hub.hub.package import prepare

    for folder, repo_id in repo_ids.items():
        packages = [prepare(folder, repo_id, license=args.license, description=args.description)]
        if args.onnx:
            from resnet_hub.hub.onnx import prepare_onnx

            packages.append(prepare_onnx(packages[0], args.calibrate, args.check))
        for package in packages:
            rows = [{'file': k, 'bytes': len(v), 'sha256': sha256(v).hexdigest()} for k, v in package.files.items()]
            print(f'{folder} to {package.repo_id}')
            print_rows(rows)
            print(f'\n{package.card}')
