"""`resnet-hub evaluate`: accuracy, calibration and speed, of one or many models."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from resnet_hub.cli.command import add_backend, add_command, add_device
from resnet_hub.cli.output import print_json, print_rows
from resnet_hub.utils.errors import InputError, ResnetHubError


def add(commands: Any) -> None:
    command = add_command(
        commands,
        'evaluate',
        _run,
        'measure the accuracy, calibration and speed of models on labelled images',
        [
            'evaluate cifar_resnet20.cifar10 --data cifar10/ --per-class --confusion resnet20.png',
            'evaluate local-dir:runs/mine hf-hub:OWNER/NAME --json',
        ],
    )
    command.add_argument(
        'models', nargs='+', metavar='MODEL', help='a classifier of these data sets with weights, or an exported file'
    )
    command.add_argument('--data', metavar='DIR', help='folder with test-*.parquet; default: from the Hub')
    command.add_argument('--dataset', help='cifar10, cifar100 or svhn; default: by its classes, their names or number')
    command.add_argument('--split', default='test', choices=('test', 'train'), help='(%(default)s)')
    command.add_argument('--batch-size', type=int, default=500, metavar='N', help='(%(default)s)')
    command.add_argument('--bf16', action='store_true', help='bfloat16 autocast; default: float32')
    command.add_argument('--per-class', action='store_true', help='show the accuracy by class')
    command.add_argument(
        '--confusion', metavar='PATH', help='draw the confusion matrix: FILE.png, or a folder for a picture a model'
    )
    command.add_argument('--append', metavar='FILE', help='add a line for each model to a CSV file')
    command.add_argument('--json', action='store_true', help='for programs; with accuracy by class, confusion matrix')
    add_backend(command)
    add_device(command)


def _run(args: argparse.Namespace) -> None:
    from resnet_hub.data.sources import load_images
    from resnet_hub.inference.evaluate import evaluate, log_evaluation, transform_for
    from resnet_hub.tables.datasets import DATASETS
    from resnet_hub.utils.distributed import first_goes_first, is_first, process_group

    if args.batch_size < 1:
        raise InputError('--batch-size must be at least 1')
    if args.bf16 and args.append:
        raise InputError('--append keeps figures of float32: leave out --bf16')
    pictures = _confusion_files(args.confusion, args.models) if args.confusion else {}
    if pictures:
        from resnet_hub.utils.plots import plot_confusion
    rows = []
    with process_group(args.device) as device:
        with first_goes_first():
            models = {name: _load_to_evaluate(name, args.dataset, str(device), args.backend) for name in args.models}
            images = {name: load_images(name, args.split, args.data) for name in {name for _, name in models.values()}}
        for name, (model, dataset) in models.items():
            options = {'bf16': args.bf16, 'transform': transform_for(model, images[dataset])}
            mean, std = (model.pretrained_cfg[key] for key in ('mean', 'std'))
            with _about(name):
                metrics = evaluate(model, images[dataset], mean, std, args.batch_size, **options)
            classes = DATASETS[dataset].classes
            rows.append(
                {
                    'model': name,
                    'dataset': dataset,
                    'split': args.split,
                    **metrics.to_dict(),
                    'images_per_second': metrics.images_per_second,
                    'precision': 'bf16' if args.bf16 else 'float32',
                    'per_class': dict(zip(classes, metrics.per_class, strict=True)),
                    'confusion': metrics.confusion,
                }
            )
            if args.append and is_first():
                log_evaluation(args.append, rows[-1], model)
            if pictures and is_first():
                title = f'{name} on {dataset} ({args.split}): top-1 {metrics.top1:.2f} %'
                plot_confusion(metrics.confusion, classes, pictures[name], title)
        if is_first():
            if args.json:
                print_json(rows)
            else:
                _print_tables(rows, args.per_class)


def _load_to_evaluate(name: str, dataset: str | None, device: str, backend: str | None = None) -> tuple[Any, str]:
    """A model, and the data set to measure it on; one that does not fit is refused before it is downloaded."""
    import timm

    from resnet_hub.inference.evaluate import dataset_of
    from resnet_hub.registry import load_model

    if timm.is_model_pretrained(name):
        with _about(name):
            dataset_of(timm.get_pretrained_cfg(name).to_dict(), dataset)
    model: Any = load_model(name, device, backend)
    with _about(name):
        return model, dataset_of({**model.pretrained_cfg, 'num_classes': model.num_classes}, dataset)


@contextmanager
def _about(model: str) -> Iterator[None]:
    """An error in the block says which model it is about."""
    try:
        yield
    except ResnetHubError as error:
        error.args = (f'{model}: {error}',)
        raise


def _confusion_files(path: str, models: Sequence[str]) -> dict[str, Path]:
    """The picture of each model: `path` itself where it is one of a PNG, else a file in the folder `path`."""
    target = Path(path)
    if target.suffix.lower() != '.png' and not target.is_file():
        return {model: target / f'{re.sub(r"[^a-zA-Z0-9_.-]+", "_", model)}.png' for model in models}
    if target.suffix.lower() == '.png' and len({*models}) == 1:
        return {models[0]: target}
    raise InputError(f'--confusion takes FILE.png for one model, a folder for several, not {path}')


def _print_tables(rows: Sequence[dict[str, Any]], per_class: bool) -> None:
    """A line for each model and, where wanted, one for each of its classes."""
    print_rows([{k: v for k, v in row.items() if k not in ('per_class', 'confusion')} for row in rows])
    for row in rows if per_class else ():
        accuracy, counts = row['per_class'], map(sum, row['confusion'])
        print(f'\n{row["model"]}')
        print_rows([{'class': c, 'images': n, 'accuracy': accuracy[c]} for c, n in zip(accuracy, counts, strict=True)])
