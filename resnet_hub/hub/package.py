"""What a model folder becomes in a repository: everything is checked and made here, without a network."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PureWindowsPath
from typing import Any

import torch
from huggingface_hub.utils import validate_repo_id

from resnet_hub.checkpoints.folder import (
    CARD_FILE,
    CONFIG_FILE,
    CURVES_FILE,
    EVALUATION_FILE,
    HISTORY_FILE,
    RECIPE_FILE,
    WEIGHTS_FILE,
)
from resnet_hub.hub.card import MARK, METRICS, check_card, make_card
from resnet_hub.tables.architectures import ARCHITECTURES
from resnet_hub.tables.datasets import DATASETS
from resnet_hub.training.recipe import Recipe
from resnet_hub.utils.errors import InputError, ResnetHubError

#: copied from the folder if they are there
_EXTRAS = (RECIPE_FILE, HISTORY_FILE, CURVES_FILE)
OWN_FILES = (WEIGHTS_FILE, CONFIG_FILE, CARD_FILE, EVALUATION_FILE, *_EXTRAS)
_LOCAL = 'local-dir:'


@dataclass(frozen=True)
class Package:
    """What a folder becomes in a repository."""

    folder: Path
    repo_id: str
    files: Mapping[str, bytes]  #: by their names in the repository

    @property
    def card(self) -> str:
        return self.files[CARD_FILE].decode()


def prepare(folder: str | Path, repo_id: str, *, license: str | None = None, description: str | None = None) -> Package:
    """Check a model folder and make what is to be sent of it, without a network.

    A README.md of one's own is sent as it is if it has metadata, and lacks the last line of the cards written here.

    Raises:
        InputError: the folder is no network of ours with weights, computes no finite logits, its evaluation or card do
            not fit, or its own card leaves no use for the options.
    """
    folder = Path(folder)
    check_repo_id(repo_id)
    config = read_config(folder / CONFIG_FILE, str(folder))
    if not (folder / WEIGHTS_FILE).is_file():
        raise InputError(f'{folder} has no {WEIGHTS_FILE}; `resnet-hub convert` makes one of other checkpoints')
    weights = (folder / WEIGHTS_FILE).read_bytes()
    config = _portable_config(config, hashlib.sha256(weights).hexdigest(), folder)
    _check_logits(folder)
    results = read_results(folder, config)
    files = {WEIGHTS_FILE: weights, CONFIG_FILE: _encode(config)}
    if results:
        shown = [{'model': f'hf-hub:{repo_id}', **result} for result in results]  # no path of this machine
        files[EVALUATION_FILE] = _encode(shown)
    files |= {name: (folder / name).read_bytes() for name in _EXTRAS if (folder / name).is_file()}
    if _LOCAL.encode() in files.get(RECIPE_FILE, b''):
        recipe = Recipe.from_file(folder / RECIPE_FILE)
        files[RECIPE_FILE] = replace(recipe, teacher=_without_folder(recipe.teacher)).to_toml().encode()
    card = _own_card(folder)
    if card is None:
        curves = CURVES_FILE in files
        card = make_card(repo_id, config, results, license=license, description=description, curves=curves)
    else:
        said = check_card(card, repo_id, config, results)
        if description or (license and license.lower() != said.lower()):
            raise InputError(f'{folder / CARD_FILE} is a card of your own: write license and description into it')
    return Package(folder, repo_id, {CARD_FILE: card.encode(), **files})


def check_repo_id(repo_id: str) -> None:
    """Raises InputError for what is no 'OWNER/NAME'."""
    try:
        validate_repo_id(repo_id)
    except ValueError as error:
        raise InputError(f'{" ".join(str(error).split())} Use OWNER/NAME') from None
    if repo_id.count('/') != 1:
        raise InputError(f'{repo_id!r} is not a repository: use OWNER/NAME')


def read_config(path: Path, what: str) -> dict[str, Any]:
    """config.json of a network of ours; `what` it belongs to begins the errors.

    Raises:
        InputError: it is missing or broken, or names an architecture that is not ours.
    """
    try:
        config = json.loads(path.read_text(encoding='utf-8'))
        architecture = config.get('architecture') or config.get('architectures') or config.get('model_type')
    except FileNotFoundError:
        raise InputError(
            f'{what} has no {path.name}; `resnet-hub convert` makes a model folder of a checkpoint'
        ) from None
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise InputError(f'{path.name} of {what} cannot be read ({" ".join(str(error).split())}); correct it') from None
    if not isinstance(architecture, str) or architecture not in ARCHITECTURES:
        raise InputError(
            f'{what} holds {architecture!r}, which is not a network of resnet-hub; `resnet-hub list` shows those that are'
        )
    cfg = config.get('pretrained_cfg')
    if not (isinstance(cfg, dict) and {'mean', 'std', 'input_size'} <= cfg.keys() and config.get('num_classes')):
        raise InputError(
            f'{path.name} of {what} lacks num_classes, or mean, std and input_size in pretrained_cfg; add them'
        )
    return dict(config)


def _encode(content: Any) -> bytes:
    return (json.dumps(content, indent=2) + '\n').encode()


def _without_folder(teacher: str) -> str:
    """'local-dir:/home/me/runs/net' is 'local-dir:net' to others."""
    return _LOCAL + PureWindowsPath(teacher.removeprefix(_LOCAL)).name if teacher.startswith(_LOCAL) else teacher


def _portable_config(config: Mapping[str, Any], sha256: str, folder: Path) -> dict[str, Any]:
    """A config that timm and transformers both read, with the digest of the weights.

    timm's own export writes the number of classes among the model arguments, where transformers fails on it, and
    label names where only timm looks for them.

    Raises:
        InputError: the config has the digest of other weights, or something else where an object belongs.
    """
    for key in ('model_args', 'source', 'recipe', 'measured'):
        if not isinstance(config.get(key, {}), dict):
            raise InputError(f'{key} in {folder / CONFIG_FILE} is no object; correct it, or leave it out')
    if config.get('sha256', sha256) != sha256:
        raise InputError(
            f'{folder / WEIGHTS_FILE} is not the file that {CONFIG_FILE} has the digest of: take both from the same '
            'training or conversion'
        )
    portable: dict[str, Any] = {**json.loads(json.dumps(config)), 'sha256': sha256}
    portable.setdefault('dtype', 'float32')
    if 'teacher' in portable.get('recipe', {}):
        portable['recipe']['teacher'] = _without_folder(str(portable['recipe']['teacher']))
    arguments = portable.get('model_args', {})
    if 'num_classes' in arguments:
        portable['num_classes'] = arguments.pop('num_classes')
    labels = portable['pretrained_cfg'].pop('label_names', None)
    if labels and len(labels) == portable['num_classes']:
        portable.setdefault('label_names', labels)
    return portable


def read_results(folder: Path, config: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The entries of evaluation.json, else what a conversion measured; without the name of the model.

    Raises:
        InputError: an entry is broken, or of another number of classes; or they are of several models.
    """
    path = folder / EVALUATION_FILE
    converted = [{'split': 'test', **config['measured']}] if 'measured' in config else []
    try:
        entries = json.loads(path.read_text(encoding='utf-8')) if path.is_file() else converted
        results = [{key: entry[key] for key in ('dataset', 'split', *METRICS, 'images')} for entry in entries]
        rounded = any(entry.get('precision', 'float32') != 'float32' for entry in entries)
        measured = [(entry.get('model'), entry['dataset'], entry['split']) for entry in entries]
        mixed = len({model for model, _, _ in measured}) > 1 or len({*measured}) < len(measured)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f'{path} is not what `resnet-hub evaluate --json` prints ({error!r}); run it again, or remove the file'
        ) from None
    if mixed:
        raise InputError(
            f'{path} has figures of several models, or some twice: run `resnet-hub evaluate --json` on this one alone'
        )
    if rounded:
        raise InputError(f'{path} was measured in another precision: run `resnet-hub evaluate --json` without --bf16')
    for result in results:
        classes = DATASETS[result['dataset']].classes if result['dataset'] in DATASETS else ()
        numbers = [result[key] for key in (*METRICS, 'images')]
        sound = all(isinstance(x, int | float) and math.isfinite(x) and x >= 0 for x in numbers)
        if not (len(classes) == config['num_classes'] and sound and max(result['top1'], result['top5']) <= 100):
            raise InputError(f'{path} does not fit {folder}: {result}; run `resnet-hub evaluate --json` again')
        if result['split'] not in ('test', 'train'):
            raise InputError(f'{path}: unknown split {result["split"]!r}; run `resnet-hub evaluate --json` again')
    return results


def _check_logits(folder: Path) -> None:
    """The folder loads as it is, and answers with finite numbers."""
    from resnet_hub.registry import load_model

    try:
        model: Any = load_model(f'{_LOCAL}{folder}', 'cpu')
    except ResnetHubError as error:
        raise InputError(f'{error}: config.json and model.safetensors must be of one network') from None
    images = torch.rand(2, *model.pretrained_cfg['input_size'], generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits = model(images)
    if not bool(logits.isfinite().all()):
        raise InputError(f'{folder} computes NaN or infinity: these weights are broken, train or convert them again')


def _own_card(folder: Path) -> str | None:
    path = folder / CARD_FILE
    if not path.is_file():
        return None
    try:
        text = path.read_text(encoding='utf-8-sig')
    except UnicodeDecodeError as error:
        raise InputError(f'{path} is not UTF-8 ({error}); save it as that') from None
    return text if text.lstrip().startswith('---') and MARK not in text else None
