"""`resnet-hub predict`: classify images."""

from __future__ import annotations

import argparse
import io
import sys
from pathlib import Path
from typing import Any

from resnet_hub.cli.command import add_backend, add_command, add_device
from resnet_hub.cli.output import print_json
from resnet_hub.utils.errors import InputError


def add(commands: Any) -> None:
    command = add_command(
        commands,
        'predict',
        _run,
        'classify images with a pretrained network',
        [
            'predict photo.jpg',
            'predict photos/ --topk 1',
            'predict a.png b.png --model hf-hub:OWNER/NAME --json',
            'predict - < photo.jpg',
        ],
    )
    command.add_argument(
        'images', nargs='+', metavar='IMAGE', help='image files, or folders of them; - reads one from standard input'
    )
    command.add_argument(
        '--model',
        default='cifar_resnet20.cifar10',
        help='any model with weights, or an exported file (default: %(default)s)',
    )
    command.add_argument(
        '--topk', type=int, default=5, metavar='K', help='number of classes to show (default: %(default)s)'
    )
    command.add_argument(
        '--batch-size', type=int, default=256, metavar='N', help='images per batch (default: %(default)s)'
    )
    command.add_argument('--json', action='store_true', help='print JSON, for programs')
    add_backend(command)
    add_device(command)


def _run(args: argparse.Namespace) -> int:
    if args.topk < 1 or args.batch_size < 1:
        raise InputError('--topk and --batch-size must be at least 1')
    from tqdm.auto import tqdm

    from resnet_hub.data.decode import find_images
    from resnet_hub.inference.predict import predict
    from resnet_hub.registry.loading import load_model

    images: list[Any] = []
    for path in args.images:
        if _is_model(path):
            raise InputError(f'{path} is a model, not an image: write --model {path}')
        images += [_standard_input()] if path == '-' else find_images([path])
    model = load_model(args.model, args.device, args.backend)
    failed, answers = 0, []
    found = predict(model, images, args.topk, args.batch_size)
    for prediction in tqdm(found, 'predict', len(images), leave=False, delay=1, disable=None):
        if prediction.error:
            failed += 1
            tqdm.write(f'resnet-hub predict: {prediction.error}', file=sys.stderr)
        elif not args.json:
            width = max(len(name) for name, _ in prediction.classes)
            lines = (f'  {name:<{width}}  {100 * p:5.1f} %' for name, p in prediction.classes)
            tqdm.write('\n'.join([str(prediction.path), *lines]), file=sys.stdout)
        answers.append(prediction)
    if args.json:
        print_json([prediction.to_dict() for prediction in answers])
    return 2 if failed else 0


def _is_model(text: str) -> bool:
    from resnet_hub.runtimes.formats import format_of
    from resnet_hub.tables.architectures import ARCHITECTURES

    is_name = text.startswith(('local-dir:', 'hf-hub:')) or text.partition('.')[0] in ARCHITECTURES
    return bool(format_of(text)) or (is_name and not Path(text).exists())


def _standard_input() -> io.BytesIO:
    file = io.BytesIO(sys.stdin.buffer.read())
    file.name = '-'
    return file
