"""Temperature scaling: divide logits by one number, so that the mean confidence comes close to the accuracy."""

from __future__ import annotations

from torch import Tensor


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """Return the temperature that minimises the negative log-likelihood of `logits` divided by it.

    A temperature above 1 means that the network is too confident, one below 1 that it is not confident enough. The
    predicted classes stay the same. Use images on which the network was not trained, and never the test images.

    Guo et al. 2017, On Calibration of Modern Neural Networks, section 4.2.

    Args:
        logits: (N, classes), any floating dtype.
        labels: int64 (N,).

    Returns:
        The temperature, from 0.01 to 100. It reaches 0.01 if all predictions are right, and 100 if they are no better
        than chance.
    """
    logits, low, high = logits.double(), 0.01, 100.0
    right = logits.gather(1, labels[:, None]).mean()
    while high / low > 1 + 1e-6:  # the loss is convex in 1 / T, and `expected - right` is its derivative
        middle = (low * high) ** 0.5
        expected = ((logits / middle).softmax(1) * logits).sum(1).mean()
        low, high = (middle, high) if expected > right else (low, middle)
    return (low * high) ** 0.5
