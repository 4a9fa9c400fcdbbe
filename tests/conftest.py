"""Fixtures that several test files share."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from resnet_hub.data.images import Images
from resnet_hub.tables.datasets import DATASETS

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope='session')
def data_root() -> Path:
    """Where cifar10/ and cifar100/ lie, as parquet."""
    path = Path(os.environ.get('RESNET_HUB_DATA') or ROOT.parent / 'shared' / 'data')
    needed(path / 'cifar10')
    return path


@pytest.fixture(scope='session')
def published(data_root: Path) -> Path:
    """Where files of other authors lie."""
    return needed(data_root / 'checkpoints')


@pytest.fixture(scope='session')
def thousand_images(data_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the first 1,000 test images of CIFAR-10."""
    (source,) = (data_root / 'cifar10').glob('test-*.parquet')
    path = tmp_path_factory.mktemp('thousand_images') / source.name
    pq.write_table(pq.read_table(source).slice(0, 1000), path)
    return path.parent


def needed(folder: Path) -> Path:
    """A folder of real data, or a skipped test."""
    if not folder.is_dir():
        pytest.skip(f'there is no {folder}; RESNET_HUB_DATA names another place')
    return folder


@pytest.fixture
def run_python(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs code in a fresh interpreter, outside the clone; its output, or an assertion that shows its traceback."""

    def run(code: str, *flags: str, **env: str) -> subprocess.CompletedProcess[str]:
        inherited = {k: v for k, v in os.environ.items() if k != 'RESNET_HUB_AUTOLOAD'}
        done = subprocess.run(
            [sys.executable, *flags, '-c', code],
            cwd=tmp_path,
            env={**inherited, **env},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        return done

    return run


@pytest.fixture(scope='session')
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Images]:
    """320 training and 64 test images of four plain colours under noise, as parquet; and the training split."""
    folder = tmp_path_factory.mktemp('tiny_data')
    generator = torch.Generator().manual_seed(0)
    colours = torch.tensor([[200, 60, 60], [60, 200, 60], [60, 60, 200], [190, 190, 60]])
    for split, count in (('test', 64), ('train', 320)):
        labels = torch.randint(0, 4, (count,), generator=generator)
        noise = torch.randint(-50, 51, (count, 32, 32, 3), generator=generator)
        pixels = (colours[labels][:, None, None] + noise).to(torch.uint8)
        write_parquet(folder / f'{split}-00000-of-00001.parquet', pixels, labels)
    return folder, Images(pixels, labels)


def write_parquet(path: Path, pixels: torch.Tensor, labels: torch.Tensor, dataset: str = 'cifar10') -> None:
    """Images in the schema of the Hub's data set."""
    encoded = []
    for image in pixels.numpy():
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, format='PNG')
        encoded.append({'bytes': buffer.getvalue(), 'path': None})
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = DATASETS[dataset]
    pq.write_table(pa.table({columns.image: encoded, columns.label: labels.tolist()}), path)


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """Runs a command of resnet-hub and returns its output; its exit code must be `expect`."""

    def run(*arguments: Any, expect: int = 0) -> Any:
        from resnet_hub.cli import main

        code = main([str(argument) for argument in arguments])
        output = capsys.readouterr()
        assert code == expect, output.err
        return output

    return run
