"""What holds for every format: the logits, the metadata, the preprocessing, nothing of this machine in the file."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from resnet_hub import InputError, export, load_model
from resnet_hub.data.images import Images
from resnet_hub.inference.transform import make_transform
from resnet_hub.runtimes.formats import FORMATS
from tests.conftest import ROOT

NAME = 'cifar_resnet8.cifar10'
CAT = ROOT / 'tests' / 'images' / 'cat.jpg'
NEEDS = {
    'onnx': ('onnx', 'onnxruntime', 'onnxscript'),
    'openvino': ('openvino', 'onnx', 'onnxruntime', 'onnxscript'),
    'pt2': (),
    'executorch': ('executorch',),
}


pytestmark = pytest.mark.filterwarnings('ignore::DeprecationWarning')  # of ExecuTorch and torchao


@pytest.fixture(scope='module', params=FORMATS)
def to(request: pytest.FixtureRequest) -> str:
    for package in NEEDS[request.param]:
        pytest.importorskip(package)
    return str(request.param)


def run_alone(path: Path, x: np.ndarray[Any, Any]) -> list[Any]:
    """Run a file with its runtime alone, without our code."""
    if path.suffix == '.onnx':
        import onnxruntime

        session = onnxruntime.InferenceSession(str(path))
        return list(session.run(None, {session.get_inputs()[0].name: x}))
    if path.suffix == '.xml':
        import openvino

        compiled = openvino.Core().compile_model(str(path), 'CPU', {'INFERENCE_PRECISION_HINT': 'f32'})
        return list(compiled(x).values())
    if path.suffix == '.pt2':
        result = torch.export.load(path).module()(torch.from_numpy(x))
        return [tensor.detach().numpy() for tensor in (result if isinstance(result, tuple) else (result,))]
    from executorch.runtime import Runtime

    method = Runtime.get().load_program(path).load_method('forward')
    return [tensor.numpy() for tensor in method.execute([torch.from_numpy(x)])]


@pytest.fixture(scope='module')
def exported(to: str, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Exports the network into a folder of its own; once for the same options."""

    @cache
    def run(**options: Any) -> Path:
        return export(NAME, tmp_path_factory.mktemp('exported') / 'net', to, **options).path

    return run


@pytest.fixture(scope='module')
def network() -> torch.nn.Module:
    return load_model(NAME, 'cpu')


def test_any_batch(exported: Callable[..., Path], network: torch.nn.Module) -> None:
    """The logits are those of the network."""
    path = exported(dynamic_batch=True)
    x = torch.randn(5, 3, 32, 32)
    with torch.no_grad():
        expected = network(x).numpy()
    for count in (1, 5):
        difference = run_alone(path, x[:count].numpy())[0] - expected[:count]
        assert np.abs(difference).max() <= 1e-4 * np.abs(expected).max()


def test_batch_of_one(exported: Callable[..., Path], network: torch.nn.Module) -> None:
    """Through our own code, which runs one image after the other."""
    x = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        assert torch.allclose(load_model(str(exported()))(x), network(x), atol=1e-4)


def test_what_the_file_says_about_itself(exported: Callable[..., Path], network: Any) -> None:
    loaded: Any = load_model(str(exported()))
    for key in ('mean', 'std', 'label_names', 'input_size', 'interpolation'):
        assert tuple(loaded.pretrained_cfg[key]) == tuple(network.pretrained_cfg[key]), key
    assert loaded.metadata['source'] == NAME
    assert loaded.metadata['license'] == 'apache-2.0'
    assert loaded.num_classes == 10


def test_nothing_of_this_machine_is_in_the_file(exported: Callable[..., Path]) -> None:
    for file in exported().parent.iterdir():
        parts = [file.read_bytes()]
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                parts = [archive.read(name) for name in archive.namelist()]
        words = str(ROOT), str(file.parent), '.py'
        assert not any(word.encode() in part for part in parts for word in words)


def test_size_is_that_of_the_weights(exported: Callable[..., Path], network: torch.nn.Module) -> None:
    """No example images are stored, no weight twice, and float32 stays float32."""
    weights = 4 * sum(parameter.numel() for parameter in network.parameters())
    for path in (exported(), exported(dynamic_batch=True)):
        assert 0.98 * weights < sum(file.stat().st_size for file in path.parent.iterdir()) < 1.5 * weights


def test_preprocessing_gives_the_probabilities_of_predict(to: str, exported: Any, network: torch.nn.Module) -> None:
    if to == 'executorch':
        with pytest.raises(InputError, match='without with_preprocessing'):
            exported(with_preprocessing=True)
        return
    for size in ((640, 480), (333, 500), (32, 32), (64, 40)):
        image = Image.open(CAT).convert('RGB').resize(size)
        with torch.no_grad():
            expected = network(make_transform(network)(image)[None]).softmax(1).numpy()
        found = run_alone(exported(with_preprocessing=True), np.array(image))[1]
        assert np.abs(found - expected).max() <= 1e-4, size


def test_int8(to: str, exported: Callable[..., Path], network: torch.nn.Module, tmp_path: Path) -> None:
    """A file of half the size answers noise mostly as the network does."""
    pixels = torch.randint(256, (60, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    transform = make_transform(network)
    with torch.no_grad():
        x = torch.stack([transform(Image.fromarray(image.numpy())) for image in pixels])
        images = Images(pixels, network(x).argmax(1))
    options: Any = {'int8': True, 'calibrate': images, 'check': images, 'tolerance': 20}
    if to == 'pt2':
        with pytest.raises(InputError, match='onnx, openvino or executorch'):
            export(NAME, tmp_path, to, **options)
        return
    report = export(NAME, tmp_path, to, **options)
    assert report.top1 is not None and report.top1 >= 80
    assert report.network_top1 == 100
    assert report.changed == pytest.approx(100 - report.top1)
    assert report.size < 0.6 * sum(file.stat().st_size for file in exported().parent.iterdir())
