"""ONNX files: what they hold, and that they compute what the network computes."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image

import resnet_hub
from resnet_hub import InputError, ResnetHubError, export, load_model
from resnet_hub.data.images import Images
from resnet_hub.inference.transform import make_transform
from tests.conftest import ROOT

onnx = pytest.importorskip('onnx')
onnxruntime = pytest.importorskip('onnxruntime')
pytest.importorskip('onnxscript')

V1, V2 = 'cifar_resnet8.cifar10', 'preact_resnet20.cifar10'
CAT = ROOT / 'tests' / 'images' / 'cat.jpg'


@pytest.fixture(scope='module')
def v1(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(V1, tmp_path_factory.mktemp('onnx') / 'net.onnx', dynamic_batch=True).path


def run_onnx(path: Path, x: Any) -> list[Any]:
    """Run a file with ONNX Runtime alone, without our code."""
    session = onnxruntime.InferenceSession(str(path))
    outputs: list[Any] = session.run(None, {session.get_inputs()[0].name: x})
    return outputs


@pytest.mark.parametrize('name', [V1, V2])
def test_logits_are_those_of_the_network(name: str, tmp_path: Path) -> None:
    report = export(name, tmp_path / 'net.onnx')
    x = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        expected = load_model(name)(x).numpy()
    assert np.abs(run_onnx(report.path, x.numpy())[0] - expected).max() <= 1e-4 * np.abs(expected).max()
    assert report.logit_error <= 1e-4


def test_norms_are_folded(v1: Path, tmp_path: Path) -> None:
    """V1 keeps none. V2 keeps one for each block and the last one: they read a sum."""
    assert 'BatchNormalization' not in Counter(node.op_type for node in onnx.load(v1).graph.node)
    report = export(V2, tmp_path / 'v2.onnx')
    assert Counter(node.op_type for node in onnx.load(report.path).graph.node)['BatchNormalization'] == 10
    assert report.norms_left == 10


def test_one_file_holds_everything_and_nothing_of_this_machine(v1: Path) -> None:
    assert [file.name for file in v1.parent.iterdir()] == ['net.onnx']
    model = onnx.load(v1, load_external_data=False)
    assert not any(tensor.external_data for tensor in model.graph.initializer)
    assert str(ROOT).encode() not in v1.read_bytes()
    assert b'.py' not in v1.read_bytes()


def test_same_network_gives_same_bytes(v1: Path, tmp_path: Path) -> None:
    again = export(V1, tmp_path / 'again.onnx', dynamic_batch=True).path
    assert again.read_bytes() == v1.read_bytes()


def test_any_batch(v1: Path) -> None:
    x = torch.randn(5, 3, 32, 32)
    with torch.no_grad():
        expected = load_model(V1)(x).numpy()
    for count in (1, 5):
        assert np.allclose(run_onnx(v1, x[:count].numpy())[0], expected[:count], atol=1e-4)


def test_metadata(v1: Path) -> None:
    held = {entry.key: entry.value for entry in onnx.load(v1).metadata_props}
    metadata = json.loads(held['resnet_hub'])
    cfg = metadata['pretrained_cfg']
    assert metadata['source'] == V1
    assert metadata['license'] == 'apache-2.0'
    assert metadata['source_sha256'] == resnet_hub.tables.weights.WEIGHTS[V1].digest.removeprefix('sha256:')
    assert metadata['versions']['torch'] == torch.__version__.partition('+')[0]
    assert cfg['label_names'][3] == 'cat'
    assert cfg['mean'] == [0.4914, 0.4822, 0.4465]
    assert cfg['input_size'] == [3, 32, 32]


def picture(width: int, height: int) -> Image.Image:
    """Return a photograph scaled to a size, with the edges and noise of one."""
    noise = np.random.default_rng(0).integers(-20, 21, (height, width, 3))
    pixels = np.asarray(Image.open(CAT).convert('RGB').resize((width, height)), dtype=int)
    return Image.fromarray((pixels + noise).clip(0, 255).astype(np.uint8))


@pytest.fixture(scope='module')
def with_preprocessing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(V1, tmp_path_factory.mktemp('onnx') / 'net.onnx', with_preprocessing=True).path


@pytest.mark.parametrize('size', [(640, 480), (333, 500), (100, 290), (32, 32), (20, 17), (9, 60)])
def test_preprocessing_gives_the_probabilities_of_predict(with_preprocessing: Path, size: tuple[int, int]) -> None:
    image, network = picture(*size), load_model(V1, 'cpu')
    with torch.no_grad():
        logits = network(make_transform(network)(image)[None])
    found = run_onnx(with_preprocessing, np.asarray(image))
    assert np.abs(found[0] - logits.numpy()).max() <= 1e-4 * np.abs(logits.numpy()).max()
    assert np.abs(found[1] - logits.softmax(1).numpy()).max() <= 1e-4


@pytest.fixture
def noise() -> Images:
    pixels = torch.randint(256, (40, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return Images(pixels, torch.zeros(40, dtype=torch.int64))


def test_int8(tmp_path: Path, noise: Images, command: Any) -> None:
    """Weights have 8 bits and a scale for each output channel, activations are unsigned.

    The first convolution is float32, because without VNNI its sums overflow; and so are the logits.
    """
    with torch.no_grad():
        x = torch.randn(40, 3, 32, 32)
        labelled = Images(noise.pixels, load_model(V1, 'cpu')(x).argmax(1))
    with pytest.warns(UserWarning, match='accuracy of the int8 file was not measured'):
        path = export(V1, tmp_path / 'net.onnx', int8=True, calibrate=labelled).path
    model = onnx.load(path)
    weights = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    quantised = [values for values in weights.values() if values.dtype == np.int8 and values.ndim == 4]
    assert len(quantised) == 8
    assert all(np.abs(values.astype(int)).max() == 127 for values in quantised)
    assert [values.shape for values in weights.values() if values.dtype == np.float32 and values.ndim == 4] == [
        (16, 3, 3, 3)
    ]
    assert next(node.op_type for node in model.graph.node if 'logits' in node.output) == 'Gemm'
    scales = [n for n in model.graph.node if n.op_type == 'DequantizeLinear' and weights[n.input[1]].ndim == 1]
    assert len(scales) >= 8
    assert not any(
        weights[node.input[2]].dtype == np.int8 for node in model.graph.node if node.op_type == 'QuantizeLinear'
    )
    np.savez(tmp_path / 'noise.npz', images=labelled.pixels.numpy(), labels=labelled.labels.numpy())
    measure = 'evaluate', path, '--data', tmp_path / 'noise.npz'
    assert json.loads(command(*measure, '--json').out)[0]['precision'] == 'int8'
    assert 'computes in its own precision, here int8: leave out --bf16' in command(*measure, '--bf16', expect=2).err


def test_int8_that_loses_accuracy_is_not_written(tmp_path: Path, noise: Images) -> None:
    """Ranges that come from black images fit no other ones."""
    network = load_model(V1, 'cpu')
    pixels = (
        noise.pixels[:, ::8, ::8].repeat_interleave(8, 1).repeat_interleave(8, 2)
    )  # coloured squares, of all classes
    with torch.no_grad():
        x = torch.stack([make_transform(network)(Image.fromarray(image.numpy())) for image in pixels])
        labelled = Images(pixels, network(x).argmax(1))
    black = Images(torch.zeros_like(pixels), noise.labels)
    with pytest.raises(ResnetHubError, match=r'int8 loses .* points of top-1 .*; nothing was written'):
        export(V1, tmp_path / 'net.onnx', int8=True, calibrate=black, check=labelled)
    assert not [*tmp_path.iterdir()]


def test_file_that_computes_something_else_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault of a converter, here a network that is changed before it is written."""
    from resnet_hub.exporting import onnx as writer

    original = writer.write

    def write(network: Any, path: Path, options: Any) -> None:
        network.fc.bias.data += 0.1
        original(network, path, options)

    monkeypatch.setattr(writer, 'write', write)
    with pytest.raises(ResnetHubError, match=r'ONNX computes other logits than PyTorch'):
        export(V1, tmp_path / 'net.onnx')
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize('options', [{}, {'int8': True}])
def test_network_that_computes_nan_is_blamed(options: dict[str, Any], tmp_path: Path, noise: Images) -> None:
    network: Any = load_model(V1, 'cpu')
    network.layer1[0].conv1.weight.data[0, 0] = torch.nan
    with pytest.raises(InputError, match=r'CifarResNet itself gives logits that are not finite'):
        export(network, tmp_path / 'net.onnx', calibrate=noise if options else None, **options)
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    'output, options, message',
    [
        ('net', {}, r'the suffix of .*net shows no format: .*: onnx, openvino'),
        ('net.onnx', {'to': 'openvino'}, r'net.onnx does not end with .xml'),
        ('net', {'to': 'onxx'}, r"unknown format 'onxx': use one of onnx, .*did you mean onnx"),
        ('net.onnx', {'int8': True}, r'int8 needs calibrate'),
        ('net.onnx', {'calibrate': 'cifar10'}, r'add --int8, or leave out --calibrate'),
        ('net.onnx', {'with_preprocessing': True, 'dynamic_batch': True}, r'one picture at a time'),
    ],
)
def test_refusals(output: str, options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        export(V1, tmp_path / output, **options)


def test_existing_file_is_kept(tmp_path: Path) -> None:
    file = tmp_path / 'net.onnx'
    file.write_text('mine')
    with pytest.raises(InputError, match='exists'):
        export(V1, file)
    assert file.read_text() == 'mine'
    export(V1, file, force=True)
    assert file.stat().st_size > 1000


def test_other_number_of_channels(tmp_path: Path) -> None:
    network = timm.create_model('cifar_resnet8', in_chans=1, num_classes=7).eval()
    path = export(network, tmp_path / 'net.onnx').path
    x = torch.randn(1, 1, 32, 32)
    with torch.no_grad():
        assert np.allclose(run_onnx(path, x.numpy())[0], network(x).numpy(), atol=1e-5)


def test_folder_and_command(tmp_path: Path, command: Any) -> None:
    report = json.loads(command('export', V1, '-o', tmp_path / 'net', '--to', 'onnx', '--json').out)
    assert report['path'] == str(tmp_path / 'net' / 'model.onnx')
    assert 'ONNX, float32' in command('export', V1, '-o', tmp_path / 'net', '--to', 'onnx', '--force').out
    assert 'model.onnx exists' in command('export', V1, '-o', tmp_path / 'net', '--to', 'onnx', expect=2).err
