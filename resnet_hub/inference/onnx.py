"""Convert a network to ONNX with torch.onnx, and quantise it with ONNX Runtime's tools."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from resnet_hub.utils.errors import MissingExtraError

try:
    import onnx
    import onnxruntime.quantization as quantization
    import onnxscript  # noqa: F401  # torch.onnx imports it
except ImportError as error:
    raise MissingExtraError(error.name or 'onnx', 'export') from None


def convert(network: nn.Module, example: Tensor, given: str, result: str, dynamic: dict[int, Any] | None) -> Any:
    """Return the `onnx.ModelProto` of a network.

    Args:
        network: one that torch.export can export.
        example: an input.
        given: name of the input.
        result: name of the output.
        dynamic: `torch.export.Dim` of each dimension of the input that any size is to go into.
    """
    program = torch.onnx.export(
        network,
        (example,),
        dynamo=True,
        verbose=False,
        input_names=[given],
        output_names=[result],
        dynamic_shapes=(dynamic,) if dynamic else None,
    )
    assert program is not None
    return program.model_proto


def quantise(model: Any, images: Tensor, first: bool = False) -> Any:
    """Return the model with QuantizeLinear and DequantizeLinear around its layers (QDQ).

    Activations are unsigned: signed ones make ONNX Runtime slower than float32. Weights have 8 bits, and a scale for
    each output channel.

    Float32 remain the logits, because rounding would make some of them equal, and norms that could not be folded, because
    ONNX Runtime computes them so anyway.

    Args:
        model: from `convert`.
        images: that set the ranges of the activations, float32 (N, C, H, W).
        first: quantise the first convolution too. Processors without VNNI add two products in 16 bits, and there those of
            bright pixels overflow; those of later layers almost never do, as most activations are small.
    """
    given = model.graph.input[0]
    batches = images.split(given.type.tensor_type.shape.dim[0].dim_value or 50)
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, 'float32.onnx'), Path(folder, 'int8.onnx')
        onnx.save(model, source)
        quantization.shape_inference.quant_pre_process(source, source, skip_symbolic_shape=True)
        nodes = onnx.load(source).graph.node
        names = {kind: [node.name for node in nodes if node.op_type == kind] for kind in ('Conv', 'BatchNormalization')}
        quantization.quantize_static(
            source,
            target,
            _Calibration({given.name: batch.numpy()} for batch in batches if len(batch) == len(batches[0])),
            quant_format=quantization.QuantFormat.QDQ,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            per_channel=True,
            nodes_to_exclude=[*names['BatchNormalization'], *names['Conv'][: 0 if first else 1]],
            extra_options={'OpTypesToExcludeOutputQuantization': ['Gemm']},
        )
        return onnx.load(target)


class _Calibration(quantization.CalibrationDataReader):
    def __init__(self, batches: Iterator[dict[str, Any]]) -> None:
        self.batches = batches

    def get_next(self) -> dict[str, Any] | None:
        return next(self.batches, None)
