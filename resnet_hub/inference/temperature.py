"""Temperature scaling: one number that makes the probabilities of a network as confident as it is right."""

from __future__ import annotations

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
    logits, low, high = logits.double(), 0.01, 100.0
    right = logits.gather(1, labels[:, None]).mean()
    while high / low > 1 + 1e-6:  # the loss is convex in 1 / T, and its slope there is the difference of these means
        middle = (low * high) ** 0.5
        expected = ((logits / middle).softmax(1) * logits).sum(1).mean()
        low, high = (middle, high) if expected > right else (low, middle)
    return (low * high) ** 0.5
