"""Convert a network to OpenVINO, in float32 or int8."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import torch
from torch import Tensor, nn

from resnet_hub.utils.errors import MissingExtraError

try:
    import openvino
except ImportError:
    raise MissingExtraError('openvino', 'export') from None


def convert(
    network: nn.Module, shape: tuple[int, ...], calibration: Tensor | None = None, first_int8: bool = False
) -> Any:
    """Return the `openvino.Model` of a network.

    Args:
        network: a network that torch.export can export.
        shape: shape of its input, (N, C, H, W); N = -1 allows any number of images.
        calibration: quantise to int8, with the ranges of these images, float32 (M, C, H, W); None stays in float32.
        first_int8: quantise the first convolution too; only for processors with VNNI, see `quantise`.
    """
    example = torch.randn(2 if shape[0] == -1 else shape[0], *shape[1:])  # an example of 1 would fix the batch
    batch = {0: torch.export.Dim('batch')} if shape[0] == -1 else None
    if calibration is None:
        model = openvino.convert_model(torch.export.export(network, (example,), dynamic_shapes=batch and (batch,)))
    else:
        from resnet_hub.inference import onnx

        float32 = onnx.convert(network, example, 'input', 'logits', batch)
        quantised = onnx.quantise(float32, calibration, first_int8)
        model = openvino.convert_model(BytesIO(quantised.SerializeToString()))
    model.reshape(list(shape))
    return model
