"""The options that the writer of each format gets."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor

from resnet_hub.exporting.preprocessing import Preprocessing

INPUT, PICTURE = 'pixel_values', 'picture'  #: names of the input without and with preprocessing
LOGITS, PROBABILITIES = 'logits', 'probabilities'  #: names of the outputs; the second only with preprocessing


class Options(NamedTuple):
    """How to write a file."""

    example: Tensor  #: input of the network, float32 (N, C, H, W); N ≥ 2 if the batch is dynamic
    dynamic_batch: bool
    preprocessing: Preprocessing | None  #: the preprocessing to put before the network; None for none
    calibration: Tensor | None  #: float32 (M, C, H, W): quantise to int8 with these images; None: stay float32
    metadata: dict[str, Any]
