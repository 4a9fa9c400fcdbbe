"""Write ONNX files. torch.onnx exports them, and the tools of ONNX Runtime quantise them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from resnet_hub.exporting.options import INPUT, LOGITS, PICTURE, PROBABILITIES, Options
from resnet_hub.exporting.preprocessing import Preprocessing
from resnet_hub.inference.onnx import convert, quantise
from resnet_hub.runtimes.session import METADATA_KEY
from resnet_hub.utils.errors import MissingExtraError

try:
    import onnx
    from onnx import compose, helper
except ImportError as error:
    raise MissingExtraError(error.name or 'onnx', 'export') from None

PACKAGES = ('onnx', 'onnxscript', 'onnxruntime')


def write(network: nn.Module, path: Path, options: Options) -> None:
    """Write a network as one ONNX file, with its weights inside."""
    batch = {0: torch.export.Dim('batch')} if options.dynamic_batch else None
    model = convert(network, options.example, INPUT, LOGITS, batch)
    if options.calibration is not None:
        model = quantise(model, options.calibration)
    if options.preprocessing:
        model = _with_preprocessing(model, options.preprocessing)
    _tidy(model)
    helper.set_model_props(model, {METADATA_KEY: json.dumps(options.metadata)})
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


def _with_preprocessing(model: Any, preprocessing: Preprocessing) -> Any:
    """Return a model that takes a picture, and returns logits and probabilities."""
    picture = torch.zeros(48, 64, 3, dtype=torch.uint8)
    dynamic = {0: torch.export.Dim('height', min=1), 1: torch.export.Dim('width', min=1)}
    front = convert(preprocessing, picture, PICTURE, 'preprocessed', dynamic)
    model = compose.merge_models(front, model, io_map=[('preprocessed', INPUT)], prefix1='preprocessing/')
    model.graph.node.append(helper.make_node('Softmax', [LOGITS], [PROBABILITIES], axis=1))
    classes = model.graph.output[0].type.tensor_type.shape.dim[-1].dim_value
    model.graph.output.append(helper.make_tensor_value_info(PROBABILITIES, onnx.TensorProto.FLOAT, [1, classes]))
    return model


def _tidy(model: Any) -> None:
    """Remove the references to lines of our source code that torch.onnx writes."""
    model.producer_name, model.doc_string = 'resnet-hub', ''
    for item in (*model.graph.node, *model.graph.value_info, *model.graph.input, *model.graph.output):
        del item.metadata_props[:]
        item.doc_string = ''
    del model.metadata_props[:]
    del model.graph.metadata_props[:]
