"""Temperature scaling: one number that makes the probabilities of a network as confident as it is right."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """Return the temperature that logits are divided by, so that the negative log-likelihood is least.

    Above 1 the network was too confident, below 1 not confident enough; its answers stay the same. Fit it on images that
    the network was not trained on, and never on the test images.

    Guo et al. 2017, On Calibration of Modern Neural Networks, section 4.2.

    Args:
        logits: (N, classes), of any floating dtype.
        labels: int64 (N,).

    Returns:
        The temperature, from 0.01 to 100. At the ends the images say no more: all are right, or no better than chance.
    """
    logits, low, high = logits.double(), -4.7, 4.7  # logarithms of 0.01 and 100
    while high - low > 1e-6:  # the slope has one zero, because the loss is convex in 1 / T
        middle = torch.tensor((low + high) / 2, dtype=torch.float64, requires_grad=True)
        slope = torch.autograd.grad(F.cross_entropy(logits / middle.exp(), labels), middle)[0]
        low, high = (low, float(middle)) if slope > 0 else (float(middle), high)
    return float(torch.tensor((low + high) / 2).exp())
