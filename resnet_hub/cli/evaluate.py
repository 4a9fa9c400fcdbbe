"""`resnet-hub evaluate`: accuracy, calibration, speed, robustness and out-of-distribution scores of models."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from resnet_hub.cli.command import add_backend, add_command, add_device, add_models
from resnet_hub.cli.evaluation_tables import print_corruptions, print_metrics, print_ood, print_shift
from resnet_hub.cli.output import print_json
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
            'evaluate local-dir:runs/mine --data my_images/   # a folder of images for each class',
            'evaluate cifar_resnet20.cifar10 --data cifar10/ --ood cifar100/',
            'evaluate cifar_resnet20.cifar10 --data CIFAR-10-C/ --plot corruptions.png',
            'evaluate cifar_resnet20.cifar10 --data cifar10/ --shift',
            'evaluate local-dir:runs/mine --data cifar10/ --temperature   # after train --holdout 5000',
        ],
    )
    add_models(command, 'the name of a classifier with weights, or an exported file')
    command.add_argument(
        '--data',
        metavar='DATA',
        help='a folder with a folder of images for each class, parquet files, hf://datasets/OWNER/NAME, .npy with '
        'labels.npy beside it, .npz, the CIFAR or SVHN folders of torchvision, a list of images; or CIFAR-10-C; '
        'default: the data set of the classes, from the Hub',
    )
    command.add_argument('--dataset', help='cifar10, cifar100 or svhn; default: by the classes of the model')
    command.add_argument(
        '--split', default='test', choices=('test', 'val', 'train'), help='images to measure on (default: %(default)s)'
    )
    command.add_argument(
        '--batch-size', type=int, default=500, metavar='N', help='images per batch (default: %(default)s)'
    )
    command.add_argument('--bf16', action='store_true', help='bfloat16 autocast; default: float32')
    command.add_argument('--per-class', action='store_true', help='show the accuracy by class')
    command.add_argument(
        '--confusion', metavar='PATH', help='draw the confusion matrix: FILE.png, or a folder for a picture per model'
    )
    command.add_argument(
        '--ood',
        nargs='+',
        metavar='DATA',
        help='measure instead how well the model separates the images of --data from these, which need no labels',
    )
    command.add_argument(
        '--knn', action='store_true', help='with --ood: also score by the distance to the 50th nearest training image'
    )
    command.add_argument(
        '--shift',
        action='store_true',
        help='measure instead how much accuracy is lost if images are compressed, resized or wrongly normalised',
    )
    command.add_argument(
        '--plot', metavar='PATH', help='with CIFAR-10-C: draw the table: FILE.png, or a folder for a picture per model'
    )
    command.add_argument(
        '--temperature',
        action='store_true',
        help='for a run that was trained with --holdout: fit a temperature on the images that were held out, and divide '
        'the logits by it',
    )
    command.add_argument('--append', metavar='FILE', help='add a line for each model to a CSV file')
    command.add_argument(
        '--json', action='store_true', help='print JSON, with the accuracy by class and the confusion matrix'
    )
    add_backend(command)
    add_device(command)


def _run(args: argparse.Namespace) -> None:
    from resnet_hub.utils.distributed import is_first, process_group

    corrupted = _check(args)
    pictures = _picture_files(args.confusion or args.plot, args.models)
    if pictures:
        import resnet_hub.utils.plots  # noqa: F401 - so that a missing matplotlib is said now
    measure = (
        _measure_corruptions if corrupted else _measure_ood if args.ood else _measure_shift if args.shift else _measure
    )
    with process_group(args.device) as device:
        models = _Models(args, str(device), read=not corrupted)
        answers = []
        for name in args.models:
            with _about(name):
                answers.append({'model': name, **measure(args, models, name, pictures.get(name))})
        if is_first():
            if args.json:
                print_json(answers)
            else:
                _TABLES[measure](args, answers)


def _check(args: argparse.Namespace) -> bool:
    """Refuse options that do not go together. Return whether --data is a folder of corrupted images."""
    if args.batch_size < 1:
        raise InputError('--batch-size must be at least 1')
    if args.bf16 and args.append:
        raise InputError('--append keeps figures of float32: leave out --bf16')
    if args.knn and not args.ood:
        raise InputError('--knn is a score of out-of-distribution images: give them by --ood')
    corrupted = False
    if args.data and Path(args.data).is_dir():
        from resnet_hub.inference.corruptions import corruption_files

        corrupted = bool(corruption_files(args.data))
    if args.plot and not corrupted:
        raise InputError('--plot draws the table of corrupted images: give --data CIFAR-10-C/')
    modes = [name for name, given in (('--ood', args.ood), ('--shift', args.shift), ('CIFAR-10-C', corrupted)) if given]
    if len(modes) > 1:
        raise InputError(f'{" and ".join(modes)} are measured one at a time')
    if args.append and args.temperature:
        raise InputError('--append keeps figures of the network itself: leave out --temperature')
    unused = ('per_class', 'confusion', 'append', 'bf16', 'temperature') if modes else ()
    given = [f'--{name.replace("_", "-")}' for name in unused if getattr(args, name)]
    if given:
        raise InputError(f'{modes[0]} has other results: leave out {", ".join(given)}')
    return corrupted


class _Models:
    """Loads one model at a time, and reads the images of each data set once.

    Names that do not exist and images that do not fit are refused before anything is downloaded or measured.
    """

    def __init__(self, args: argparse.Namespace, device: str, read: bool) -> None:
        from resnet_hub.inference.evaluate import find_source
        from resnet_hub.registry.loading import check_name

        self.args, self.device = args, device
        self.read: dict[Any, Any] = {}
        for name in args.models:
            with _about(name):
                check_name(name)
        for name in args.models if read else ():
            with _about(name):
                cfg = _configuration(name)
                if cfg and args.data:
                    self.images(cfg)
                elif cfg:
                    find_source(cfg, None, args.dataset)

    def load(self, name: str) -> Any:
        from resnet_hub.registry.loading import load_model
        from resnet_hub.utils.distributed import first_goes_first

        with first_goes_first():
            return load_model(name, self.device, self.args.backend)

    def images(self, cfg: dict[str, Any], split: str | None = None) -> Any:
        """Return the images for a model whose `pretrained_cfg`, with the number of classes, is given."""
        from resnet_hub.data.sources import read_labelled
        from resnet_hub.inference.evaluate import find_source, match_labels
        from resnet_hub.utils.distributed import first_goes_first

        source, dataset = find_source(cfg, self.args.data, self.args.dataset)
        key = source, dataset, split or self.args.split
        if key not in self.read:
            with first_goes_first():
                images = read_labelled(source, key[2], dataset=dataset)
            self.read[key] = _keep(images) if len(self.args.models) > 1 else images
        names = tuple(cfg.get('label_names') or ())
        match_labels(self.read[key], names if len(names) == cfg['num_classes'] else (), cfg['num_classes'])
        return self.read[key]

    def images_for(self, model: Any, split: str | None = None) -> Any:
        return self.images({**model.pretrained_cfg, 'num_classes': model.num_classes}, split)


def _configuration(name: str) -> dict[str, Any] | None:
    """Return the `pretrained_cfg` of a model without loading it; None if that is not possible."""
    import timm

    from resnet_hub.runtimes.formats import format_of

    if format_of(name):
        return None
    if name.startswith('local-dir:'):
        from resnet_hub.weights.folder import check_folder

        folder = Path(name.removeprefix('local-dir:'))
        check_folder(folder)
        try:
            config = json.loads((folder / 'config.json').read_text(encoding='utf-8'))
        except (OSError, ValueError):  # which the loading of the model reports
            return None
        cfg = {**config, **config.get('pretrained_cfg', {})}
        return cfg if {'num_classes', 'input_size'} <= {*cfg} else None
    return timm.get_pretrained_cfg(name).to_dict() if timm.is_model_pretrained(name) else None


def _keep(images: Any) -> Any:
    """Decode images that several models get once, where they fit into a gigabyte and have one size."""
    width, height = images.open(0).size
    if len(images) * width * height * 3 > 2**30:
        return images
    try:
        return images.load()
    except InputError as error:
        if 'several sizes' not in str(error):
            raise
        return images


# ------------------------------------------------------------------------------------------------ what is measured


def _measure(args: argparse.Namespace, models: _Models, name: str, picture: Path | None) -> dict[str, Any]:
    from resnet_hub.inference.evaluate import evaluate, log_evaluation
    from resnet_hub.inference.transform import class_names
    from resnet_hub.runtimes.exported import ExportedNetwork
    from resnet_hub.utils.distributed import is_first

    model = models.load(name)
    precision = 'bf16' if args.bf16 else 'float32'
    if isinstance(model, ExportedNetwork):
        precision = 'int8' if model.metadata.get('int8') else 'float32'
        if args.bf16:
            raise InputError(f'an exported file computes in its own precision, here {precision}: leave out --bf16')
    images = models.images_for(model)
    temperature = _fit_temperature(args, models, name, model) if args.temperature else 1.0
    metrics = evaluate(model, images, batch_size=args.batch_size, bf16=args.bf16, temperature=temperature)
    count = len(metrics.confusion)
    classes = class_names(model, count) or images.classes or tuple(map(str, range(count)))
    row = {
        'dataset': images.name,
        'split': args.split,
        **metrics.to_dict(),
        **({'temperature': round(temperature, 4)} if args.temperature else {}),
        'images_per_second': metrics.images_per_second,
        'precision': precision,
        'per_class': dict(zip(classes, metrics.per_class, strict=True)),
        'confusion': metrics.confusion,
    }
    if args.append and is_first():
        log_evaluation(args.append, {'model': name, **row}, model)
    if picture and is_first():
        from resnet_hub.utils.plots import plot_confusion

        title = f'{name} on {images.name} ({args.split}): top-1 {metrics.top1:.2f} %'
        plot_confusion(metrics.confusion, classes, picture, title)
    return row


def _fit_temperature(args: argparse.Namespace, models: _Models, name: str, model: Any) -> float:
    """Fit a temperature on the training images that a run held out."""
    from resnet_hub.inference.evaluate import labels_for
    from resnet_hub.inference.logits import compute_outputs
    from resnet_hub.inference.temperature import fit_temperature
    from resnet_hub.training.task import split
    from resnet_hub.weights.folder import CONFIG_FILE

    file = Path(name.removeprefix('local-dir:')) / CONFIG_FILE
    config = json.loads(file.read_text(encoding='utf-8')) if name.startswith('local-dir:') else {}
    count = config.get('recipe', {}).get('holdout', 0)
    if not count:
        raise InputError(
            '--temperature needs images that the network was not trained on: train it with --holdout 5000, and give '
            'its folder as local-dir:RUN'
        )
    images = models.images_for(model, 'train')
    _, held_out = split(images.labels, count)
    images = images[held_out]
    logits = compute_outputs(model, images, batch_size=args.batch_size, bf16=args.bf16).logits
    return fit_temperature(logits, labels_for(model, images, logits.shape[1]))


def _measure_ood(args: argparse.Namespace, models: _Models, name: str, picture: Path | None) -> dict[str, Any]:
    from resnet_hub.inference.logits import as_images
    from resnet_hub.inference.ood import evaluate_ood

    key = ('ood', *args.ood)
    if key not in models.read:
        models.read[key] = [as_images(data, need_labels=False) for data in args.ood]
    model = models.load(name)
    train = models.images_for(model, 'train') if args.knn else None
    inside = models.images_for(model)
    return evaluate_ood(model, inside, models.read[key], train=train, batch_size=args.batch_size).to_dict()


def _measure_shift(args: argparse.Namespace, models: _Models, name: str, picture: Path | None) -> dict[str, Any]:
    from resnet_hub.inference.shift import evaluate_shift

    model = models.load(name)
    images = models.images_for(model)
    return {'dataset': images.name, **evaluate_shift(model, images, batch_size=args.batch_size).to_dict()}


def _measure_corruptions(args: argparse.Namespace, models: _Models, name: str, picture: Path | None) -> dict[str, Any]:
    from resnet_hub.inference.corruptions import evaluate_corruptions
    from resnet_hub.utils.distributed import is_first

    metrics = evaluate_corruptions(models.load(name), args.data, batch_size=args.batch_size)
    if picture and is_first():
        from resnet_hub.utils.plots import plot_corruptions

        plot_corruptions(metrics.top1, picture, f'{name} on {metrics.data}')
    return metrics.to_dict()


@contextmanager
def _about(model: str) -> Iterator[None]:
    """An error in the block says which model it is about."""
    try:
        yield
    except ResnetHubError as error:
        if not str(error).startswith(model):
            error.args = (f'{model}: {error}',)
        raise


_PICTURES = {'.png', '.jpg', '.jpeg', '.gif', '.webp', '.svg', '.pdf', '.eps'}


def _picture_files(path: str | None, models: Sequence[str]) -> dict[str, Path]:
    """Return the picture of each model: `path` itself where it is a PNG of one model, else a file in the folder `path`."""
    if not path:
        return {}
    target = Path(path)
    if target.suffix.lower() not in _PICTURES and not target.is_file():
        return {model: target / f'{re.sub(r"[^a-zA-Z0-9_.-]+", "_", model)}.png' for model in models}
    if target.suffix.lower() == '.png' and len({*models}) == 1:
        return {models[0]: target}
    raise InputError(f'--confusion and --plot take FILE.png for one model, a folder for several, not {path}')


_TABLES: dict[Callable[..., Any], Callable[[argparse.Namespace, Sequence[dict[str, Any]]], None]] = {
    _measure: print_metrics,
    _measure_ood: print_ood,
    _measure_shift: print_shift,
    _measure_corruptions: print_corruptions,
}
