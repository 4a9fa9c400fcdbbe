"""Publish a model folder as a repository on the Hub, in one commit."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, get_token
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

from resnet_hub.hub.package import Package, prepare
from resnet_hub.utils.errors import InputError, ResnetHubError
from resnet_hub.utils.hub_client import DamagedError, ask
from resnet_hub.weights.folder import CARD_FILE


@dataclass(frozen=True)
class Upload:
    """The result of uploading a folder."""

    folder: Path
    repo_id: str  #: 'OWNER/NAME'
    result: str  #: 'sent', 'unchanged' or 'failed'
    detail: str  #: the commit or pull request that has the files, or why the upload failed


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
    """Publish a model folder in one commit. If the repository already has the same files, make no commit.

    The repository and the branch are created if they do not exist. The same commit removes files of an earlier upload
    that the folder no longer has (figures, recipe). All other files of the repository stay. A model card that a person
    wrote or edited on the Hub stays too, unless the folder has a card that a person wrote.

    Args:
        folder: a folder with model.safetensors and config.json; evaluation.json, recipe.toml, history.csv, curves.png
            and README.md are optional.
        repo_id: 'OWNER/NAME'.
        private: create a private repository. An existing public repository is then refused.
        revision: the branch of the commit; None takes main.
        create_pr: open a pull request against main instead.
        message: title of the commit.
        license: SPDX identifier of the weights. None keeps that of the card on the Hub, see also `make_card`.
        description: Markdown for the beginning of the card. None keeps that of the card on the Hub.
        token: access token; None takes that of HF_TOKEN or of `hf auth login`.

    Returns:
        Whether the files were sent, and the address of the commit.

    Raises:
        InputError: the options contradict each other, or the folder or its card cannot be published. Nothing was sent.
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
        folder: a model folder, see `push_to_hub`.
        repo_id: 'OWNER/NAME', the repository of `push_to_hub`.
        calibrate: training images, see `export`: they add an int8 file, which browsers load by default.
        check: test images, on which the int8 file may lose at most 0.5 percentage points of top-1.
        private, revision, create_pr, message, license, token: see `push_to_hub`.

    Returns:
        Whether the files were sent, and the address of the commit.

    Raises:
        InputError, ResnetHubError: see `push_to_hub`.
        ResnetHubError: the int8 file loses more accuracy.
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
    """Publish several folders, each as 'OWNER/NAME' with the name of the folder. If one fails, the others continue.

    Args:
        folders: model folders, see `push_to_hub`.
        owner: the account on the Hub.
        **options: see `push_to_hub`.

    Returns:
        The result of each folder.

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
    """Return the repository of each folder, 'OWNER/NAME'.

    Raises:
        InputError: two folders would get the same repository.
    """
    named = {Path(folder): f'{owner}/{Path(folder).resolve().name}' for folder in folders}
    if len(set(named.values())) < len(named):
        raise InputError(
            f'several folders have the same name, which gives the name of the repository: {", ".join(map(str, named))}'
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
    """List the files of the repository, commit the differences, and check the result.

    A call that fails can be repeated. The Hub applies a commit completely or not at all. If its answer is lost, the next
    call finds the files in the repository. `parent_commit` makes the Hub refuse a commit if somebody else has committed
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
    """Return the latest commit. Create the repository and the branch if they do not exist."""
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
    """Return the files of a revision by name; each entry has the digest of the file."""
    listed = target.api.list_repo_tree(target.repo_id, revision=revision, recursive=True)
    return {item.path: item for item in listed if hasattr(item, 'blob_id')}


def _fetch_card(target: _Target, revision: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = target.api.hf_hub_download(target.repo_id, CARD_FILE, revision=revision, local_dir=folder)
        return Path(path).read_bytes()


def _operations(package: Package, there: dict[str, Any]) -> list[CommitOperationAdd | CommitOperationDelete]:
    """Return the changes that turn a revision with the files `there` into the package."""
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
    """Return whether a file has the digest that the Hub lists: SHA-256 for a file in LFS, else git's SHA-1."""
    if listed.lfs:
        return bool(hashlib.sha256(data).hexdigest() == listed.lfs.sha256)
    return bool(hashlib.sha1(b'blob %d\0' % len(data) + data, usedforsecurity=False).hexdigest() == listed.blob_id)
