"""Other programs read our ONNX files right."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from resnet_hub import export, load_model

pytest.importorskip('onnx')
pytest.importorskip('onnxscript')
pytest.importorskip('onnxruntime')

NAMES = ['cifar_resnet8.cifar10', 'preact_resnet20.cifar10']


@pytest.fixture(scope='module', params=NAMES)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any, Any]:
    """A file for single images, an image and its logits."""
    path = export(request.param, tmp_path_factory.mktemp('readers') / 'net.onnx').path
    x = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return path, x.numpy(), load_model(request.param, 'cpu')(x).numpy()


def check(found: Any, expected: Any) -> None:
    assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()


def test_opencv(case: tuple[Path, Any, Any]) -> None:
    cv2 = pytest.importorskip('cv2')
    path, x, expected = case
    network = cv2.dnn.readNetFromONNX(str(path))
    network.setInput(x)
    check(network.forward(), expected)


def test_tract(case: tuple[Path, Any, Any]) -> None:
    tract = pytest.importorskip('tract')
    path, x, expected = case
    network = tract.onnx().load(str(path)).into_model().into_runnable()
    check(network.run([x])[0].to_numpy(), expected)


def test_openvino(case: tuple[Path, Any, Any]) -> None:
    pytest.importorskip('openvino')
    path, x, expected = case
    check(load_model(str(path), backend='openvino')(torch.from_numpy(x)).numpy(), expected)
