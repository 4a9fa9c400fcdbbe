"""optimize(backend='openvino'): another runtime in the place of PyTorch."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from resnet_hub import InputError, load_model, optimize, predict
from resnet_hub.utils.distributed import has_fast_bf16
from tests.conftest import ROOT

pytest.importorskip('openvino')
from resnet_hub.runtimes.openvino import SIZES  # it imports openvino

NAME = 'cifar_resnet8.cifar10'
CAT = ROOT / 'tests' / 'images' / 'cat.jpg'


@pytest.fixture(scope='module')
def fast() -> torch.nn.Module:
    return optimize(NAME, backend='openvino')


def test_logits_are_those_of_the_network(fast: torch.nn.Module) -> None:
    """For any number of images, in any memory order; in float32 also where the processor has bfloat16."""
    network = load_model(NAME, 'cpu')
    for count in (3, 1):
        x = torch.randn(count, 3, 32, 32).to(memory_format=torch.channels_last)
        with torch.no_grad():
            expected = network(x)
        assert (fast(x) - expected).abs().max() <= 1e-4 * expected.abs().max()


def test_a_second_call_leaves_the_first_result_alone(fast: torch.nn.Module) -> None:
    first = fast(torch.randn(2, 3, 32, 32))
    before = first.clone()
    fast(torch.randn(2, 3, 32, 32))
    assert torch.equal(first, before)


def test_predict_takes_it(fast: torch.nn.Module) -> None:
    assert next(iter(predict(fast, [CAT]))).classes[0][0] == 'cat'


def test_int8_is_close() -> None:
    for package in ('onnx', 'onnxruntime', 'onnxscript'):
        pytest.importorskip(package)
    network = load_model(NAME, 'cpu')
    images = torch.randn(40, 3, 32, 32)
    fast = optimize(network, backend='openvino', int8=images)
    with torch.no_grad():
        expected = network(images)
    difference = (fast(images) - expected).abs().max() / expected.abs().max()
    assert 1e-4 < difference < 0.3
    assert (fast(images).argmax(1) == expected.argmax(1)).double().mean() > 0.8


def test_bf16() -> None:
    """It rounds to bfloat16 where the processor computes in it, and only there."""
    network = load_model(NAME, 'cpu')
    x = torch.randn(4, 3, 32, 32)
    with torch.no_grad():
        expected = network(x)
    found = optimize(network, backend='openvino', dtype=torch.bfloat16)(x)
    assert found.dtype == torch.float32
    difference = (found - expected).abs().max() / expected.abs().max()
    assert 1e-4 < difference < 0.05 if has_fast_bf16(x.device) else difference <= 1e-4


def test_more_batch_sizes_than_get_a_compilation() -> None:
    fast, network = optimize(NAME, backend='openvino'), load_model(NAME, 'cpu')
    for count in (*range(1, SIZES + 3), 2):
        x = torch.randn(count, 3, 32, 32)
        with torch.no_grad():
            assert torch.allclose(fast(x), network(x), atol=1e-4)


@pytest.mark.parametrize(
    'options, message',
    [
        ({'backend': 'tensorrt'}, "backend must be 'openvino' or None, not 'tensorrt'"),
        ({'backend': 'openvino', 'compile': True}, 'leave out compile'),
        ({'backend': 'openvino', 'dtype': torch.float16}, 'computes in float32 or torch.bfloat16'),
    ],
)
def test_refusals(options: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        optimize(NAME, **options)
