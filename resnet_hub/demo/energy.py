"""Thresholds of the energy score, below which a picture is probably of no class that the network knows.

The energy score of a picture is the logarithm of the sum of the exponentials of its logits (Liu et al., Energy-based
Out-of-distribution Detection, NeurIPS 2020, equation 4 with temperature 1, sign changed). The threshold follows that
paper's evaluation: 95 % of the test images of the network's own data set reach it. `scripts/maintenance/energy.py`
measures the thresholds of our weights and writes them into energy.csv.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor, nn

from resnet_hub.inference.mode import evaluation_mode
from resnet_hub.inference.predict import make_transform

TABLE = Path(__file__).with_suffix('.csv')
PERCENT = 95  #: of the test images reach the threshold
_BATCH = 250


class Threshold(NamedTuple):
    """An energy score, and the pictures that it comes from."""

    energy: float
    source: str  #: the pictures in words, '10,000 CIFAR-10 test pictures'


def read_thresholds() -> dict[str, Threshold]:
    """Return the thresholds of our weights, by the name of the weights."""
    with TABLE.open(encoding='utf-8', newline='') as file:
        return {row['weights']: Threshold(float(row['energy']), row['source']) for row in csv.DictReader(file)}


def measure_threshold(model: nn.Module, pixels: Tensor, source: str) -> Threshold:
    """Return the energy score that 95 % of some pictures reach.

    Args:
        model: a network with a timm `pretrained_cfg`.
        pixels: pictures that show its classes and that it was not trained on, uint8 (N, H, W, 3).
        source: what they are, in words.
    """
    from tqdm.auto import tqdm

    transform: Any = make_transform(model)
    energies = []
    with evaluation_mode(model):
        for part in tqdm(pixels.split(_BATCH), 'energy', unit='batch', leave=False, delay=1, disable=None):
            x = torch.stack([transform(Image.fromarray(picture)) for picture in part.numpy()])
            energies.append(model(x).logsumexp(1))
    energy = torch.quantile(torch.cat(energies).double(), 1 - PERCENT / 100)
    return Threshold(round(float(energy), 3), f'{len(pixels):,} {source}')
