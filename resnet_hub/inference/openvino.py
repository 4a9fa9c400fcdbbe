"""Convert a network to OpenVINO, and quantise it with NNCF."""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import Tensor, nn

from resnet_hub.utils.errors import MissingExtraError

try:
    import openvino
except ImportError:
    raise MissingExtraError('openvino', 'export') from None


def convert(network: nn.Module, shape: tuple[int, ...]) -> Any:
    """Return the `openvino.Model` of a network.

    Args:
        network: one that torch.export can export.
        shape: of its input (N, C, H, W); N is -1 where any number of images is to go.
    """
    count = 2 if shape[0] == -1 else shape[0]  # an example of 1 would fix the batch
    batch = ({0: torch.export.Dim('batch')},) if shape[0] == -1 else None
    program = torch.export.export(network, (torch.randn(count, *shape[1:]),), dynamic_shapes=batch)
    model = openvino.convert_model(program)
    model.reshape(list(shape))
    return model


def quantise(model: Any, images: Tensor) -> Any:
    """Return an int8 copy of an `openvino.Model`.

    Args:
        model: from `convert`.
        images: that set the ranges of the activations, float32 (N, C, H, W).
    """
    try:
        import nncf
    except ImportError:
        raise MissingExtraError('nncf', 'export') from None
    nncf.set_log_level(logging.ERROR)
    size = model.input(0).partial_shape[0]
    batches = [batch.numpy() for batch in images.split(size.get_length() if size.is_static else 1)]
    batches = [batch for batch in batches if len(batch) == len(batches[0])]
    return nncf.quantize(model, nncf.Dataset(batches), subset_size=len(batches))
