"""Check a model folder, and make the files of its repository. This needs no connection to the Hub."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PureWindowsPath
from typing import Any, ClassVar

import torch
from huggingface_hub.utils import validate_repo_id

from resnet_hub.hub.card import make_card, measured_by_conversion
from resnet_hub.hub.card_check import (
    METRICS,
    REQUIRED_METRICS,
    check_card,
    is_own_card,
    published,
    read_description,
    read_license,
)
from resnet_hub.tables.architectures import ARCHITECTURES
from resnet_hub.tables.datasets import DATASETS
from resnet_hub.training.recipe import Recipe
from resnet_hub.utils.errors import InputError, ResnetHubError
from resnet_hub.weights.folder import (
    CARD_FILE,
    CONFIG_FILE,
    CURVES_FILE,
    EVALUATION_FILE,
    HISTORY_FILE,
    RECIPE_FILE,
    WEIGHTS_FILE,
)

#: files that are copied if the folder has them
_EXTRAS = (RECIPE_FILE, HISTORY_FILE, CURVES_FILE)
_LOCAL = 'local-dir:'
_DATA_NAME = re.compile(r'[\w. /-]+')  #: name of a data set that no table knows, without signs that Markdown reads


@dataclass(frozen=True)
class Package:
    """The files of a model folder, ready for an upload."""

    #: an upload removes these files from the repository if the package lacks them; it keeps all other files
    own_files: ClassVar[tuple[str, ...]] = (WEIGHTS_FILE, CONFIG_FILE, CARD_FILE, EVALUATION_FILE, *_EXTRAS)

    folder: Path
    repo_id: str
    config: Mapping[str, Any]
    results: Sequence[Mapping[str, Any]]
    license: str | None
    description: str | None
    files: Mapping[str, bytes]  #: by their names in the repository

    @property
    def card(self) -> str:
        return self.files[CARD_FILE].decode()

    def with_card(self, there: bytes | None) -> Package:
        """Return the package with its card.

        A card that a person wrote is kept unchanged: the one in the folder, or else the one in the repository. A card of
        ours is written again, with the license and description of the earlier card.

        Args:
            there: the card that the repository already has; None if it has none.

        Raises:
            InputError: a person's card contradicts the options, the evaluation, or the license of the published weights.
        """
        here = _read_card(self.folder)
        theirs = None if there is None else there.decode(errors='replace')
        if here is not None and is_own_card(here):
            card = self._check_own_card(here, str(self.folder / CARD_FILE)).encode()
        elif there is not None and theirs is not None and is_own_card(theirs):
            self._check_own_card(theirs, f'{CARD_FILE} in {self.repo_id}')
            card = there
        else:
            earlier = [text for text in (theirs, here) if text]
            card = make_card(
                f'hf-hub:{self.repo_id}',
                self.config,
                self.results,
                license=self.license or _license_of(self.config, earlier),
                description=self.description or next(filter(None, map(read_description, earlier)), None),
                curves=CURVES_FILE in self.files,
            ).encode()
        return replace(self, files={CARD_FILE: card, **{k: v for k, v in self.files.items() if k != CARD_FILE}})

    def _check_own_card(self, card: str, name: str) -> str:
        said = check_card(card, self.config, self.results, name)
        if self.description or (self.license and self.license.lower() != said.lower()):
            raise InputError(f'{name} is a card of your own: write license and description into it')
        return card


def prepare(folder: str | Path, repo_id: str, *, license: str | None = None, description: str | None = None) -> Package:
    """Check a model folder and return the files to send. This needs no connection to the Hub.

    A README.md that a person wrote is sent unchanged. Such a file has metadata and text, and lacks the last line of our
    cards.

    Args:
        folder: the model folder.
        repo_id: 'OWNER/NAME'.
        license: SPDX identifier, see `make_card`.
        description: Markdown for the beginning of the card.

    Raises:
        InputError: the folder has no network of ours with weights, its logits are not finite, its evaluation or card does
            not fit, or the options contradict a person's card.
    """
    folder = Path(folder)
    check_repo_id(repo_id)
    config = read_config(folder / CONFIG_FILE, str(folder))
    if not (folder / WEIGHTS_FILE).is_file():
        raise InputError(f'{folder} has no {WEIGHTS_FILE}; `resnet-hub convert` makes it from other checkpoints')
    weights = (folder / WEIGHTS_FILE).read_bytes()
    config = _portable_config(config, hashlib.sha256(weights).hexdigest(), folder)
    _check_logits(folder)
    results = read_results(folder, config)
    files = {WEIGHTS_FILE: weights, CONFIG_FILE: encode_json(config)}
    if results:
        shown = [{'model': f'hf-hub:{repo_id}', **result} for result in results]  # no path of this machine
        files[EVALUATION_FILE] = encode_json(shown)
    files |= {name: (folder / name).read_bytes() for name in _EXTRAS if (folder / name).is_file()}
    if _LOCAL.encode() in files.get(RECIPE_FILE, b''):
        recipe = Recipe.from_file(folder / RECIPE_FILE)
        portable = replace(recipe, teacher=_without_folder(recipe.teacher), init=_without_folder(recipe.init))
        files[RECIPE_FILE] = portable.to_toml().encode()
    return Package(folder, repo_id, config, results, license, description, files).with_card(None)


def check_repo_id(repo_id: str) -> None:
    """Raise InputError unless `repo_id` is 'OWNER/NAME'."""
    if repo_id.count('/') != 1:
        raise InputError(f'{repo_id!r} is not a repository: use OWNER/NAME')
    try:
        validate_repo_id(repo_id)
    except ValueError as error:
        raise InputError(f'{" ".join(str(error).split())} Use another OWNER/NAME') from error


def read_config(path: Path, what: str) -> dict[str, Any]:
    """Read the config.json of a network of ours.

    Args:
        path: the file.
        what: the folder or repository of the file, for error messages.

    Raises:
        InputError: the file is missing or broken, or names an architecture that is not ours.
    """
    try:
        config = json.loads(path.read_text(encoding='utf-8'))
        architecture = config.get('architecture') or config.get('architectures') or config.get('model_type')
    except FileNotFoundError:
        raise InputError(
            f'{what} has no {path.name}; `resnet-hub convert` makes a model folder from a checkpoint'
        ) from None
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise InputError(
            f'{path.name} of {what} cannot be read ({" ".join(str(error).split())}); correct it'
        ) from error
    if not isinstance(architecture, str) or architecture not in ARCHITECTURES:
        raise InputError(
            f'{what} holds {architecture!r}, which is not an architecture of resnet-hub; `resnet-hub list` shows them all'
        )
    cfg = config.get('pretrained_cfg')
    if not (isinstance(cfg, dict) and {'mean', 'std', 'input_size'} <= cfg.keys() and config.get('num_classes')):
        raise InputError(
            f'{path.name} of {what} lacks num_classes, or mean, std and input_size in pretrained_cfg; add them'
        )
    return dict(config)


def encode_json(content: Any) -> bytes:
    return (json.dumps(content, indent=2) + '\n').encode()


def _without_folder(teacher: str) -> str:
    """Return 'local-dir:net' for 'local-dir:/home/me/runs/net', because others do not have the folders of this machine."""
    return _LOCAL + PureWindowsPath(teacher.removeprefix(_LOCAL)).name if teacher.startswith(_LOCAL) else teacher


def _portable_config(config: Mapping[str, Any], sha256: str, folder: Path) -> dict[str, Any]:
    """Return the config in a form that timm and transformers both read, with the digest of the weights.

    timm's own export writes the number of classes into `model_args`, where transformers fails, and the label names into
    `pretrained_cfg`, where only timm reads them.

    Raises:
        InputError: the config has the digest of other weights, or a field that must be an object is not.
    """
    for key in ('model_args', 'source', 'recipe', 'measured'):
        if not isinstance(config.get(key, {}), dict):
            raise InputError(f'{key} in {folder / CONFIG_FILE} is not a JSON object; correct it, or leave it out')
    if config.get('sha256', sha256) != sha256:
        raise InputError(
            f'{folder / WEIGHTS_FILE} does not have the digest that {CONFIG_FILE} gives: take both files from the same '
            'training or conversion'
        )
    portable: dict[str, Any] = {**json.loads(json.dumps(config)), 'sha256': sha256}
    portable.setdefault('dtype', 'float32')
    for key in {'teacher', 'init'} & portable.get('recipe', {}).keys():
        portable['recipe'][key] = _without_folder(str(portable['recipe'][key]))
    arguments = portable.get('model_args', {})
    if 'num_classes' in arguments:
        portable['num_classes'] = arguments.pop('num_classes')
    labels = portable['pretrained_cfg'].pop('label_names', None)
    if labels and len(labels) == portable['num_classes']:
        portable.setdefault('label_names', labels)
    return portable


def read_results(folder: Path, config: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the entries of evaluation.json without the model's name. Without this file, return a conversion's figures.

    Raises:
        InputError: an entry is broken or has another number of classes, or the entries belong to several models.
    """
    path = folder / EVALUATION_FILE
    try:
        entries = json.loads(path.read_text(encoding='utf-8')) if path.is_file() else measured_by_conversion(config)
        results = [_result(entry) for entry in entries]
        rounded = any(entry.get('precision', 'float32') != 'float32' for entry in entries)
        measured = [(entry.get('model'), entry['dataset'], entry['split']) for entry in entries]
        mixed = len({model for model, _, _ in measured}) > 1 or len({*measured}) < len(measured)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f'{path} is not what `resnet-hub evaluate --json` prints ({error!r}); run it again, or remove the file'
        ) from error
    if mixed:
        raise InputError(
            f'{path} has figures of several models, or some twice: run `resnet-hub evaluate --json` on this model only'
        )
    if rounded:
        raise InputError(
            f'{path} was measured in another precision than float32: run `resnet-hub evaluate --json` on the folder itself, '
            'without --bf16'
        )
    for result in results:
        row = DATASETS.get(result['dataset'])
        fits = len(row.classes) == config['num_classes'] if row else bool(_DATA_NAME.fullmatch(result['dataset']))
        if row and not fits:
            raise InputError(
                f'{path} does not fit {folder}: {result["dataset"]} has {len(row.classes)} classes, the network has '
                f'{config["num_classes"]}; run `resnet-hub evaluate --json` again'
            )
        numbers = [result[key] for key in (*METRICS, 'images') if key in result]
        sound = all(isinstance(x, int | float) and math.isfinite(x) and x >= 0 for x in numbers)
        if not (fits and sound and max(result['top1'], result['top5']) <= 100):
            raise InputError(f'{path} does not fit {folder}: {result}; run `resnet-hub evaluate --json` again')
        if result['split'] not in ('test', 'val', 'train'):
            raise InputError(f'{path}: unknown split {result["split"]!r}; run `resnet-hub evaluate --json` again')
    return results


def _result(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return those figures of an entry that a card shows."""
    known = {key: entry[key] for key in ('dataset', 'split', *REQUIRED_METRICS)}
    further = {key: entry[key] for key in METRICS if key in entry}
    return {**known, **further, 'images': entry['images']}


def _license_of(config: Mapping[str, Any], cards: Sequence[str]) -> str | None:
    """Return the license in an earlier card; None if there is none, or if the table of weights has the license."""
    return None if published(config) else next(filter(None, map(read_license, cards)), None)


def _check_logits(folder: Path) -> None:
    """Check that the folder loads, and that the network computes finite logits.

    Raises:
        InputError: it does not.
    """
    from resnet_hub.registry.loading import load_model

    try:
        model: Any = load_model(f'{_LOCAL}{folder}', 'cpu')
    except ResnetHubError as error:
        raise InputError(f'{error}: config.json and model.safetensors must belong to the same network') from error
    images = torch.rand(2, *model.pretrained_cfg['input_size'], generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits = model(images)
    if not bool(logits.isfinite().all()):
        raise InputError(f'{folder} computes NaN or infinity: these weights are broken, train or convert them again')


def _read_card(folder: Path) -> str | None:
    path = folder / CARD_FILE
    if not path.is_file():
        return None
    try:
        return path.read_text(encoding='utf-8-sig')
    except UnicodeDecodeError as error:
        raise InputError(f'{path} is not UTF-8 ({error}); save it as UTF-8') from error
