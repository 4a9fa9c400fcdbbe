"""A model folder: model.safetensors and config.json, in the form that timm and transformers both read."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from resnet_hub.models import network_class
from resnet_hub.tables.architectures import ARCHITECTURES
from resnet_hub.utils.errors import InputError
from resnet_hub.utils.files import digest, replacing, save_weights

WEIGHTS_FILE = 'model.safetensors'
PICKLE_FILE = 'pytorch_model.bin'  #: earlier versions of timm wrote this pickle instead, and timm still can
CONFIG_FILE = 'config.json'
CARD_FILE = 'README.md'
#: what `resnet-hub evaluate local-dir:FOLDER --json` prints: a list of model, dataset, split, top1, top5, nll, images
EVALUATION_FILE = 'evaluation.json'
RECIPE_FILE = 'recipe.toml'
CHECKPOINT_FILE = 'checkpoint.pt'  #: the state of a training run, from which it is resumed
HISTORY_FILE = 'history.csv'
CURVES_FILE = 'curves.png'
_MODEL_FILES = {WEIGHTS_FILE, CONFIG_FILE, CARD_FILE, '.gitattributes'}


@contextmanager
def new_folder(folder: str | Path, force: bool = False) -> Iterator[Path]:
    """Give a temporary folder beside `folder`. It replaces `folder` when the block ends, and is removed if it fails.

    An empty folder is not replaced, but filled with the files, config.json last.

    Raises:
        InputError: `folder` exists. With `force`: it exists and is neither empty nor a model folder without other files.
    """
    folder = Path(folder).absolute()
    if folder.exists() and not force:
        raise InputError(f'{folder} exists already: give another folder or --force')
    if folder.exists() and not (folder.is_dir() and {item.name for item in folder.iterdir()} <= _MODEL_FILES):
        raise InputError(
            f'{folder} has other files than those of a model folder, and is never replaced: give another folder'
        )
    empty = folder.exists() and not any(folder.iterdir())  # may be a mount or a working directory: keep it
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f'.{folder.name}.', dir=folder if empty else folder.parent))
    new, old = scratch / 'new', scratch / 'old'
    try:
        new.mkdir()
        yield new
        if empty:
            for item in sorted(new.iterdir(), key=lambda item: item.name == CONFIG_FILE):
                item.replace(folder / item.name)
            return
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


def make_config(
    architecture: str,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    num_classes: int,
    in_chans: int = 3,
    image_size: int = 32,
    label_names: Sequence[str] | None = None,
    model_args: Mapping[str, Any] | None = None,
    dtype: torch.dtype = torch.float32,
    **provenance: Any,
) -> dict[str, Any]:
    """Return the content of config.json for a network.

    `num_classes` and `label_names` are only at the root: transformers reads them only there, and fails on
    `num_classes` in `model_args`. `provenance` is at the root too, where timm ignores unknown fields.

    Args:
        architecture: a name in the table of architectures.
        mean, std: normalisation of the images, one number for each channel, for pixels scaled to 0 … 1.
        num_classes: number of classes.
        in_chans: number of channels of the images.
        image_size: height and width of the images.
        label_names: names of the classes.
        model_args: the arguments that differ from those of the architecture.
        dtype: dtype of the weights.
        provenance: further fields: digests, recipe, source.
    """
    cls, row = network_class(architecture), ARCHITECTURES[architecture]
    model_args = dict(model_args or {})
    cfg = row.pretrained_cfg(tuple(mean), tuple(std), model_args.get('layers'), num_classes=num_classes)
    cfg['input_size'] = (in_chans, image_size, image_size)
    cfg['pool_size'] = tuple(-(-side * image_size // 32) for side in cfg['pool_size'])  # size of the last feature map
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
    """Compare the weights with their digest in config.json, if it has one.

    Neither safetensors nor torch notices a flipped bit in a tensor.

    Raises:
        InputError: the digests differ.
    """
    weights = Path(folder) / WEIGHTS_FILE
    try:
        wanted = json.loads((Path(folder) / CONFIG_FILE).read_text(encoding='utf-8')).get('sha256')
    except (OSError, ValueError, AttributeError):
        return  # the caller refuses a config that is missing or broken
    if wanted and weights.is_file() and wanted != (found := digest(weights)):
        raise InputError(
            f'{weights} does not have the digest that {CONFIG_FILE} gives: it has {found}, not {wanted}. It is damaged or '
            'from another training: get both files again'
        )


def write_folder(folder: str | Path, state_dict: Mapping[str, Tensor], config: Mapping[str, Any]) -> Path:
    """Write model.safetensors and config.json, each completely or not at all. Add the weights' digest to config.json."""
    folder = Path(folder)
    save_weights(folder / WEIGHTS_FILE, state_dict)
    config = {**config, 'sha256': digest(folder / WEIGHTS_FILE)}
    with replacing(folder / CONFIG_FILE) as path:
        path.write_text(json.dumps(config, indent=2) + '\n', encoding='utf-8')
    return folder
