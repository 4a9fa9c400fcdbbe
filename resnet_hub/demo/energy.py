"""Thresholds of the energy score. A picture with a lower score probably shows none of the network's classes.

The energy score of a picture is the logarithm of the sum of the exponentials of its logits (Liu et al., Energy-based
Out-of-distribution Detection, NeurIPS 2020, equation 4 with temperature 1, sign changed). The threshold follows that
paper's evaluation: 95 % of the test images of the network's own data set reach it. The script
`scripts/maintenance/measure_weights.py` measures the thresholds of our weights and writes them into energy.csv.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from resnet_hub.data.labelled import LabelledImages
from resnet_hub.inference.logits import compute_outputs
from resnet_hub.inference.ood import ood_scores

TABLE = Path(__file__).with_suffix('.csv')
PERCENT = 95  #: share of the test images, in %, that reach the threshold


class Threshold(NamedTuple):
    """An energy score, and the pictures on which it was measured."""

    energy: float
    source: str  #: description of the pictures, such as '10,000 CIFAR-10 test pictures'


def read_thresholds() -> dict[str, Threshold]:
    """Return the thresholds of our weights, by the name of the weights."""
    with TABLE.open(encoding='utf-8', newline='') as file:
        return {row['weights']: Threshold(float(row['energy']), row['source']) for row in csv.DictReader(file)}


def measure_threshold(model: nn.Module, images: LabelledImages, what: str) -> Threshold:
    """Return the energy score that `PERCENT` % of the images reach.

    Args:
        model: a network with a timm `pretrained_cfg`.
        images: images of the network's classes on which it was not trained. Their labels are not used.
        what: description of the images, such as 'CIFAR-10 test pictures'.
    """
    return find_threshold(ood_scores(compute_outputs(model, images).logits)['energy'], what)


def find_threshold(energies: Tensor, what: str) -> Threshold:
    """Return the value that `PERCENT` % of the energy scores reach.

    Args:
        energies: float64 (N,).
        what: description of the images.
    """
    energy = torch.quantile(energies, 1 - PERCENT / 100)
    return Threshold(round(float(energy), 3), f'{len(energies):,} {what}')
