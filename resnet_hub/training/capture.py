"""Run a training step as one CUDA graph, which starts hundreds of small kernels with one call."""

from __future__ import annotations

from collections.abc import Callable

import torch

#: number of calls before the capture, in which the optimizer creates its state and cuDNN chooses its kernels
WARM_UP = 3


class Captured:
    """A function without arguments that runs as one CUDA graph from its fourth call on.

    The first three calls run without a graph, on a separate stream, as PyTorch requires before a capture. Every call
    does the work of exactly one call. scripts/maintenance/check_gpu.py compares captured steps with uncaptured ones.

    Args:
        function: does the same work at each call. It changes the same tensors in place, never waits for the GPU, and
            keeps no tensor that it makes.
        device: the GPU.
    """

    def __init__(self, function: Callable[[], None], device: torch.device) -> None:
        self.function = function
        self.calls = 0
        self.graph: torch.cuda.CUDAGraph | None = None
        self.stream = torch.cuda.Stream(device)

    def __call__(self) -> None:
        with torch.cuda.device(self.stream.device):
            if self.calls < WARM_UP:
                self._warm_up()
                return
            if self.graph is None:
                self.graph = torch.cuda.CUDAGraph()
                with torch.cuda.graph(self.graph, stream=self.stream):  # records the kernels, and runs none of them
                    self.function()
            self.graph.replay()

    def _warm_up(self) -> None:
        self.calls += 1
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            self.function()
        torch.cuda.current_stream().wait_stream(self.stream)
