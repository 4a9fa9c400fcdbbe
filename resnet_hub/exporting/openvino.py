"""Write OpenVINO IR: an .xml file and a .bin file beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from resnet_hub.exporting.options import INPUT, LOGITS, PICTURE, PROBABILITIES, Options
from resnet_hub.exporting.preprocessing import Preprocessing
from resnet_hub.inference.openvino import convert
from resnet_hub.runtimes.session import METADATA_KEY
from resnet_hub.utils.errors import MissingExtraError

try:
    import openvino
    from openvino import opset15 as ops
except ImportError:
    raise MissingExtraError('openvino', 'export') from None

PACKAGES = ('openvino', 'onnxruntime')


def write(network: nn.Module, path: Path, options: Options) -> None:
    """Write a network with float32 or int8 weights."""
    count = -1 if options.dynamic_batch else options.example.shape[0]
    model = convert(network, (count, *options.example.shape[1:]), options.calibration)
    model.input(0).set_names({INPUT})
    model.output(0).set_names({LOGITS})
    if options.preprocessing:
        model = _with_preprocessing(model, options.preprocessing)
    model.set_rt_info(json.dumps(options.metadata), [METADATA_KEY])
    openvino.save_model(model, path, compress_to_fp16=False)


def _with_preprocessing(model: Any, preprocessing: Preprocessing) -> Any:
    """Return a model that takes a picture, and returns logits and probabilities."""
    picture = ops.parameter([-1, -1, 3], np.uint8, name=PICTURE)
    picture.output(0).set_names({PICTURE})
    for consumer in model.input(0).get_target_inputs():
        consumer.replace_source_output(_preprocess(picture, preprocessing).output(0))
    logits = model.output(0).get_node().input_value(0)
    probabilities = ops.softmax(logits, 1)
    probabilities.output(0).set_names({PROBABILITIES})
    return openvino.Model([logits.get_node(), probabilities], [picture], 'with_preprocessing')


def _preprocess(picture: Any, preprocessing: Preprocessing) -> Any:
    """Build the computation of `Preprocessing.forward`, with OpenVINO's own version of Pillow's resize.

    OpenVINO sometimes rounds a value to the other neighbour. In small and very tall pictures, about one value in a
    thousand differs by 1 of 255.
    """
    size, both = _whole([preprocessing.size]), _whole([2, 3])
    x = ops.unsqueeze(ops.transpose(picture, _whole([2, 0, 1])), _whole(0))
    old = ops.gather(ops.shape_of(x), both, _whole(0))
    new = ops.divide(ops.multiply(old, size), ops.reduce_min(old, _whole([0]), keep_dims=True))

    def resize(x: Any, axis: int) -> Any:
        length = ops.gather(new, _whole([axis - 2]), _whole(0))
        mode = f'{preprocessing.interpolation}_pillow'
        options = {'cube_coeff': -0.5, 'pads_begin': [0] * 4, 'pads_end': [0] * 4}
        return ops.interpolate(x, length, mode, 'sizes', axes=_whole([axis]), **options)

    lost = ops.subtract(old, new)
    height, width = (ops.gather(lost, _whole([index]), _whole(0)) for index in (0, 1))
    columns_first = ops.logical_and(
        ops.greater(height, _whole([0])), ops.greater(height, ops.multiply(width, _whole([2])))
    )
    x = ops.select(columns_first, resize(resize(x, 2), 3), resize(resize(x, 3), 2))
    half = ops.divide(ops.convert(ops.subtract(new, size), 'f32'), np.float32(2))
    start = ops.convert(ops.round(half, mode='half_to_even'), 'i64')
    x = ops.convert(ops.slice(x, start, ops.add(start, size), _whole([1, 1]), both), 'f32')
    mean, std = (values[None].numpy() for values in (preprocessing.mean, preprocessing.std))
    return ops.divide(ops.subtract(ops.divide(x, np.float32(255)), mean), std)


def _whole(values: int | list[int]) -> Any:
    return ops.constant(values, np.int64)
