"""Write ExecuTorch programs, which run with XNNPACK."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from resnet_hub.exporting.options import Options
from resnet_hub.runtimes.session import METADATA_KEY
from resnet_hub.utils.errors import InputError, MissingExtraError

try:
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower
except ImportError:
    raise MissingExtraError('executorch', 'executorch') from None

PACKAGES = ('executorch',)
LARGEST_BATCH = 64  #: largest number of images at once; ExecuTorch reserves memory for it in advance


def write(network: nn.Module, path: Path, options: Options) -> None:
    """Write a network with float32 or int8 weights."""
    if options.preprocessing:
        raise InputError('ExecuTorch takes images of one size: export without with_preprocessing')
    batch = ({0: torch.export.Dim('batch', max=LARGEST_BATCH)},) if options.dynamic_batch else None
    if options.calibration is not None:
        network = _quantise(network, options.example, batch, options.calibration)
    program = to_edge_transform_and_lower(
        torch.export.export(network, (options.example,), dynamic_shapes=batch),
        partitioner=[XnnpackPartitioner()],
        constant_methods={METADATA_KEY: json.dumps(options.metadata)},
    )
    path.write_bytes(program.to_executorch().buffer)


def _quantise(network: nn.Module, example: Tensor, batch: Any, images: Tensor) -> nn.Module:
    """Return the network with quantised layers: weights by channel, activations by tensor."""
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
        XNNPACKQuantizer,
        get_symmetric_quantization_config,
    )
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    quantizer = XNNPACKQuantizer().set_global(get_symmetric_quantization_config(is_per_channel=True))
    prepared = prepare_pt2e(torch.export.export(network, (example,), dynamic_shapes=batch).module(), quantizer)
    for part in images.split(len(example)):
        if len(part) == len(example):
            prepared(part)
    return convert_pt2e(prepared)
