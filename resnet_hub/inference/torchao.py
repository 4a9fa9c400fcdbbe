"""Quantise a network with torchao. The result stays a PyTorch module."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from resnet_hub.utils.errors import MissingExtraError

try:
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
    from torchao.quantization.pt2e.quantizer.x86_inductor_quantizer import (
        X86InductorQuantizer,
        get_default_x86_inductor_quantization_config,
    )
except ImportError:
    raise MissingExtraError('torchao', 'export') from None

_BATCH = 50


@torch.no_grad()
def quantise(network: nn.Module, images: Tensor, vnni: bool) -> Any:
    """Return the network with rounded weights, and operations that round the activations.

    torch.compile, with the weights as constants, turns it into a network that computes with 8-bit integers. Weights have
    8 bits, and a scale for each output channel. Activations are unsigned, with one scale for each tensor.

    Args:
        network: a network that torch.export can export, in channels_last order.
        images: images that set the ranges of the activations, float32 (N, C, H, W).
        vnni: whether the processor has VNNI. Without it, sums of two products must fit into 16 bits, and activations get
            7 bits.
    """
    images = images.contiguous(memory_format=torch.channels_last)
    example = images[:2].expand(2, -1, -1, -1)  # an example of 1 would fix the batch
    batch = ({0: torch.export.Dim('batch')},)
    config = get_default_x86_inductor_quantization_config(reduce_range=not vnni)
    graph: Any = torch.export.export(network, (example,), dynamic_shapes=batch).module()
    prepared = prepare_pt2e(graph, X86InductorQuantizer().set_global(config))
    for part in images.split(_BATCH):
        prepared(part)
    return convert_pt2e(prepared)
