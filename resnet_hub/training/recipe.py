"""A training recipe: everything that decides the weights, apart from the machine's rounding."""

from __future__ import annotations

import json
import math
import re
import sys
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from resnet_hub.utils.errors import InputError

__all__ = ['Recipe', 'fields']


_SIZES = re.compile(r'((8|9|[1-9]\d+):[1-9]\d*( |$))*')


def _option(default: Any, help: str) -> Any:
    return field(default=default, metadata={'help': help})


@dataclass(frozen=True)
class Recipe:
    """The fields of a recipe file (TOML) and the options of `resnet-hub train`, whose --help explains each."""

    model: str = _option('cifar_resnet20', 'an architecture of resnet-hub list')
    dataset: str = _option('cifar10', 'cifar10, cifar100 or svhn')
    epochs: int = _option(40, 'passes over the training images')
    batch_size: int = _option(128, 'images a step')
    image_sizes: str = _option(
        '', "'16:8 24:4': 8 epochs at 16×16 pixels, 4 at 24×24, the rest at full size, one at least"
    )
    opt: str = _option('sgd', "any first-order optimiser of timm's; sgd has Nesterov momentum")
    lr: float = _option(0.2, 'peak learning rate')
    momentum: float = _option(0.9, 'of the optimiser')
    weight_decay: float = _option(5e-4, 'not applied to norms and biases')
    warmup_epochs: int = _option(2, 'linear; then cosine to 0')
    clip_grad: float = _option(0.0, 'largest norm of the gradient; 0 for any')
    label_smoothing: float = _option(0.0, 'share of the target spread over all classes')
    ema_decay: float = _option(0.0, 'of the moving average of the weights, which is what is published; 0 for none')
    layer_decay: float = _option(1.0, 'factor from each layer to the one before it; 1 gives all layers one rate')
    drop_path_rate: float = _option(0.0, 'stochastic depth of the last block')
    crop: int = _option(4, 'pixels of padding before the random crop')
    padding: str = _option('reflect', 'reflect or zeros')
    flip: str = _option('random', 'random; alternating: each image mirrored in every other epoch; none')
    cutout: int = _option(0, 'side of the square cut out of a training image, in pixels')
    mixup: float = _option(0.0, 'alpha of mixup, for half of the batches where there is cutmix too; 0 for none')
    cutmix: float = _option(0.0, 'alpha of cutmix; 0 for none')
    teacher: str = _option(
        '', "model whose answers are learnt, such as 'cifar_resnet56.chenyaofo_cifar10'; '' for none"
    )
    distillation: float = _option(0.9, "the teacher's share of the loss")
    temperature: float = _option(4.0, 'that softens the answers of both')
    holdout: int = _option(0, 'training images kept aside, to choose hyper-parameters on')
    seed: int = _option(0, 'of weights, order and augmentation')

    def __post_init__(self) -> None:
        checks = {
            'epochs must be at least 1': self.epochs >= 1,
            'batch_size must be at least 2': self.batch_size >= 2,
            'lr must be above 0': self.lr > 0,
            'warmup_epochs must be from 0 to below epochs': 0 <= self.warmup_epochs < self.epochs,
            'ema_decay must be from 0 to below 1': 0 <= self.ema_decay < 1,
            'label_smoothing must be from 0 to below 1': 0 <= self.label_smoothing < 1,
            'drop_path_rate must be from 0 to below 1': 0 <= self.drop_path_rate < 1,
            'distillation must be from 0 to 1': 0 <= self.distillation <= 1,
            'temperature must be above 0': self.temperature > 0,
            "image_sizes must be as '16:8 24:4', sides from 8 and epochs": _SIZES.fullmatch(self.image_sizes),
            'clip_grad, mixup and cutmix must not be negative': min(self.clip_grad, self.mixup, self.cutmix) >= 0,
            'crop must be from 0 to 31': 0 <= self.crop < 32,
            'cutout and holdout must not be negative': min(self.cutout, self.holdout) >= 0,
            'momentum must be from 0 to below 1': 0 <= self.momentum < 1,
            'weight_decay must not be negative': self.weight_decay >= 0,
            'numbers must be finite': all(math.isfinite(v) for v in vars(self).values() if isinstance(v, float)),
        }
        for rule, holds in checks.items():
            if not holds:
                raise InputError(f'{rule}: {self.to_toml().replace(chr(10), "; ")}')
        if self.image_size(self.epochs - 1) not in (None, 32):
            raise InputError(f'image_sizes {self.image_sizes!r} must leave an epoch of {self.epochs} at full size')

    def image_size(self, epoch: int) -> int | None:
        """Side of the images in an epoch, counted from 0; None: as they are."""
        for phase in self.image_sizes.split():
            size, epochs = map(int, phase.split(':'))
            if epoch < epochs:
                return size
            epoch -= epochs
        return None

    @classmethod
    def from_file(cls, path: str | Path | None, **overrides: Any) -> Recipe:
        """Read a recipe; `overrides` win over its fields, and without a file over the defaults.

        Raises:
            InputError: no such file, not TOML, or a field that is unknown or of the wrong type.
        """
        if path is None:
            return cls(**overrides)
        if sys.version_info >= (3, 11):
            import tomllib
        else:
            import tomli as tomllib
        try:
            values = tomllib.loads(Path(path).read_text(encoding='utf-8'))
        except OSError as error:
            raise InputError(f'no recipe {path}: {error.strerror}') from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise InputError(f'{path} is not TOML: {error}') from None
        known = {field.name: type(field.default) for field in fields(cls)}
        for name, value in values.items():
            if name not in known:
                raise InputError(f'{path}: unknown field {name!r}; a recipe has {", ".join(known)}')
            if known[name] is float and type(value) is int:
                values[name] = float(value)
            elif type(value) is not known[name]:
                raise InputError(f'{path}: {name} must be a {known[name].__name__}, not {value!r}')
        return cls(**{**values, **overrides})

    def to_toml(self) -> str:
        return ''.join(f'{name} = {json.dumps(value)}\n' for name, value in asdict(self).items())
