"""From a model folder to a repository on the Hub: what `package` made of it is sent in one commit."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, get_token
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

from resnet_hub.hub.package import OWN_FILES, Package, prepare
from resnet_hub.utils.errors import InputError, ResnetHubError
from resnet_hub.utils.hub_client import DamagedError, ask


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

    `options` are those of `push_to_hub`.

    Raises:
        InputError: options that contradict each other, or two folders of one name; nothing was sent.
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
    """The repository of each folder.

    Raises:
        InputError: two of them would be the same one.
    """
    named = {Path(folder): f'{owner}/{Path(folder).resolve().name}' for folder in folders}
    if len(set(named.values())) < len(named):
        raise InputError(f'several folders have the same name, that of their repository: {", ".join(map(str, named))}')
    return named


def check_options(revision: str | None, create_pr: bool) -> None:
    """Raises InputError for options that contradict each other."""
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
    stale = [name for name in OWN_FILES if name in there and name not in package.files]
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
