"""A training recipe: all options that determine the trained weights, apart from rounding."""

from __future__ import annotations

import ast
import json
import math
import re
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from resnet_hub.utils.errors import InputError, did_you_mean

__all__ = ['FINE_TUNING', 'Recipe', 'fields']

_SIZES = re.compile(r'((8|9|[1-9]\d+):[1-9]\d*( |$))*')

#: other defaults for recipes that start from trained weights (`init`)
FINE_TUNING = {'epochs': 20, 'warmup_epochs': 1, 'lr': 0.02}


def _option(group: str, default: Any, help: str, choices: tuple[str, ...] = ()) -> Any:
    return field(default=default, metadata={'help': help, 'group': group, 'choices': choices})


@dataclass(frozen=True)
class Recipe:
    """The options of a training run: the fields of a recipe file (TOML), and the options of `resnet-hub train`.

    `resnet-hub train --help` explains each field.

    Raises:
        InputError: a field has an impossible value, or fields contradict each other.
    """

    model: str = _option('network', 'cifar_resnet20', 'architecture, see resnet-hub list')
    model_args: str = _option(
        'network', '', "further arguments of the architecture, such as 'final_norm=True' or 'shortcut_type=A'"
    )
    init: str = _option(
        'network', '', "trained model to start from, such as cifar_resnet18.cifar10; '' starts from random weights"
    )
    trainable: str = _option(
        'network', 'all', 'what is trained: all layers, or the classifier alone', ('all', 'classifier')
    )
    drop_path_rate: float = _option('network', 0.0, 'stochastic depth: probability of skipping the last block')
    conv_drop_rate: float = _option(
        'network',
        0.0,
        'dropout rate between the convolutions of a block; only for PreActResNets and wide residual nets',
    )

    dataset: str = _option(
        'images', '', "cifar10, cifar100 or svhn; '' takes the classes of --data, or cifar10 without --data"
    )
    size: int = _option(
        'images', 0, 'resize all images to this height and width; 0 keeps square images of up to 64 pixels, else 32'
    )
    channels: int = _option('images', 3, '3 reads the images as RGB, 1 as grey')
    holdout: int = _option(
        'images', 0, 'number of training images that are not trained on; the accuracy on them helps to choose options'
    )
    class_weights: str = _option(
        'images', 'none', 'balanced: the rarer a class, the more its images count', ('none', 'balanced')
    )

    epochs: int = _option('schedule', 40, 'passes over the training images')
    batch_size: int = _option('schedule', 128, 'images per step')
    image_sizes: str = _option(
        'schedule',
        '',
        "small images first: '16:8 24:4' trains 8 epochs at 16×16 pixels, 4 at 24×24, and the rest at full size",
    )
    warmup_epochs: int = _option(
        'schedule', 2, 'epochs in which the learning rate rises, fewer than --epochs; it then falls as a cosine'
    )
    seed: int = _option('schedule', 0, 'seed of the random weights, the order of images, and the augmentation')

    opt: str = _option('optimizer', 'sgd', 'any first-order optimizer of timm; sgd has Nesterov momentum')
    lr: float = _option('optimizer', 0.2, 'highest learning rate')
    layer_decay: float = _option('optimizer', 1.0, 'each layer has the learning rate of the next layer times this')
    momentum: float = _option('optimizer', 0.9, 'momentum of the optimizer')
    weight_decay: float = _option('optimizer', 5e-4, 'weight decay, of all weights except norms and biases')
    clip_grad: float = _option('optimizer', 0.0, 'largest norm of the gradient; 0 sets no limit')
    ema_decay: float = _option(
        'optimizer', 0.0, 'the result is a moving average of the weights with this decay; 0 gives the last weights'
    )
    label_smoothing: float = _option('optimizer', 0.0, 'part of each target that is spread over all classes')

    crop: int = _option('augmentation', 4, 'pixels of padding before the random crop')
    padding: str = _option('augmentation', 'reflect', 'what fills the padding', ('reflect', 'zeros'))
    flip: str = _option(
        'augmentation',
        'random',
        'mirror images at random, each in every other epoch, or not at all',
        ('random', 'alternating', 'none'),
    )
    cutout: int = _option('augmentation', 0, 'side of the square that is erased in each image, in pixels')
    mixup: float = _option(
        'augmentation', 0.0, 'alpha of mixup; 0 for none; with mixup and cutmix, each batch gets one of them'
    )
    cutmix: float = _option('augmentation', 0.0, 'alpha of cutmix; 0 for none')

    teacher: str = _option(
        'distillation', '', "model whose answers are learnt too, such as cifar_resnet56.chenyaofo_cifar10; '' for none"
    )
    distillation: float = _option('distillation', 0.9, "part of the loss that compares with the teacher's answers")
    temperature: float = _option('distillation', 4.0, 'divides the logits of both networks before they are compared')

    def __post_init__(self) -> None:
        for f in fields(self):
            _check_type(f.name, getattr(self, f.name), type(f.default))
        for name, (rule, holds) in _RULES.items():
            value = getattr(self, name)
            if not (holds(value) and math.isfinite(value) if isinstance(value, int | float) else holds(value)):
                raise InputError(f'{name} must be {rule}, not {value!r}')
        for f in fields(self):
            choices, value = f.metadata['choices'], getattr(self, f.name)
            if choices and value not in choices:
                shown = ', '.join(map(repr, choices))
                raise InputError(f'{f.name} must be one of {shown}, not {value!r}{did_you_mean(value, choices)}')
        too_short = []
        if self.warmup_epochs >= self.epochs:
            too_short.append(
                f'warmup_epochs must be less than that, not {self.warmup_epochs} (--warmup-epochs {self.epochs - 1})'
            )
        if self.image_size(self.epochs - 1) not in (None, self.size or 32):
            too_short.append(f"image_sizes {self.image_sizes!r} leaves no epoch at full size (--image-sizes '')")
        if too_short:
            raise InputError(f'epochs is {self.epochs}: {"; ".join(too_short)}')

    def arguments(self) -> dict[str, Any]:
        """Return `model_args` as keyword arguments. Values that are not Python literals are text.

        Raises:
            InputError: a part is not NAME=VALUE.
        """
        found = {}
        for part in self.model_args.split():
            name, sign, text = part.partition('=')
            if not (sign and name.isidentifier()):
                raise InputError(f"model_args must be like 'final_norm=True shortcut_type=A', not {self.model_args!r}")
            try:
                found[name] = ast.literal_eval(text)
            except (ValueError, SyntaxError):
                found[name] = text
        return found

    def image_size(self, epoch: int) -> int | None:
        """Return the height and width of the images in an epoch, counted from 0; None means full size."""
        for phase in self.image_sizes.split():
            size, epochs = map(int, phase.split(':'))
            if epoch < epochs:
                return size
            epoch -= epochs
        return None

    @classmethod
    def from_file(cls, path: str | Path | None, **overrides: Any) -> Recipe:
        """Read a recipe from a TOML file.

        Args:
            path: the file; None takes the default of every field.
            **overrides: fields that replace those of the file or the defaults.

        Raises:
            InputError: there is no such file, it is not TOML, or a field is unknown or has a wrong value or type.
        """
        values = {**(_read(path) if path is not None else {}), **overrides}
        known = {field.name: type(field.default) for field in fields(cls)}
        source = f'{path}: ' if path is not None else ''
        for name, value in values.items():
            if name not in known:
                near = did_you_mean(name, known) or f'; a recipe has {", ".join(known)}'
                raise InputError(f'{source}unknown field {name!r}{near}')
            _check_type(f'{source}{name}', value, known[name])
            if known[name] is float:
                values[name] = float(value)
        defaults = {field.name: field.default for field in fields(cls)} | (FINE_TUNING if values.get('init') else {})
        complete = {**defaults, **values}
        if 'warmup_epochs' not in values:  # a very short run warms up for fewer epochs
            complete['warmup_epochs'] = max(min(complete['warmup_epochs'], complete['epochs'] - 1), 0)
        return cls(**complete)

    def to_toml(self) -> str:
        """Return all fields as TOML."""
        return ''.join(f'{name} = {json.dumps(value)}\n' for name, value in asdict(self).items())


def _check_type(name: str, value: object, kind: type) -> None:
    kinds = (float, int) if kind is float else kind
    if isinstance(value, bool) or not isinstance(value, kinds):
        raise InputError(f'{name} must be {_TYPES[kind]}, not {value!r}')


_TYPES = {int: 'a whole number', float: 'a number', str: 'text in quotes'}
_RULES: dict[str, tuple[str, Callable[[Any], Any]]] = {
    'epochs': ('at least 1', lambda v: v >= 1),
    'batch_size': ('at least 2', lambda v: v >= 2),
    'lr': ('a finite number above 0', lambda v: v > 0),
    'layer_decay': ('above 0 and at most 1', lambda v: 0 < v <= 1),
    'warmup_epochs': ('at least 0', lambda v: v >= 0),
    'ema_decay': ('from 0 to below 1', lambda v: 0 <= v < 1),
    'label_smoothing': ('from 0 to below 1', lambda v: 0 <= v < 1),
    'drop_path_rate': ('from 0 to below 1', lambda v: 0 <= v < 1),
    'conv_drop_rate': ('from 0 to below 1', lambda v: 0 <= v < 1),
    'distillation': ('from 0 to 1', lambda v: 0 <= v <= 1),
    'temperature': ('a finite number above 0', lambda v: v > 0),
    'image_sizes': ("like '16:8 24:4', sides from 8 up with numbers of epochs", _SIZES.fullmatch),
    'clip_grad': ('a finite number from 0', lambda v: v >= 0),
    'mixup': ('a finite number from 0', lambda v: v >= 0),
    'cutmix': ('a finite number from 0', lambda v: v >= 0),
    'crop': ('from 0 to 31', lambda v: 0 <= v < 32),
    'cutout': ('at least 0', lambda v: v >= 0),
    'size': ('0 or at least 8', lambda v: v == 0 or v >= 8),
    'channels': ('3 or 1', lambda v: v in (1, 3)),
    'holdout': ('at least 0', lambda v: v >= 0),
    'seed': ('at least 0', lambda v: v >= 0),
    'momentum': ('from 0 to below 1', lambda v: 0 <= v < 1),
    'weight_decay': ('a finite number from 0', lambda v: v >= 0),
}


def _read(path: str | Path) -> dict[str, Any]:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        return tomllib.loads(Path(path).read_text(encoding='utf-8'))
    except OSError as error:
        raise InputError(f'the recipe {path} cannot be read: {error.strerror}; check the path') from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f'{path} is not TOML: {error}; correct it, or give another recipe') from error
