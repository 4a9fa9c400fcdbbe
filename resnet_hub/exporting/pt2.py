"""Write exported programs of PyTorch (torch.export)."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor, nn

from resnet_hub.exporting.options import Options
from resnet_hub.exporting.preprocessing import Preprocessing
from resnet_hub.runtimes.session import METADATA_KEY
from resnet_hub.utils.errors import InputError

PACKAGES: tuple[str, ...] = ()


class WithPreprocessing(nn.Module):
    """A network that takes a picture, uint8 (H, W, 3), and returns logits and probabilities (1, classes)."""

    def __init__(self, preprocessing: Preprocessing, network: nn.Module) -> None:
        super().__init__()
        self.preprocessing, self.network = preprocessing, network

    def forward(self, picture: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.network(self.preprocessing(picture))
        return logits, logits.softmax(1)


def write(network: nn.Module, path: Path, options: Options) -> None:
    """Write a network as a .pt2 file."""
    if options.calibration is not None:
        raise InputError('pt2 files cannot be int8: export to onnx, openvino or executorch, or without int8')
    example = options.example
    dynamic = ({0: torch.export.Dim('batch')},) if options.dynamic_batch else None
    if options.preprocessing:
        network = WithPreprocessing(options.preprocessing, network)
        example = torch.zeros(48, 64, 3, dtype=torch.uint8)
        dynamic = ({0: torch.export.Dim('height', min=1), 1: torch.export.Dim('width', min=1)},)
    program = torch.export.export(network, (example,), dynamic_shapes=dynamic)
    for node in program.graph.nodes:
        node.meta.pop('stack_trace', None)  # it has lines of our source code, with paths of this machine
    program.example_inputs = None  # they would be written too, with all of the memory that they are a part of
    torch.export.save(program, path, extra_files={METADATA_KEY: json.dumps(options.metadata)})
