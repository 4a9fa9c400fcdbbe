"""A model folder: model.safetensors and config.json, in the form that timm and transformers both read."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save, save_file
from torch import Tensor

from ..errors import InputError
from ..models import ARCHITECTURES
from ..models.timm_api import make_pretrained_cfg

WEIGHTS_FILE = 'model.safetensors'
CONFIG_FILE = 'config.json'
CARD_FILE = 'README.md'
_METADATA = {'format': 'pt'}
_MODEL_FILES = {WEIGHTS_FILE, CONFIG_FILE, CARD_FILE, '.gitattributes'}


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A temporary path beside `path` that takes its place when the block ends, and vanishes if the block fails."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f'.{path.name}.', dir=path.parent)
    os.close(handle)
    try:
        yield Path(name)
        Path(name).chmod(0o666 & ~_umask())  # mkstemp's files are for their owner alone
        Path(name).replace(path)
    finally:
        Path(name).unlink(missing_ok=True)


@contextmanager
def new_folder(folder: str | Path, force: bool = False) -> Iterator[Path]:
    """A temporary folder beside `folder` that takes its place when the block ends, and vanishes if the block fails.

    Raises:
        InputError: `folder` exists; or, with `force`, it is not a model folder, which alone may be replaced.
    """
    folder = Path(folder)
    if folder.exists() and not force:
        raise InputError(f'{folder} exists already: give another folder or --force')
    if folder.exists() and not (folder.is_dir() and {item.name for item in folder.iterdir()} <= _MODEL_FILES):
        raise InputError(f'{folder} is not a model folder alone, and is never replaced: give another one')
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f'.{folder.name}.', dir=folder.parent))
    new, old = scratch / 'new', scratch / 'old'
    try:
        new.mkdir()
        yield new
        if folder.exists():
            folder.replace(old)
        try:
            new.replace(folder)
        except BaseException:
            if old.exists():
                old.replace(folder)
            raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def digest(path: str | Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    sha = hashlib.sha256()
    with open(path, 'rb') as file:
        while block := file.read(1 << 20):
            sha.update(block)
    return sha.hexdigest()


def halve(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Half precision for convolutions and classifier; norms, biases and counters stay as they are."""
    return {k: v.half() if v.ndim > 1 and v.is_floating_point() else v for k, v in state_dict.items()}


def encode(state_dict: Mapping[str, Tensor]) -> bytes:
    """The safetensors file of a state dict: the same tensors give the same bytes.

    The only metadata is the format, since several entries would come out in random order.
    """
    return save(_plain(state_dict), metadata=_METADATA)


def _plain(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {k: v.detach().cpu().contiguous() for k, v in state_dict.items()}


def make_config(
    architecture: str,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    num_classes: int,
    in_chans: int = 3,
    label_names: Sequence[str] | None = None,
    model_args: Mapping[str, Any] | None = None,
    dtype: torch.dtype = torch.float32,
    **provenance: Any,
) -> dict[str, Any]:
    """config.json of a network.

    `num_classes` and `label_names` stand at the root alone: transformers reads them only there, and fails on
    `num_classes` among the model arguments. `provenance` (digests, recipe, source) stands at the root too, where
    timm ignores what it does not know.
    """
    cls, row = ARCHITECTURES[architecture]
    model_args = dict(model_args or {})
    cfg = make_pretrained_cfg(
        len(model_args.get('layers', row.layers)), tuple(mean), tuple(std), num_classes=num_classes
    )
    cfg['input_size'] = (in_chans, 32, 32)
    if in_chans != 3:
        model_args['in_chans'] = in_chans
    config = {
        'architecture': architecture,
        'num_classes': num_classes,
        'num_features': model_args.get('widths', row.widths)[-1]
        * cls.blocks[model_args.get('block', row.block)].expansion,
        'global_pool': 'avg',
        'dtype': str(dtype).removeprefix('torch.'),
    }
    if label_names:
        config['label_names'] = list(label_names)
    if model_args:
        config['model_args'] = model_args
    return {**config, 'pretrained_cfg': cfg, **provenance}


def check_folder(folder: str | Path) -> None:
    """Compare the weights with the digest that config.json has of them, if it has one.

    Neither safetensors nor torch notices a flipped bit in a tensor.

    Raises:
        InputError: they differ.
    """
    weights = Path(folder) / WEIGHTS_FILE
    try:
        wanted = json.loads((Path(folder) / CONFIG_FILE).read_text(encoding='utf-8')).get('sha256')
    except (OSError, ValueError, AttributeError):
        return  # a config that is missing or broken is for others to refuse
    if wanted and weights.is_file() and wanted != (found := digest(weights)):
        raise InputError(
            f'{weights} has SHA-256 {found}, and {CONFIG_FILE} says {wanted}: it is damaged or of another training; '
            'get both again'
        )


def write_folder(folder: str | Path, state_dict: Mapping[str, Tensor], config: Mapping[str, Any]) -> Path:
    """Write model.safetensors and config.json, each whole or not at all; config.json gets the weights' digest."""
    folder = Path(folder)
    with replacing(folder / WEIGHTS_FILE) as path:
        save_file(_plain(state_dict), path, metadata=_METADATA)  # as `encode`, without the bytes in memory
        config = {**config, 'sha256': digest(path)}
    with replacing(folder / CONFIG_FILE) as path:
        path.write_text(json.dumps(config, indent=2) + '\n', encoding='utf-8')
    return folder
