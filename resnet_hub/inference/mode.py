"""Run a user's network without changing it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Put a network into evaluation mode and record no gradients, until the block ends.

    Afterwards each module is in the mode in which it was before. Parameters, buffers, their memory format and
    `requires_grad` do not change. For speed, give the network images in channels_last order. The convolutions then
    compute in this order, whatever the order of their weights is.

    The block runs under `torch.no_grad`, not `torch.inference_mode`: a module may keep a tensor that it computed, and
    training can never use a tensor from inference mode.
    """
    modes = [(module, module.training) for module in model.modules()]
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(was_training)  # some modules do something when their mode changes
        for module, mode in modes:
            module.training = mode
