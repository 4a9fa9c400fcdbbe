"""The folder of the page: what is in it, and what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub import SpaceCard

from resnet_hub.data.labelled import LabelledImages
from resnet_hub.data.sources import read_labelled
from resnet_hub.demo import runtime
from resnet_hub.demo.build import build_demo
from resnet_hub.demo.energy import measure_threshold, read_thresholds
from resnet_hub.registry.loading import load_model
from resnet_hub.tables.weights import RESNET_HUB, WEIGHTS
from resnet_hub.utils.errors import InputError, ResnetHubError

pytest.importorskip('onnxruntime')
NAME = 'cifar_resnet8.cifar10'


@pytest.fixture
def empty_runtime(tmp_path: Path) -> Path:
    """A folder with the names of the runtime's files; what is in them matters only in a browser."""
    folder = tmp_path / 'runtime'
    folder.mkdir()
    for name in runtime.FILES:
        (folder / name).touch()
    return folder


def test_the_folder(tmp_path: Path, empty_runtime: Path, command: Callable[..., Any]) -> None:
    folder = tmp_path / 'page'
    output = command('demo', NAME, '-o', folder, '--runtime', empty_runtime)
    assert f'http.server -b localhost -d {folder}' in output.out
    content = json.loads((folder / 'demo.json').read_text())
    (model,) = content['models']
    assert model['classes'][3] == 'cat' and len(model['classes']) == 10
    assert model['view'] == {'size': 32, 'resize': 32, 'filter': 'bicubic'}
    assert model['facts'] == f'10 classes · 78,042 parameters · {WEIGHTS[NAME].top1:.1f} % right on CIFAR-10'
    named = [model['file'], *(row['file'] for row in content['examples'])]
    assert all((folder / path).stat().st_size > 1000 for path in named)
    card = SpaceCard((folder / 'README.md').read_text(encoding='utf-8'))  # as the Hub reads it
    assert card.data.sdk == 'static' and (folder / card.data.app_file).is_file()
    assert card.data.license == 'apache-2.0'
    assert str(tmp_path) not in ''.join(path.read_text() for path in folder.glob('*.*') if path.suffix != '.onnx')


def test_an_exported_file_goes_onto_the_page_as_it_is(tmp_path: Path, empty_runtime: Path) -> None:
    from resnet_hub.exporting.export import export

    export(NAME, tmp_path / 'mine.onnx')
    page = build_demo([str(tmp_path / 'mine.onnx'), NAME], tmp_path / 'page', runtime=empty_runtime)
    first, second = page.models
    assert (page.folder / first['file']).read_bytes() == (tmp_path / 'mine.onnx').read_bytes()
    assert {**first, 'file': 0, 'facts': 0, 'threshold': 0} == {**second, 'file': 0, 'facts': 0, 'threshold': 0}
    export(NAME, tmp_path / 'picture.onnx', with_preprocessing=True)
    with pytest.raises(InputError, match='without preprocessing'):
        build_demo(str(tmp_path / 'picture.onnx'), tmp_path / 'other', runtime=empty_runtime)
    assert not (tmp_path / 'other').exists()


def test_nothing_of_the_user_is_lost(tmp_path: Path, empty_runtime: Path) -> None:
    folder = tmp_path / 'page'
    folder.mkdir()
    (folder / 'mine.txt').write_text('mine')
    (folder / 'index.html').write_text('old')
    with pytest.raises(InputError, match='is not empty'):
        build_demo(NAME, folder, runtime=empty_runtime)
    assert sorted(path.name for path in folder.iterdir()) == ['index.html', 'mine.txt']
    build_demo(NAME, folder, runtime=empty_runtime, force=True)
    assert (folder / 'mine.txt').read_text() == 'mine' and (folder / 'index.html').read_text() != 'old'
    assert [path for path in tmp_path.iterdir() if path.name.startswith('.')] == []


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['cifar_resnet20', 'cifar_resnet20', 'cifar_resnet20'], 'one or two models, not 3'),
        (['cifar_resnt20'], 'did you mean cifar_resnet20'),
        ([NAME, '--runtime', 'nowhere'], 'give the folder dist/ of onnxruntime-web@'),
    ],
)
def test_refusals(
    arguments: list[str], message: str, tmp_path: Path, empty_runtime: Path, command: Callable[..., Any]
) -> None:
    given = arguments if '--runtime' in arguments else [*arguments, '--runtime', empty_runtime]
    assert message in command('demo', *given, '-o', tmp_path / 'page', expect=2).err
    assert not (tmp_path / 'page').exists()


def test_a_network_of_other_pictures_is_refused() -> None:
    import timm

    from resnet_hub.demo.build import _view

    model: Any = timm.create_model('cifar_resnet8', in_chans=3)
    model.pretrained_cfg = {**model.pretrained_cfg, 'crop_pct': 0.875}
    assert _view('mine', model)['resize'] == 36  # as timm: floor(32 / 0.875)
    model.pretrained_cfg = {**model.pretrained_cfg, 'crop_mode': 'squash'}
    with pytest.raises(InputError, match='mine: a page can run networks that take square RGB pictures'):
        _view('mine', model)


def test_npm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Callable[..., Any]) -> None:
    """Without npm one line says what to do; another package than the pinned one is not used."""
    monkeypatch.setenv('RESNET_HUB_CACHE', str(tmp_path / 'cache'))
    monkeypatch.setenv('PATH', str(tmp_path))
    error = command('demo', NAME, '-o', tmp_path / 'page', expect=1).err.splitlines()[-1]
    assert 'npm is not installed' in error and '--runtime' in error
    npm = tmp_path / 'npm'
    npm.write_text(f'#!/bin/sh\necho other > onnxruntime-web-{runtime.VERSION}.tgz\n')
    npm.chmod(0o755)
    with pytest.raises(ResnetHubError, match='another onnxruntime-web'):
        runtime.runtime_folder()
    npm.write_text('#!/bin/sh\necho no network >&2\nexit 1\n')
    with pytest.raises(ResnetHubError, match='failed: no network'):
        runtime.runtime_folder()
    assert not (tmp_path / 'cache').exists()


def test_npm_fetches_the_pinned_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if shutil.which('npm') is None:
        pytest.skip('npm is not installed')
    monkeypatch.setenv('RESNET_HUB_CACHE', str(tmp_path))
    try:
        folder = runtime.runtime_folder()
    except ResnetHubError as error:
        assert 'another' not in str(error)
        pytest.skip(str(error))
    assert (folder / runtime.FILES[1]).read_bytes()[:4] == b'\0asm'
    assert runtime.is_cached() and runtime.runtime_folder() == folder


def test_the_threshold_is_the_score_that_95_percent_reach() -> None:
    model = load_model(NAME, 'cpu')
    pixels = torch.randint(256, (300, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    images = LabelledImages(list(pixels.numpy()), torch.full((300,), -1))
    threshold = measure_threshold(model, images, 'random pictures')
    cfg: Any = model.pretrained_cfg
    x = (pixels / 255 - torch.tensor(cfg['mean'])) / torch.tensor(cfg['std'])
    with torch.no_grad():
        scores = model(x.permute(0, 3, 1, 2)).double().exp().sum(1).log().numpy()
    assert threshold.source == '300 random pictures'
    assert np.mean(scores >= threshold.energy) == pytest.approx(0.95, abs=0.004)


def test_data_set_the_threshold(
    tmp_path: Path, empty_runtime: Path, tiny_data: tuple[Path, Any], command: Callable[..., Any]
) -> None:
    output = command(
        'demo', NAME, '-o', tmp_path / 'page', '--runtime', empty_runtime, '--data', tiny_data[0], '--json'
    )
    (model,) = json.loads(output.out)['models']
    assert model['threshold']['source'] == '64 CIFAR-10 test pictures'
    assert model['threshold']['energy'] != read_thresholds()[NAME].energy


def test_thresholds_are_of_our_weights() -> None:
    assert read_thresholds().keys() <= {name for name, row in WEIGHTS.items() if row.publisher == RESNET_HUB}


def test_a_measured_threshold_stands_in_the_table(data_root: Path) -> None:
    images = read_labelled(data_root, 'test', dataset='cifar10')
    found = measure_threshold(load_model(NAME, 'cpu'), images, 'CIFAR-10 test pictures')
    assert found.source == read_thresholds()[NAME].source
    assert found.energy == pytest.approx(read_thresholds()[NAME].energy, abs=2e-3)
