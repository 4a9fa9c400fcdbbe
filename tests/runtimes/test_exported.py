"""Exported files in the place of networks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from resnet_hub import InputError, ResnetHubError, export, load_model, optimize, predict
from tests.conftest import ROOT

onnx = pytest.importorskip('onnx')
pytest.importorskip('onnxruntime')
pytest.importorskip('onnxscript')

NAME = 'cifar_resnet8.cifar10'
CAT = ROOT / 'tests' / 'images' / 'cat.jpg'


@pytest.fixture(scope='module', params=['batch of one', 'any batch', 'with preprocessing'])
def file(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    options = {'any batch': {'dynamic_batch': True}, 'with preprocessing': {'with_preprocessing': True}}
    path = tmp_path_factory.mktemp('exported') / 'net.onnx'
    return export(NAME, path, **options.get(request.param, {})).path


def test_evaluate_gives_the_accuracy_of_the_network(file: Path, command: Any, tiny_data: Any, tmp_path: Path) -> None:
    log = tmp_path / 'log.csv'
    rows = json.loads(command('evaluate', NAME, file, '--data', tiny_data[0], '--json', '--append', log).out)
    for figure in ('top1', 'nll', 'ece'):
        assert rows[1][figure] == pytest.approx(rows[0][figure], abs=1e-3)
    assert rows[0]['confusion'] == rows[1]['confusion']
    digests = [line.rpartition(',')[2] for line in log.read_text().splitlines()[1:]]
    assert digests[0] != digests[1]


def test_predict_gives_the_probabilities_of_the_network(file: Path, command: Any) -> None:
    expected, found = (
        json.loads(command('predict', CAT, CAT, '--model', model, '--json').out)[1]['classes'] for model in (NAME, file)
    )
    assert [row['label'] for row in found] == [row['label'] for row in expected]
    assert [row['probability'] for row in found] == pytest.approx([row['probability'] for row in expected], abs=1e-4)


def test_more_files_than_a_batch(file: Path) -> None:
    answers = [*predict(load_model(str(file)), [CAT] * 5, batch_size=2)]
    assert {answer.classes[0][0] for answer in answers} == {'cat'}


def test_it_cannot_be_trained_or_optimised(file: Path) -> None:
    network = load_model(str(file))
    assert not network.training
    with pytest.raises(ResnetHubError, match='cannot be trained'):
        network.train()
    with pytest.raises(InputError, match='exported network cannot be optimised'):
        optimize(network)
    with pytest.raises(InputError, match='is already an exported file'):
        export(str(file), file.parent / 'again.onnx')


def test_file_of_another_program(tmp_path: Path) -> None:
    """It runs, with a warning that says what is assumed."""
    path = tmp_path / 'net.onnx'
    program = torch.onnx.export(
        load_model(NAME, 'cpu'),
        (torch.randn(2, 3, 32, 32),),
        dynamic_shapes=({0: torch.export.Dim('n')},),
        verbose=False,
    )
    assert program
    program.save(path, external_data=False)
    with pytest.warns(UserWarning, match='names neither its classes nor its normalisation: those of cifar10'):
        network = load_model(str(path))
    assert next(predict(network, [CAT])).classes[0][0] == 'cat'


@pytest.mark.parametrize(
    'name, content, options, message',
    [
        ('net.onnx', None, {}, 'no such file'),
        ('net.onnx', b'not onnx', {}, 'ONNX Runtime cannot read it'),
        ('net.onnx', b'', {'backend': 'executorch'}, "'executorch' does not read ONNX; use onnxruntime or openvino"),
        (NAME, None, {'backend': 'openvino'}, 'is not an exported file, and only these have a backend'),
    ],
)
def test_refusals(name: str, content: bytes | None, options: Any, message: str, tmp_path: Path) -> None:
    if name != NAME:
        if content is not None:
            (tmp_path / name).write_bytes(content)
        name = str(tmp_path / name)
    with pytest.raises(InputError, match=message):
        load_model(name, **options)


def test_command_names_what_is_missing(tmp_path: Path, command: Any) -> None:
    assert 'no such file' in command('predict', CAT, '--model', tmp_path / 'net.onnx', expect=2).err
