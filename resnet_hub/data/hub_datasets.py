"""Download data sets from the Hub."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from typing import Any

from resnet_hub.data.formats import files_of_split
from resnet_hub.tables.datasets import Dataset
from resnet_hub.utils.errors import InputError, ResnetHubError

HUB = 'hf://datasets/'


def fetch_known(row: Dataset, split: str) -> Path:
    """Download a split of a known data set from the Hub, unless it is in the cache."""
    from huggingface_hub import snapshot_download

    from resnet_hub.utils.hub_client import ask

    wanted: Any = {'repo_type': 'dataset', 'allow_patterns': f'{row.folder}/{split}-*.parquet'}
    folder = Path(ask(row.repo, lambda: snapshot_download(row.repo, **wanted))) / row.folder
    if not any(folder.glob(f'{split}-*.parquet')):  # without a connection, huggingface_hub returns what the cache has
        raise ResnetHubError(
            f'{row.repo}: the Hub cannot be reached, and its cache lacks the {split} images; check the connection and run '
            'it again'
        )
    return folder


def fetch(address: str, split: str) -> Path:
    """Download the parquet files of a split from the Hub, unless they are in the cache.

    A data set without parquet files is read from the branch where the Hub keeps its own conversion of it.
    """
    from resnet_hub.utils.hub_client import ask

    parts = re.fullmatch(r'([^/@]+/[^/@]+)(?:@(refs/[^/]+/[^/]+|[^/]+))?(?:/(.*))?', address.strip('/'))
    if not parts:
        raise InputError(f'{HUB}{address}: write {HUB}OWNER/NAME, optionally with @REVISION and /SUBFOLDER')
    repo, revision, folder = parts[1], parts[2], (parts[3] or '').strip('/')
    return ask(f'{HUB}{repo}', lambda: _download(repo, revision, folder, split))


def _download(repo: str, revision: str | None, folder: str, split: str) -> Path:
    from huggingface_hub import HfApi, constants, snapshot_download
    from huggingface_hub.errors import RevisionNotFoundError

    if constants.HF_HUB_OFFLINE:  # only the cache shows which files there are
        cached: Any = {'revision': revision, 'allow_patterns': f'*{split}*.parquet'}
        return Path(snapshot_download(repo, repo_type='dataset', **cached)) / folder
    for branch in (revision,) if revision else (None, 'refs/convert/parquet'):
        try:
            names = HfApi().list_repo_files(repo, repo_type='dataset', revision=branch)
        except RevisionNotFoundError:
            if branch == revision:
                raise
            names = []
        inside = [
            PurePosixPath(n)
            for n in names
            if n.endswith('.parquet') and f'{n}/'.startswith(f'{folder}/' * bool(folder))
        ]
        if inside:
            wanted = files_of_split(inside, split, f'{HUB}{repo}')
            folders = sorted({str(name.parent) for name in wanted})
            if len(folders) > 1:
                shown = ', '.join(folders)
                raise InputError(f'{HUB}{repo} has several configurations: {shown}; add one to the address')
            patterns = [str(name) for name in wanted]
            return (
                Path(snapshot_download(repo, repo_type='dataset', revision=branch, allow_patterns=patterns))
                / folders[0]
            )
    raise InputError(f'{HUB}{repo}/{folder} holds no parquet files: download the data set and give its folder')
