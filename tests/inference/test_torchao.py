"""optimize(int8=images): PyTorch computes with 8-bit integers."""

from __future__ import annotations

import shutil
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch._inductor.utils import run_and_get_code

from resnet_hub import InputError, load_model, optimize
from resnet_hub.inference.transform import make_transform
from tests.conftest import ROOT

pytest.importorskip('torchao')
pytestmark = [
    pytest.mark.filterwarnings('ignore::DeprecationWarning'),  # of torchao
    pytest.mark.skipif(not shutil.which('g++'), reason='torch.compile needs a C++ compiler'),
]

NAME = 'cifar_resnet8.cifar10'


@pytest.fixture(scope='module')
def network() -> Any:
    return load_model(NAME, 'cpu')


@pytest.fixture(scope='module')
def pictures(network: Any) -> torch.Tensor:
    """60 parts of a photograph, of many classes in the eyes of the network."""
    picture = Image.open(ROOT / 'tests' / 'images' / 'cat.jpg').convert('RGB').resize((400, 400))
    corners = np.random.default_rng(0).integers(0, 300, (60, 2)).tolist()
    transform = make_transform(network)
    return torch.stack([transform(picture.crop((x, y, x + 100, y + 100))) for x, y in corners])


def test_it_computes_in_int8_almost_what_the_network_does(network: Any, pictures: torch.Tensor) -> None:
    fast = optimize(network, int8=pictures[:40])
    with torch.no_grad():
        expected = network(pictures)
    found, (code, *_) = run_and_get_code(fast, pictures)
    assert code.count('qconv2d_pointwise') >= 9  # oneDNN's convolution of 8-bit integers
    assert found.dtype == torch.float32
    assert 1e-4 < (found - expected).abs().max() / expected.abs().max() < 0.1
    assert (found.argmax(1) == expected.argmax(1)).double().mean() >= 0.95
    assert torch.allclose(fast(pictures[:7]), found[:7], atol=1e-3)  # of another size
    assert fast.pretrained_cfg is not None and fast.num_classes == 10


def test_refusals(network: Any, pictures: torch.Tensor) -> None:
    with pytest.raises(InputError, match=r'int8 and torch\.bfloat16 contradict each other'):
        optimize(network, int8=pictures, dtype=torch.bfloat16)
    with pytest.raises(InputError, match='PyTorch computes in int8 on a CPU only, and the network is on meta'):
        optimize(load_model(NAME, 'cpu').to('meta'), int8=pictures)
