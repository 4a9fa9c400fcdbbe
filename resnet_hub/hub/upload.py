"""From a model folder to a repository on the Hub, in one commit."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, get_token
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

from resnet_hub.checkpoints.folder import CARD_FILE
from resnet_hub.hub.package import Package, prepare
from resnet_hub.utils.errors import InputError, ResnetHubError
from resnet_hub.utils.hub_client import DamagedError, ask


@dataclass(frozen=True)
class Upload:
    """What happened to a folder."""

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
    """Publish a model folder in one commit, or in none if the repository holds the same files already.

    The repository and the branch are created where they are missing. The same commit removes the files of an earlier
    upload that the folder no longer has (figures, recipe); other files of the repository stay. A model card that a
    person wrote or edited on the Hub stays too, unless the folder has an own card.

    Args:
        folder: model.safetensors and config.json; evaluation.json, recipe.toml, history.csv and curves.png are optional.
        repo_id: 'OWNER/NAME'.
        private: create the repository as a private one. An existing public repository is then refused.
        revision: the branch to commit to; None is main.
        create_pr: open a pull request against main instead.
        message: title of the commit.
        license: SPDX identifier of the weights. None keeps that of the card on the Hub, see also `make_card`.
        description: Markdown for the beginning of the card. None keeps that of the card on the Hub.
        token: None takes the token of HF_TOKEN or of `hf auth login`.

    Raises:
        InputError: the options contradict each other, or the folder or its card is not fit to be published. Nothing was
            sent.
        ResnetHubError: the Hub refuses the upload or cannot be reached. The repository is unchanged, or has the whole
            commit.
    """
    check_options(revision, create_pr)
    package = prepare(folder, repo_id, license=license, description=description)
    return _send(package, private, revision, create_pr, message, token)


def push_onnx(
    folder: str | Path,
    repo_id: str,
    *,
    calibrate: str | Path | None = None,
    check: str | Path | None = None,
    private: bool = False,
    revision: str | None = None,
    create_pr: bool = False,
    message: str | None = None,
    license: str | None = None,
    token: str | None = None,
) -> Upload:
    """Publish a model folder as ONNX files for JavaScript, in the repository 'OWNER/NAME-ONNX'.

    Args:
        folder: as for `push_to_hub`.
        repo_id: 'OWNER/NAME', the repository that `push_to_hub` writes.
        calibrate: training images, see `export`: they add a file in int8, which browsers load by default.
        check: test images, on which the int8 file may lose at most half a point of top-1.
        private, revision, create_pr, message, license, token: as for `push_to_hub`.

    Raises:
        InputError, ResnetHubError: as for `push_to_hub`.
        MissingExtraError: the packages for ONNX are not installed.
    """
    from resnet_hub.hub.onnx import prepare_onnx

    check_options(revision, create_pr)
    package = prepare_onnx(prepare(folder, repo_id, license=license), calibrate, check)
    return _send(package, private, revision, create_pr, message, token)


def _send(
    package: Package, private: bool, revision: str | None, create_pr: bool, message: str | None, token: str | None
) -> Upload:
    if not (token or get_token()):
        raise ResnetHubError('no token; log in with `hf auth login` or set HF_TOKEN, and run it again')
    message = message or 'Upload by resnet-hub'
    target = _Target(HfApi(token=token), package.repo_id, private, revision, create_pr, message)
    return ask(package.repo_id, lambda: _publish(package, target))


def push_folders(folders: Iterable[str | Path], owner: str, **options: Any) -> list[Upload]:
    """Publish many folders, each as 'OWNER/NAME' with the folder's name. One that fails does not stop the others.

    `options` are those of `push_to_hub`.

    Raises:
        InputError: the options contradict each other, or two folders have the same name. Nothing was sent.
    """
    check_options(options.get('revision'), options.get('create_pr', False))
    uploads = []
    for folder, repo_id in repo_ids(folders, owner).items():
        try:
            uploads.append(push_to_hub(folder, repo_id, **options))
        except (ResnetHubError, OSError) as error:
            uploads.append(Upload(folder, repo_id, 'failed', str(error)))
    return uploads


def repo_ids(folders: Iterable[str | Path], owner: str) -> dict[Path, str]:
    """Return the name of each folder's repository.

    Raises:
        InputError: two folders would get the same repository.
    """
    named = {Path(folder): f'{owner}/{Path(folder).resolve().name}' for folder in folders}
    if len(set(named.values())) < len(named):
        raise InputError(
            f'several folders have the same name, which names the repository: {", ".join(map(str, named))}'
        )
    return named


def check_options(revision: str | None, create_pr: bool) -> None:
    """Raise InputError for options that contradict each other."""
    if create_pr and revision:
        raise InputError('--create-pr opens a pull request against main: leave out --revision')


@dataclass(frozen=True)
class _Target:
    api: HfApi
    repo_id: str
    private: bool
    revision: str | None
    create_pr: bool
    message: str


def _publish(package: Package, target: _Target) -> Upload:
    """Look at what the repository holds, commit what it lacks, and look again.

    A call that fails on the way may be repeated. The Hub takes a commit whole or not at all, and if its answer was lost,
    the next call finds the files in place. `parent_commit` makes the Hub refuse a commit if somebody else has committed
    in the meantime.
    """
    api, repo_id = target.api, target.repo_id
    head = _open_repository(target)
    listed = _list_files(target, head)
    if CARD_FILE in listed and not _is_same(package.files[CARD_FILE], listed[CARD_FILE]):
        package = package.with_card(_fetch_card(target, head))
    operations = _operations(package, listed)
    if not operations:
        return Upload(package.folder, repo_id, 'unchanged', f'{api.endpoint}/{repo_id}/tree/{head}')
    if target.create_pr:
        for request in api.list_repo_refs(repo_id, include_pull_requests=True).pull_requests or ():
            if not _operations(package, _list_files(target, request.ref)):
                return Upload(package.folder, repo_id, 'unchanged', f'{request.ref} of {repo_id} holds the same files')
    commit = api.create_commit(
        repo_id,
        operations,
        commit_message=target.message,
        revision=target.revision,
        create_pr=target.create_pr,
        parent_commit=head,
    )
    if _operations(package, _list_files(target, commit.oid)):
        raise DamagedError('the commit does not hold what was sent; run the command again')
    return Upload(package.folder, repo_id, 'sent', commit.pr_url or str(commit.commit_url))


def _open_repository(target: _Target) -> str:
    """Return the commit to build on. Repository and branch are created where they are missing."""
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


def _list_files(target: _Target, revision: str) -> dict[str, Any]:
    """The files of a revision by their names, with their digests."""
    listed = target.api.list_repo_tree(target.repo_id, revision=revision, recursive=True)
    return {item.path: item for item in listed if hasattr(item, 'blob_id')}


def _fetch_card(target: _Target, revision: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = target.api.hf_hub_download(target.repo_id, CARD_FILE, revision=revision, local_dir=folder)
        return Path(path).read_bytes()


def _operations(package: Package, there: dict[str, Any]) -> list[CommitOperationAdd | CommitOperationDelete]:
    """The changes that make a revision with the files `there` hold the package."""
    stale = [name for name in package.own_files if name in there and name not in package.files]
    return [
        *(
            CommitOperationAdd(name, content)
            for name, content in package.files.items()
            if name not in there or not _is_same(content, there[name])
        ),
        *(CommitOperationDelete(name) for name in stale),
    ]


def _is_same(data: bytes, listed: Any) -> bool:
    """Compare by the digest that the Hub lists: the SHA-256 of a file in LFS, else git's SHA-1."""
    if listed.lfs:
        return bool(hashlib.sha256(data).hexdigest() == listed.lfs.sha256)
    return bool(hashlib.sha1(b'blob %d\0' % len(data) + data, usedforsecurity=False).hexdigest() == listed.blob_id)
