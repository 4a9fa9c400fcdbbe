"""The command line. Commands are defined once, here; what they need is imported when they run."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .errors import InputError, ResnetHubError


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
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    from . import __version__

    parser = argparse.ArgumentParser('resnet-hub', description='CIFAR-style ResNets for timm and torch.hub.')
    parser.add_argument('--version', action='version', version=f'resnet-hub {__version__}')
    commands = parser.add_subparsers(dest='command', required=True, metavar='COMMAND')
    for add in (_add_list, _add_predict, _add_evaluate, _add_train, _add_convert, _add_upload, _add_download):
        add(commands)
    return parser


def _add_command(
    commands: Any, name: str, run: Callable[[argparse.Namespace], int | None], summary: str, examples: Sequence[str]
) -> argparse.ArgumentParser:
    command = commands.add_parser(
        name,
        help=summary,
        description=summary[0].upper() + summary[1:] + '.',
        epilog='examples:\n' + '\n'.join(f'  resnet-hub {example}' for example in examples),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.set_defaults(run=run)
    return command


def _add_device(command: argparse.ArgumentParser) -> None:
    command.add_argument('--device', help='cpu, cuda, …; default: a GPU where there is one')


#: how the columns of tables are written
_FORMATS = {
    'parameters': ',',
    'images': ',',
    'top1': '.2f',
    'top5': '.2f',
    'accuracy': '.2f',
    'ece': '.2f',
    'nll': '.4f',
    'images_per_second': ',.0f',
}


def _print_rows(rows: Sequence[dict[str, Any]], as_json: bool) -> None:
    """A table, text to the left and numbers to the right; or JSON."""
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    lines = [
        [*rows[0]],
        *(
            ['-' if value is None else format(value, _FORMATS.get(key, '')) for key, value in row.items()]
            for row in rows
        ),
    ]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    signs = ['<' if isinstance(value, str) else '>' for value in rows[0].values()]
    for line in lines:
        cells = (f'{cell:{sign}{width}}' for cell, sign, width in zip(line, signs, widths, strict=True))
        print('  '.join(cells).rstrip())


def _print_folder(folder: Path) -> None:
    print(f'{folder}: load it by timm.create_model({f"local-dir:{folder}"!r}, pretrained=True)')


def _add_list(commands: Any) -> None:
    command = _add_command(
        commands,
        'list',
        _list,
        'show the architectures, or the pretrained weights',
        ['list', "list 'preact*'", 'list --pretrained', 'list --pretrained --verify'],
    )
    command.add_argument('filter', nargs='?', default='*', help='a shell pattern of names')
    command.add_argument('--pretrained', action='store_true', help='the weights, with their accuracy')
    command.add_argument('--verify', action='store_true', help='with --pretrained: compare the digests of the files')
    command.add_argument('--json', action='store_true', help='for programs')


def _list(args: argparse.Namespace) -> None:
    from fnmatch import fnmatch

    from .models import ARCHITECTURES
    from .weights.catalog import WEIGHTS, tags

    rows: list[dict[str, Any]] = []
    for name, (_, row) in ARCHITECTURES.items():
        if not args.pretrained and fnmatch(name, args.filter):
            shape = {
                'block': row.block,
                'layers': ' '.join(map(str, row.layers)),
                'widths': ' '.join(map(str, row.widths)),
            }
            rows.append(
                {'architecture': name, **shape, 'parameters': row.params, 'weights': ' '.join(tags(name)) or '-'}
            )
        for weights in (f'{name}.{tag}' for tag in tags(name)):
            if args.pretrained and (fnmatch(weights, args.filter) or fnmatch(name, args.filter)):
                w = WEIGHTS[weights]
                figures = {'parameters': row.params, 'top1': w.top1, 'top5': w.top5, 'nll': w.nll}
                origin = {'license': w.publisher.license, 'publisher': w.publisher.name}
                verified = {'file': _verify(weights)} if args.verify else {}
                rows.append({'weights': weights, 'dataset': w.dataset, **figures, **origin, **verified})
    if not rows:
        raise InputError(f'nothing is called {args.filter!r}; resnet-hub list shows all there is')
    _print_rows(rows, args.json)


def _verify(name: str) -> str:
    from .weights.catalog import WEIGHTS
    from .weights.fetch import check_digest, find

    row, path = WEIGHTS[name], find(name)
    if row.url and not path.is_file():
        return 'not here'
    if row.url and not row.repo_id:
        return 'verified when it came'  # what is here was converted
    check_digest(name, row, path)
    return 'verified'


def _add_predict(commands: Any) -> None:
    command = _add_command(
        commands,
        'predict',
        _predict,
        'tell what is on pictures',
        ['predict photo.jpg', 'predict photos/ --topk 1', 'predict a.png b.png --model hf-hub:OWNER/NAME --json'],
    )
    command.add_argument('images', nargs='+', metavar='IMAGE', help='image files, or folders of them')
    command.add_argument('--model', default='cifar_resnet20.cifar10', help='any model with weights (%(default)s)')
    command.add_argument('--topk', type=int, default=5, metavar='K', help='classes to show (%(default)s)')
    command.add_argument('--batch-size', type=int, default=256, metavar='N', help='images at a time (%(default)s)')
    command.add_argument('--json', action='store_true', help='for programs')
    _add_device(command)


def _predict(args: argparse.Namespace) -> int:
    if args.topk < 1 or args.batch_size < 1:
        raise InputError('--topk and --batch-size must be at least 1')
    from tqdm.auto import tqdm

    from .prediction import find_images, predict
    from .registry import load_model

    paths = find_images(args.images)
    model = load_model(args.model, args.device)
    failed, answers = 0, []
    bar = tqdm(
        predict(model, paths, args.topk, args.batch_size), 'predict', len(paths), leave=False, delay=1, disable=None
    )
    for prediction in bar:
        if prediction.error:
            failed += 1
            tqdm.write(f'resnet-hub predict: {prediction.error}', file=sys.stderr)
        elif not args.json:
            width = max(len(name) for name, _ in prediction.classes)
            lines = (f'  {name:<{width}}  {100 * p:5.1f} %' for name, p in prediction.classes)
            tqdm.write('\n'.join([str(prediction.path), *lines]), file=sys.stdout)
        answers.append(prediction)
    if args.json:
        print(json.dumps([_answer(*prediction) for prediction in answers], indent=2))
    return 2 if failed else 0


def _answer(path: Any, classes: list[tuple[str, float]], error: str | None) -> dict[str, Any]:
    if error:
        return {'image': str(path), 'error': error}
    return {'image': str(path), 'classes': [{'label': name, 'probability': p} for name, p in classes]}


def _add_evaluate(commands: Any) -> None:
    command = _add_command(
        commands,
        'evaluate',
        _evaluate,
        'measure the accuracy, calibration and speed of models on labelled images',
        [
            'evaluate cifar_resnet20.cifar10 --data cifar10/ --per-class --confusion resnet20.png',
            'evaluate local-dir:runs/mine hf-hub:OWNER/NAME --json',
        ],
    )
    command.add_argument('models', nargs='+', metavar='MODEL', help='any model with weights')
    command.add_argument('--data', metavar='DIR', help='folder with test-*.parquet; default: from the Hub')
    command.add_argument('--dataset', help='cifar10, cifar100 or svhn; default: what the model was trained on')
    command.add_argument('--split', default='test', choices=('test', 'train'), help='(%(default)s)')
    command.add_argument('--batch-size', type=int, default=500, metavar='N', help='(%(default)s)')
    command.add_argument('--bf16', action='store_true', help='bfloat16 autocast; default: float32')
    command.add_argument('--per-class', action='store_true', help='show the accuracy by class')
    command.add_argument(
        '--confusion', metavar='PATH', help='draw the confusion matrix: FILE.png, or a folder for a picture a model'
    )
    command.add_argument('--append', metavar='FILE', help='add a line for each model to a CSV file')
    command.add_argument('--json', action='store_true', help='for programs; with accuracy by class, confusion matrix')
    _add_device(command)


def _evaluate(args: argparse.Namespace) -> None:
    from .data import load_images
    from .datasets import DATASETS
    from .distributed import first_goes_first, is_first, process_group
    from .evaluation import evaluate, log_evaluation, transform_for

    if args.batch_size < 1:
        raise InputError('--batch-size must be at least 1')
    if args.bf16 and args.append:
        raise InputError('--append keeps figures of float32: leave out --bf16')
    pictures = _confusion_files(args.confusion, args.models) if args.confusion else {}
    if pictures:
        from .plots import plot_confusion
    rows = []
    with process_group(args.device) as device:
        with first_goes_first():
            models = {name: _load_to_evaluate(name, args.dataset, str(device)) for name in args.models}
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
            _print_evaluations(rows, args.json, args.per_class)


def _load_to_evaluate(name: str, dataset: str | None, device: str) -> tuple[Any, str]:
    """A model, and the data set to measure it on; one that does not fit is refused before it is downloaded."""
    import timm

    from .evaluation import dataset_of
    from .registry import load_model

    if timm.is_model_pretrained(name):
        with _about(name):
            dataset_of(timm.get_pretrained_cfg(name).to_dict(), dataset)
    model: Any = load_model(name, device)
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


def _print_evaluations(rows: Sequence[dict[str, Any]], as_json: bool, per_class: bool) -> None:
    """All of it as JSON; as tables a line for each model and, where wanted, one for each of its classes."""
    if as_json:
        _print_rows(rows, as_json)
        return
    _print_rows([{k: v for k, v in row.items() if k not in ('per_class', 'confusion')} for row in rows], as_json)
    for row in rows if per_class else ():
        accuracy, counts = row['per_class'], map(sum, row['confusion'])
        print(f'\n{row["model"]}')
        _print_rows(
            [{'class': c, 'images': n, 'accuracy': accuracy[c]} for c, n in zip(accuracy, counts, strict=True)], as_json
        )


def _add_train(commands: Any) -> None:
    from .recipe import Recipe, fields

    command = _add_command(
        commands,
        'train',
        _train,
        'train a network, into a folder for local-dir:',
        [
            'train --recipe cifar_resnet20.cifar10 --data cifar10/ -o runs/resnet20',
            'train --model preact_resnet20 --epochs 60 --holdout 5000 -o runs/mine',
            'train -o runs/mine --recipe runs/mine/recipe.toml --resume',
        ],
    )
    command.add_argument('-o', '--output', required=True, metavar='DIR', help='weights, curves and checkpoint go here')
    command.add_argument('--data', metavar='DIR', help='folder with train-*.parquet; default: from the Hub')
    command.add_argument(
        '--recipe', help='a TOML file, or the name of one in resnet_hub/weights, such as cifar_resnet20.cifar10'
    )
    command.add_argument('--resume', action='store_true', help='go on with the run in DIR')
    command.add_argument('--compile', action='store_true', help='torch.compile: faster steps, a slower start')
    command.add_argument('--bf16', action=argparse.BooleanOptionalAction, help='default: where the hardware has it')
    _add_device(command)
    options = command.add_argument_group('recipe', 'each of these wins over the recipe file')
    for field in fields(Recipe):
        kind: Any = type(field.default)
        how = (
            {'action': argparse.BooleanOptionalAction}
            if kind is bool
            else {'type': kind, 'metavar': kind.__name__.upper()}
        )
        options.add_argument(
            f'--{field.name.replace("_", "-")}', help=f'{field.metadata["help"]} ({field.default})', **how
        )


def _train(args: argparse.Namespace) -> None:
    import logging

    from .distributed import is_first, process_group
    from .recipe import Recipe, fields
    from .training import train

    given = {f.name: getattr(args, f.name) for f in fields(Recipe) if getattr(args, f.name) is not None}
    recipe = Recipe.from_file(_recipe_path(args), **given)
    logging.basicConfig(format='%(message)s', stream=sys.stderr)
    logging.getLogger('resnet_hub').setLevel(logging.INFO)
    with process_group(args.device) as device:
        folder = train(recipe, args.output, args.data, args.resume, str(device), args.compile, args.bf16)
        if is_first():
            _print_folder(folder)


def _recipe_path(args: argparse.Namespace) -> Path | None:
    """A file, or one of the recipes that come with the package; a run that is resumed has its own."""
    from .weights.catalog import recipe_file

    if not args.recipe:
        return Path(args.output) / 'recipe.toml' if args.resume else None
    named = recipe_file(args.recipe)
    return named if named.is_file() else Path(args.recipe)


def _add_convert(commands: Any) -> None:
    command = _add_command(
        commands,
        'convert',
        _convert,
        "turn anyone's checkpoint into safetensors and config.json",
        [
            'convert resnet20.th -o resnet20/ --mean 0.485 0.456 0.406 --std 0.229 0.224 0.225',
            'convert hf-hub:OWNER/NAME -o net/ --dataset cifar100 --check cifar100/',
            'convert cifar_resnet20.cifar10 -o resnet20.pth --to kuangliu',
        ],
    )
    command.add_argument('source', help='a file, a URL, hf-hub:OWNER/NAME, or the name of pretrained weights')
    command.add_argument('-o', '--output', required=True, metavar='DIR', help='a new folder; with --to, a file')
    command.add_argument('--mean', type=float, nargs='+', metavar='X', help='of the pixels, from 0 to 1')
    command.add_argument('--std', type=float, nargs='+', metavar='X')
    command.add_argument('--dataset', help='cifar10, cifar100 or svhn: normalisation and class names')
    command.add_argument('--labels', metavar='FILE', help='names of the classes, one a line')
    command.add_argument('--key', metavar='NAME', help='which network, where the file holds several')
    command.add_argument('--check', metavar='DATA', help='measure the result on test-*.parquet; refuse one near chance')
    command.add_argument(
        '--to', metavar='LAYOUT', help='write the keys of another code base; any unknown name lists them'
    )
    command.add_argument('--force', action='store_true', help='replace the output')
    command.add_argument('--json', action='store_true', help='for programs')


def _convert(args: argparse.Namespace) -> None:
    from dataclasses import asdict

    from .checkpoints.convert import convert_checkpoint

    options = {k: getattr(args, k) for k in ('dataset', 'mean', 'std', 'labels', 'key', 'check', 'force', 'to')}
    result = convert_checkpoint(args.source, args.output, **options)
    if args.json:
        print(
            json.dumps(
                {**asdict(result), 'path': str(result.path), 'metrics': result.metrics and result.metrics.to_dict()},
                indent=2,
            )
        )
        return
    print(f'{result.path}: {result.architecture}, {result.num_classes} classes, read as {result.layout}')
    for name, value in result.model_args.items():
        print(f'  {name}: {value}')
    for assumption in result.assumptions:
        print(f'  assumed: {assumption}')
    for name, reason in result.dropped.items():
        print(f'  dropped: {name}, {reason}')
    if result.metrics:
        print(f'  top-1 {result.metrics.top1:.2f} % on {result.metrics.images:,} test images')


def _add_upload(commands: Any) -> None:
    command = _add_command(
        commands,
        'upload',
        _upload,
        'publish model folders on the Hugging Face Hub',
        [
            'upload runs/resnet20 OWNER/NAME',
            'upload runs/a runs/b OWNER --private',
            'upload runs/resnet20 OWNER/NAME --dry-run',
        ],
    )
    command.add_argument('folders', nargs='+', metavar='DIR', help='of `resnet-hub train` or `resnet-hub convert`')
    command.add_argument('target', metavar='OWNER[/NAME]', help='with OWNER alone, folders give the names')
    command.add_argument('--private', action='store_true', help='create a private repository')
    command.add_argument(
        '--revision', metavar='BRANCH', help='commit to this branch, created if need be; default: main'
    )
    command.add_argument('--create-pr', action='store_true', help='open a pull request')
    command.add_argument('--message', help='of the commit')
    command.add_argument('--license', metavar='SPDX', help='of the weights; default: what is known of them')
    command.add_argument('--description', metavar='TEXT', help='Markdown for the beginning of the model card')
    command.add_argument('--dry-run', action='store_true', help='show the files and the card; no request is made')


def _upload(args: argparse.Namespace) -> int:
    from .hub.upload import check_options, push_folders, push_to_hub, repo_ids

    options = {k: getattr(args, k) for k in ('private', 'revision', 'create_pr', 'message', 'license', 'description')}
    single = '/' in args.target
    if single and len(args.folders) > 1:
        raise InputError(f'{len(args.folders)} folders cannot all be {args.target}: give OWNER alone')
    if args.dry_run:
        check_options(args.revision, args.create_pr)
        _show_packages({args.folders[0]: args.target} if single else repo_ids(args.folders, args.target), args)
        return 0
    if single:
        upload = push_to_hub(args.folders[0], args.target, **options)
        print(f'{upload.folder}: {upload.result}, {upload.detail}')
        return 0
    uploads = push_folders(args.folders, args.target, **options)
    _print_rows(
        [{'folder': str(u.folder), 'repository': u.repo_id, 'result': u.result, 'detail': u.detail} for u in uploads],
        as_json=False,
    )
    return int(any(upload.result == 'failed' for upload in uploads))


def _show_packages(repo_ids: dict[Any, str], args: argparse.Namespace) -> None:
    """The very files and card of each folder."""
    from hashlib import sha256

    from .hub.upload import prepare

    for folder, repo_id in repo_ids.items():
        package = prepare(folder, repo_id, license=args.license, description=args.description)
        rows = [{'file': k, 'bytes': len(v), 'sha256': sha256(v).hexdigest()} for k, v in package.files.items()]
        print(f'{folder} to {repo_id}')
        _print_rows(rows, as_json=False)
        print(f'\n{package.card}')


def _add_download(commands: Any) -> None:
    command = _add_command(
        commands,
        'download',
        _download,
        'fetch and verify a model from the Hugging Face Hub',
        ['download OWNER/NAME -o resnet20', 'download OWNER/NAME --revision v1'],
    )
    command.add_argument('repository', metavar='OWNER/NAME')
    command.add_argument('-o', '--output', metavar='DIR', help='a new folder; default: the cache of huggingface_hub')
    command.add_argument('--revision', help='branch, tag or commit; default: main')


def _download(args: argparse.Namespace) -> None:
    from .hub.download import download

    folder = download(args.repository, args.output, revision=args.revision)
    _print_folder(folder)
