"""Download a repository from the Hub, and verify its files."""

from __future__ import annotations

import shutil
from pathlib import Path, PureWindowsPath

from huggingface_hub import HfApi, hf_hub_download, snapshot_download
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError, OfflineModeIsEnabled

from resnet_hub.checkpoints.read import PICKLES, read
from resnet_hub.hub.package import check_repo_id, read_config
from resnet_hub.utils.errors import InputError, ResnetHubError
from resnet_hub.utils.files import digest
from resnet_hub.utils.hub_client import DamagedError, HubUnreachableError, ask
from resnet_hub.weights.folder import CONFIG_FILE, PICKLE_FILE, WEIGHTS_FILE, check_folder, new_folder


def download(
    repo_id: str,
    output: str | Path | None = None,
    *,
    revision: str | None = None,
    token: str | None = None,
    cache_dir: str | Path | None = None,
) -> Path:
    """Download a repository with a network of ours, and compare every file with the digest that the Hub lists.

    The files go through the cache of huggingface_hub, so that another call continues an interrupted download. The
    variables HF_ENDPOINT and HF_HUB_OFFLINE work. A file with another digest is removed and downloaded again.

    Args:
        repo_id: 'OWNER/NAME'.
        output: a new folder for the files, which is written completely or not at all, or an empty folder. None leaves
            the files in the cache.
        revision: branch, tag or commit; None takes main.
        token: access token; None takes that of HF_TOKEN or of `hf auth login`.
        cache_dir: folder of the cache; None takes that of huggingface_hub.

    Returns:
        `output`, or the folder in the cache.

    Raises:
        InputError: the repository has no network of ours as safetensors, or has file names that lead out of a folder; or
            `output` exists and holds something else.
        ResnetHubError: the Hub refuses the download or cannot be reached, or files arrive damaged several times.
    """
    check_repo_id(repo_id)
    if output is not None:
        _check_output(Path(output))
    repository = _Repository(repo_id, revision, token, cache_dir)
    what = f'{repo_id}@{revision}' if revision else repo_id
    snapshot = ask(what, repository.fetch)
    _check_network(snapshot, what)
    return snapshot if output is None else ask(what, lambda: _place(snapshot, Path(output)))


class _Repository:
    def __init__(self, repo_id: str, revision: str | None, token: str | None, cache_dir: str | Path | None) -> None:
        self.repo_id = repo_id
        self.revision = revision
        self.token = token
        self.cache_dir = cache_dir
        self.api = HfApi(token=token)

    def fetch(self) -> Path:
        """Download into the cache and return the folder. First read config.json, which must describe our network."""
        try:
            config = self.fetch_file(CONFIG_FILE, self.revision)
        except LocalEntryNotFoundError:
            raise
        except EntryNotFoundError:
            names = set(self.api.list_repo_files(self.repo_id, revision=self.revision))
            if WEIGHTS_FILE not in names:
                self.refuse_pickle(names)
            raise InputError(f'{self.repo_id} has no {CONFIG_FILE}: it is not a model that timm can load') from None
        commit = config.parent.name
        names = self.verify(commit)
        for name in names:
            _check_name(name, self.repo_id)
        read_config(config, self.repo_id)
        if WEIGHTS_FILE not in names:
            self.refuse_pickle(names)
            raise InputError(f'{self.repo_id} has no {WEIGHTS_FILE}; ask its owner for one')
        snapshot = Path(snapshot_download(self.repo_id, revision=commit, cache_dir=self.cache_dir, token=self.token))
        lacking = self.verify(commit) - _files(snapshot).keys()
        if lacking:
            raise DamagedError(f'{", ".join(sorted(lacking))} did not arrive; run the command again')
        return snapshot

    def fetch_file(self, name: str, revision: str | None) -> Path:
        return Path(hf_hub_download(self.repo_id, name, revision=revision, cache_dir=self.cache_dir, token=self.token))

    def verify(self, commit: str) -> set[str]:
        """Compare the files in the cache with the digests of the Hub, and return the names of the repository's files.

        huggingface_hub itself compares only the lengths, and would keep a damaged file for ever. Here it is removed.

        Raises:
            DamagedError: a file had another digest.
        """
        try:
            found = self.api.verify_repo_checksums(self.repo_id, revision=commit, cache_dir=self.cache_dir)
        except HubUnreachableError:
            raise
        except OfflineModeIsEnabled:
            return set(_files(self.fetch_file(CONFIG_FILE, commit).parent))
        except FileNotFoundError as error:  # another process has just removed a damaged file
            raise DamagedError(f'{error.filename} is gone; run the command again') from error
        for bad in found.mismatches:
            path = found.verified_path / bad['path']
            blob = path.resolve()
            path.unlink(missing_ok=True)
            blob.unlink(missing_ok=True)
        if found.mismatches:
            names = ', '.join(bad['path'] for bad in found.mismatches)
            raise DamagedError(f'{names} arrived damaged and was removed; run it again')
        return {*found.missing_paths, *_files(found.verified_path)}

    def refuse_pickle(self, names: set[str]) -> None:
        """Refuse a repository that has its weights only as a pickle. The error names the command that converts them.

        Raises:
            InputError: there is a pickle. If it cannot be read without running code, the error says why.
        """
        pickles = [name for name in sorted(names) if name.endswith(PICKLES)]
        if not pickles:
            return
        pickle = PICKLE_FILE if PICKLE_FILE in pickles else pickles[0]
        _check_name(pickle, self.repo_id)
        read(self.fetch_file(pickle, self.revision))
        source = f'hf-hub:{self.repo_id}' + (f'@{self.revision}' if self.revision else '')
        raise InputError(
            f'{self.repo_id} offers only a pickle, {pickle}, which reads without running code: '
            f'`resnet-hub convert {source} -o DIR` makes safetensors of it'
        )


def _check_name(name: str, repo_id: str) -> None:
    """Refuse a file name that could lead out of a folder, on any operating system."""
    path = PureWindowsPath(name)  # knows both kinds of separators
    if path.drive or path.root or '..' in path.parts or '\\' in name or not name.isprintable():
        raise InputError(f'{repo_id} has a file called {name!r}, which may lead out of its folder: nothing was written')


def _check_network(snapshot: Path, what: str) -> None:
    """Check that the weights have the digest in config.json and fit its network.

    Raises:
        InputError: the weights have another digest, or do not fit.
    """
    from resnet_hub.registry.loading import load_model

    read_config(snapshot / CONFIG_FILE, what)
    try:
        check_folder(snapshot)
    except InputError as error:
        raise InputError(f'{what}: {error}') from error
    try:
        load_model(f'local-dir:{snapshot}', 'cpu')
    except ResnetHubError as error:
        reason = ' '.join(str(error).removeprefix(f'local-dir:{snapshot}: ').split())
        raise InputError(f'{what}: the weights do not fit its network ({reason}); tell its owner') from error


def _files(folder: Path) -> dict[str, Path]:
    return {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob('*')) if path.is_file()}


def _check_output(output: Path) -> None:
    if output.exists() and not (output.is_dir() and (_is_empty(output) or (output / CONFIG_FILE).is_file())):
        raise InputError(f'{output} exists and is no model folder: give another -o')


def _is_empty(folder: Path) -> bool:
    return next(folder.iterdir(), None) is None


def _place(snapshot: Path, output: Path) -> Path:
    """Copy a snapshot to a folder, unless the folder holds the same files already."""
    files = _files(snapshot)
    if output.exists() and not _is_empty(output):
        for name, path in files.items():
            if not (output / name).is_file() or digest(output / name) != digest(path):
                raise InputError(f'{output} exists and differs in {name}: give another -o, or move it away')
        return output
    with new_folder(output, force=output.exists()) as new:
        for name, path in files.items():
            (new / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, new / name)
    return output
