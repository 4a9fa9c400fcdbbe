"""From a model folder to a repository on the Hub: everything is checked here, then sent in one commit."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, get_token
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError
from huggingface_hub.utils import validate_repo_id

from ..checkpoints.folder import CARD_FILE, CONFIG_FILE, WEIGHTS_FILE
from ..datasets import DATASETS
from ..errors import InputError, ResnetHubError
from ..models import ARCHITECTURES
from ..training import CURVES_FILE, HISTORY_FILE, RECIPE_FILE
from .card import MARK, METRICS, check_card, make_card
from .client import DamagedError, ask

#: what `resnet-hub evaluate local-dir:FOLDER --json` prints: a list of model, dataset, split, top1, top5, nll, images
EVALUATION_FILE = 'evaluation.json'
#: copied from the folder if they are there
_EXTRAS = (RECIPE_FILE, HISTORY_FILE, CURVES_FILE)
_OURS = (WEIGHTS_FILE, CONFIG_FILE, CARD_FILE, EVALUATION_FILE, *_EXTRAS)


@dataclass(frozen=True)
class Package:
    """What a folder becomes in a repository."""

    folder: Path
    repo_id: str
    files: Mapping[str, bytes]  #: by their names in the repository

    @property
    def card(self) -> str:
        return self.files[CARD_FILE].decode()


@dataclass(frozen=True)
class Upload:
    """What became of a folder."""

    folder: Path
    repo_id: str
    result: str  #: 'sent', 'unchanged' or 'failed'
    detail: str  #: the commit or pull request that holds it, or why it failed


def push_to_hub(
    folder: str | Path,
    repo_id: str,
    *,
    private: bool = False,
    revision: str | None = None,
    create_pr: bool = False,
    message: str | None = None,
    license: str | None = None,
    description: str | None = None,
    token: str | None = None,
) -> Upload:
    """Publish a model folder: one commit, or none if the repository holds the same files already.

    The repository and the branch are created if need be. Files of an earlier upload that the folder no longer has
    (figures, recipe) are removed by the same commit; other files of the repository stay.

    Args:
        folder: model.safetensors and config.json, with evaluation.json, recipe.toml, history.csv, curves.png if there.
        repo_id: 'OWNER/NAME'.
        private: create it private; an existing public repository is then refused.
        revision: the branch to commit to; None is main.
        create_pr: open a pull request instead.
        message: of the commit.
        license: SPDX identifier of the weights, see `make_card`.
        description: Markdown, the beginning of the card.
        token: None takes the one of HF_TOKEN or `hf auth login`.

    Raises:
        InputError: options that contradict each other, or the folder is not fit to be published; nothing was sent.
        ResnetHubError: the Hub refuses it or cannot be reached; the repository is as it was, or has the whole commit.
    """
    check_options(revision, create_pr)
    package = prepare(folder, repo_id, license=license, description=description)
    if not (token or get_token()):
        raise ResnetHubError('no token; log in with `hf auth login` or set HF_TOKEN, and run it again')
    target = _Target(HfApi(token=token), repo_id, private, revision, create_pr, message or 'Upload by resnet-hub')
    return ask(repo_id, lambda: _publish(package, target))


def push_folders(folders: Iterable[str | Path], owner: str, **options: Any) -> list[Upload]:
    """Publish many folders, each as `owner`/its name; one that fails does not stop the others.

    Raises:
        InputError: options that contradict each other, or two folders of one name; nothing was sent.
    """
    check_options(options.get('revision'), options.get('create_pr', False))
    uploads = []
    for folder, repo_id in repo_ids(folders, owner).items():
        try:
            uploads.append(push_to_hub(folder, repo_id, **options))
        except ResnetHubError as error:
            uploads.append(Upload(folder, repo_id, 'failed', str(error)))
    return uploads


def repo_ids(folders: Iterable[str | Path], owner: str) -> dict[Path, str]:
    """The repository of each folder.

    Raises:
        InputError: two of them would be the same one.
    """
    named = {Path(folder): f'{owner}/{Path(folder).resolve().name}' for folder in folders}
    if len(set(named.values())) < len(named):
        raise InputError(f'several folders have the same name, that of their repository: {", ".join(map(str, named))}')
    return named


def prepare(folder: str | Path, repo_id: str, *, license: str | None = None, description: str | None = None) -> Package:
    """Check a model folder and make what is to be sent of it, without a network.

    A README.md of one's own is sent as it is if it has metadata, and lacks the last line of the cards written here.

    Raises:
        InputError: the folder is no network of ours with weights, computes no finite logits, or its evaluation or
            card do not fit.
    """
    folder = Path(folder)
    check_repo_id(repo_id)
    config = read_config(folder / CONFIG_FILE, str(folder))
    if not (folder / WEIGHTS_FILE).is_file():
        raise InputError(f'{folder} has no {WEIGHTS_FILE}; `resnet-hub convert` makes one of other checkpoints')
    weights = (folder / WEIGHTS_FILE).read_bytes()
    config = portable_config(config, hashlib.sha256(weights).hexdigest(), folder)
    _check_logits(folder)
    results = read_results(folder, config)
    files = {WEIGHTS_FILE: weights, CONFIG_FILE: _encode(config)}
    if results:
        shown = [{'model': f'hf-hub:{repo_id}', **result} for result in results]  # no path of this machine
        files[EVALUATION_FILE] = _encode(shown)
    files |= {name: (folder / name).read_bytes() for name in _EXTRAS if (folder / name).is_file()}
    card = _own_card(folder)
    if card is None:
        curves = CURVES_FILE in files
        card = make_card(repo_id, config, results, license=license, description=description, curves=curves)
    else:
        check_card(card, repo_id, results)
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
    except (OSError, ValueError, AttributeError) as error:
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


def portable_config(config: Mapping[str, Any], sha256: str, folder: Path) -> dict[str, Any]:
    """A config that timm and transformers both read, with the digest of the weights.

    timm's own export writes the number of classes among the model arguments, where transformers fails on it, and
    label names where only timm looks for them.

    Raises:
        InputError: the config has the digest of other weights.
    """
    if config.get('sha256', sha256) != sha256:
        raise InputError(
            f'{folder / WEIGHTS_FILE} is not the file that {CONFIG_FILE} has the digest of: take both from the same '
            'training or conversion'
        )
    portable: dict[str, Any] = {**json.loads(json.dumps(config)), 'sha256': sha256}
    portable.setdefault('dtype', 'float32')
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
        InputError: an entry is broken, or of another number of classes.
    """
    path = folder / EVALUATION_FILE
    converted = [{'split': 'test', **config['measured']}] if 'measured' in config else []
    try:
        entries = json.loads(path.read_text(encoding='utf-8')) if path.is_file() else converted
        results = [{key: entry[key] for key in ('dataset', 'split', *METRICS, 'images')} for entry in entries]
        rounded = any(entry.get('precision', 'float32') != 'float32' for entry in entries)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f'{path} is not what `resnet-hub evaluate --json` prints ({error!r}); run it again, or remove the file'
        ) from None
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


def check_options(revision: str | None, create_pr: bool) -> None:
    """Raises InputError for options that contradict each other."""
    if create_pr and revision:
        raise InputError('--create-pr opens a pull request against main: leave out --revision')


def _check_logits(folder: Path) -> None:
    """The folder loads as it is, and answers with finite numbers."""
    from ..registry import load_model

    try:
        model: Any = load_model(f'local-dir:{folder}', 'cpu')
    except Exception as error:  # whatever a config makes of the network
        raise InputError(f'{error}: config.json and model.safetensors must be of one network') from None
    images = torch.rand(2, *model.pretrained_cfg['input_size'], generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        logits = model(images)
    if not bool(logits.isfinite().all()):
        raise InputError(f'{folder} computes NaN or infinity: these weights are broken, train or convert them again')


def _own_card(folder: Path) -> str | None:
    path = folder / CARD_FILE
    if not path.is_file():
        return None
    text = path.read_text(encoding='utf-8-sig')
    return text if text.lstrip().startswith('---') and MARK not in text else None


# ------------------------------------------------------------------------------------------------------ with a network


@dataclass(frozen=True)
class _Target:
    api: HfApi
    repo_id: str
    private: bool
    revision: str | None
    create_pr: bool
    message: str


def _publish(package: Package, target: _Target) -> Upload:
    """Look what the repository holds, commit what it lacks, look again.

    Whatever breaks off on the way, the next call finds what is done: a commit is there whole or not at all, and one
    whose answer was lost is found by its content. `parent_commit` makes the Hub refuse a commit that was decided on
    another state than the one it would change.
    """
    api, repo_id = target.api, target.repo_id
    head = _open_repository(target)
    operations = _operations(package, target, head)
    if not operations:
        return Upload(package.folder, repo_id, 'unchanged', f'{api.endpoint}/{repo_id}/tree/{head}')
    if target.create_pr:
        for request in api.list_repo_refs(repo_id, include_pull_requests=True).pull_requests or ():
            if not _operations(package, target, request.ref):
                return Upload(package.folder, repo_id, 'unchanged', f'{request.ref} of {repo_id} holds it')
    commit = api.create_commit(
        repo_id,
        operations,
        commit_message=target.message,
        revision=target.revision,
        create_pr=target.create_pr,
        parent_commit=head,
    )
    if _operations(package, target, commit.oid):
        raise DamagedError('the commit does not hold what was sent; run it again')
    return Upload(package.folder, repo_id, 'sent', commit.pr_url or str(commit.commit_url))


def _open_repository(target: _Target) -> str:
    """The commit to build on; repository and branch are created where they are missing."""
    api, repo_id = target.api, target.repo_id
    try:
        info = api.repo_info(repo_id)
    except GatedRepoError:
        raise
    except RepositoryNotFoundError:
        if target.create_pr:
            raise
        api.create_repo(repo_id, private=target.private or None, exist_ok=True)
        info = api.repo_info(repo_id)
    if target.private and not info.private:
        raise InputError(f'{repo_id} exists and is public: make it private on its page, or leave out --private')
    if target.revision:
        refs = api.list_repo_refs(repo_id)
        if target.revision not in {ref.name for ref in refs.branches} and not target.revision.startswith('refs/'):
            api.create_branch(repo_id, branch=target.revision, exist_ok=True)
        info = api.repo_info(repo_id, revision=target.revision)
    return str(info.sha)


def _operations(package: Package, target: _Target, revision: str) -> list[CommitOperationAdd | CommitOperationDelete]:
    """What is to be changed so that a revision holds the package."""
    listed = target.api.list_repo_tree(target.repo_id, revision=revision)
    there = {item.path: item for item in listed if hasattr(item, 'blob_id')}
    stale = [name for name in _OURS if name in there and name not in package.files]
    return [
        *(
            CommitOperationAdd(name, content)
            for name, content in package.files.items()
            if name not in there or not _is_same(content, there[name])
        ),
        *(CommitOperationDelete(name) for name in stale),
    ]


def _is_same(data: bytes, listed: Any) -> bool:
    """By the digest that the Hub lists: SHA-256 of what lies in LFS, else git's SHA-1."""
    if listed.lfs:
        return bool(hashlib.sha256(data).hexdigest() == listed.lfs.sha256)
    return bool(hashlib.sha1(b'blob %d\0' % len(data) + data, usedforsecurity=False).hexdigest() == listed.blob_id)
