"""CUDA graphs: a step of hundreds of small kernels starts as one."""

from __future__ import annotations

from collections.abc import Callable

import torch

WARM_UP = 3  #: calls before the capture; in them the optimizer makes its state and cuDNN chooses its kernels


class Captured:
    """A function of no arguments that runs as one CUDA graph from its fourth call on.

    The first three calls run as usual, on a stream of their own, which PyTorch asks for before a capture. Every call
    does the work of one call: none is repeated for the capture.

    No GPU has run this yet; scripts/maintenance/check_gpu.py compares it with uncaptured steps.

    The function must always do the same: it works on the same tensors, in place, and never waits for the GPU.
    """

    def __init__(self, function: Callable[[], None]) -> None:
        self.function = function
        self.calls = 0
        self.graph: torch.cuda.CUDAGraph | None = None
        self.stream = torch.cuda.Stream()

    def __call__(self) -> None:
        if self.calls < WARM_UP:
            self.calls += 1
            self.stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self.stream):
                self.function()
            torch.cuda.current_stream().wait_stream(self.stream)
            return
        if self.graph is None:
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph):  # records the kernels, and runs none of them
                self.function()
        self.graph.replay()
