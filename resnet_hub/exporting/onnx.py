"""Write ONNX files: torch.onnx exports, ONNX Runtime's tools quantise."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from resnet_hub.exporting.options import INPUT, LOGITS, PICTURE, PROBABILITIES, Options
from resnet_hub.exporting.preprocessing import Preprocessing
from resnet_hub.runtimes.session import METADATA_KEY
from resnet_hub.utils.errors import MissingExtraError

try:
    import onnx
    import onnxruntime.quantization as quantization
    import onnxscript  # noqa: F401  # torch.onnx imports it
    from onnx import compose, helper
except ImportError as error:
    raise MissingExtraError(error.name or 'onnx', 'export') from None

PACKAGES = ('onnx', 'onnxscript', 'onnxruntime')


def write(network: nn.Module, path: Path, options: Options) -> None:
    """Write a network as one ONNX file, with its weights inside."""
    batch = {0: torch.export.Dim('batch')} if options.dynamic_batch else None
    model = _convert(network, options.example, INPUT, LOGITS, batch)
    if options.calibration is not None:
        model = _quantise(model, options.calibration, options.example.shape[0] if batch is None else None)
    if options.preprocessing:
        model = _with_preprocessing(model, options.preprocessing)
    _tidy(model)
    helper.set_model_props(model, {METADATA_KEY: json.dumps(options.metadata)})
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


def _convert(network: nn.Module, example: Tensor, given: str, result: str, dynamic: dict[int, Any] | None) -> Any:
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


def _quantise(model: Any, images: Tensor, batch_size: int | None) -> Any:
    """Return the model with QuantizeLinear and DequantizeLinear around its layers (QDQ).

    Activations are unsigned: signed ones make ONNX Runtime slower than float32. Weights have a scale for each output
    channel, and 7 bits: on processors without VNNI, and in some browsers, a sum of two products of 8 bits overflows.
    Norms that could not be folded stay float32, as ONNX Runtime computes them so anyway.
    """
    batches = images.split(batch_size or 50)
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, 'float32.onnx'), Path(folder, 'int8.onnx')
        onnx.save(model, source)
        quantization.shape_inference.quant_pre_process(source, source, skip_symbolic_shape=True)
        quantization.quantize_static(
            source,
            target,
            _Calibration(batch.numpy() for batch in batches if len(batch) == len(batches[0])),
            quant_format=quantization.QuantFormat.QDQ,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            per_channel=True,
            reduce_range=True,
            nodes_to_exclude=[node.name for node in model.graph.node if node.op_type == 'BatchNormalization'],
        )
        return onnx.load(target)


class _Calibration(quantization.CalibrationDataReader):
    def __init__(self, batches: Iterator[Any]) -> None:
        self.batches = batches

    def get_next(self) -> dict[str, Any] | None:
        batch = next(self.batches, None)
        return None if batch is None else {INPUT: batch}


def _with_preprocessing(model: Any, preprocessing: Preprocessing) -> Any:
    """Return a model that takes a picture, and gives logits and probabilities."""
    picture = torch.zeros(48, 64, 3, dtype=torch.uint8)
    dynamic = {0: torch.export.Dim('height', min=1), 1: torch.export.Dim('width', min=1)}
    front = _convert(preprocessing, picture, PICTURE, 'preprocessed', dynamic)
    model = compose.merge_models(front, model, io_map=[('preprocessed', INPUT)], prefix1='preprocessing/')
    model.graph.node.append(helper.make_node('Softmax', [LOGITS], [PROBABILITIES], axis=1))
    classes = model.graph.output[0].type.tensor_type.shape.dim[-1].dim_value
    model.graph.output.append(helper.make_tensor_value_info(PROBABILITIES, onnx.TensorProto.FLOAT, [1, classes]))
    return model


def _tidy(model: Any) -> None:
    """Remove what torch.onnx notes about our source code, line by line."""
    model.producer_name, model.doc_string = 'resnet-hub', ''
    for item in (*model.graph.node, *model.graph.value_info, *model.graph.input, *model.graph.output):
        del item.metadata_props[:]
        item.doc_string = ''
    del model.metadata_props[:]
    del model.graph.metadata_props[:]
