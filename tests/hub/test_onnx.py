"""Uploading for JavaScript: transformers.js gives Python's answer."""
# ruff: noqa: F811 - fixtures

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from timm.models import save_for_hf

from resnet_hub.data.sources import read_labelled
from resnet_hub.exporting.export import export
from resnet_hub.hub.onnx import prepare_onnx
from resnet_hub.hub.package import prepare
from resnet_hub.inference.predict import predict
from resnet_hub.registry.loading import load_model
from tests.hub.fixtures import clients, hub, network, server  # noqa: F401
from tests.pictures import encode, photograph

pytest.importorskip('onnxruntime')
TRANSFORMERS_JS = '@huggingface/transformers@4.3.2'
NAME = 'cifar_resnet20.cifar10'
SCRIPT = """
import { env, pipeline } from '@huggingface/transformers';
const [folder, repository, dtype, ...pictures] = process.argv.slice(2);
env.allowRemoteModels = false;
env.localModelPath = folder;
const classify = await pipeline('image-classification', repository, dtype === 'default' ? {} : { dtype });
const answers = [];
for (const picture of pictures) answers.push(await classify(picture, { top_k: 10 }));
console.log(JSON.stringify(answers));
"""


def test_the_second_repository(hub: Any, clients: Any, network: Path) -> None:
    """One commit for each, then none; a card that a person wrote stays; other files of the first are as without."""
    done = clients.command('upload', network, 'me/net', '--onnx')
    assert done.code == 0 and done.out.count(': sent, ') == 2, done
    first, second = hub.files('me/net'), hub.files('me/net-ONNX')
    assert second.keys() == {
        '.gitattributes',
        'README.md',
        'config.json',
        'preprocessor_config.json',
        'onnx/model.onnx',
    }
    assert not any('onnx' in name or 'preprocessor' in name for name in first)
    config = json.loads(second['config.json'])
    assert config['id2label']['3'] == 'cat' and config['transformers.js_config'] == {'dtype': 'fp32'}
    assert str(network).encode() not in b''.join(second.values())
    assert clients.command('upload', network, 'me/net', '--onnx').out.count(': unchanged, ') == 2
    hub.plant('me/net-ONNX', {'README.md': b'---\nlicense: mit\n---\nOf a person.\n'})
    assert clients.command('upload', network, 'me/net', '--onnx').out.count(': unchanged, ') == 2


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['me', '--onnx'], '--onnx publishes one folder'),
        (['me/net', '--calibrate', 'x'], '--calibrate needs --onnx, and --check needs --calibrate'),
        (['me/net', '--onnx', '--check', 'x'], '--calibrate needs --onnx, and --check needs --calibrate'),
    ],
)
def test_refusals(arguments: list[str], message: str, network: Path, command: Any) -> None:
    assert message in command('upload', network, *arguments, expect=2).err


@pytest.fixture(scope='module')
def node(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which Node finds transformers.js, from npm, none of whose install scripts was run."""
    npm = shutil.which('npm')
    if npm is None or shutil.which('node') is None:
        pytest.skip('Node.js is not installed')
    folder = tmp_path_factory.mktemp('node')
    command = [npm, 'install', '--ignore-scripts', '--no-audit', '--no-fund', '--silent', TRANSFORMERS_JS]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=280)
    if done.returncode:
        pytest.skip(f'npm cannot install {TRANSFORMERS_JS}: {done.stderr[-200:]}')
    (folder / 'classify.mjs').write_text(SCRIPT)
    return folder


@pytest.mark.filterwarnings('ignore:the accuracy of the int8 file was not measured')
def test_transformers_js_answers_what_python_does(node: Path, tmp_path: Path, data_root: Path) -> None:
    model: Any = load_model(NAME, 'cpu')
    save_for_hf(model, tmp_path / 'net', safe_serialization=True)
    calibration: Any = read_labelled(data_root, 'train', dataset='cifar10')[:300].load()
    package = prepare_onnx(prepare(tmp_path / 'net', 'me/net'), calibration)
    for name, content in package.files.items():
        path = tmp_path / package.repo_id / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    pictures = [tmp_path / 'large.jpg', tmp_path / 'small.png']
    pictures[0].write_bytes(encode(photograph(640, 480), format='JPEG', quality=90))
    pictures[1].write_bytes(encode(photograph(32, 32), format='PNG'))
    quantised = load_model(str(export(model, tmp_path / 'q8.onnx', int8=True, calibrate=calibration).path))
    for dtype, source, tolerance in (('fp32', model, 1e-4), ('q8', quantised, 0.01)):
        expected = [dict(prediction.classes) for prediction in predict(source, pictures, topk=10)]
        command = ['node', 'classify.mjs', f'{tmp_path}/', package.repo_id, dtype, *map(str, pictures)]
        done = subprocess.run(command, cwd=node, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        found = [{row['label']: row['score'] for row in answer} for answer in json.loads(done.stdout)]
        for ours, theirs in zip(expected, found, strict=True):
            assert theirs == pytest.approx(ours, abs=tolerance)
