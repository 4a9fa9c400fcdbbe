"""What every format's writer is told."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor

from resnet_hub.exporting.preprocessing import Preprocessing

INPUT, PICTURE = 'pixel_values', 'picture'  #: names of the input without and with preprocessing
LOGITS, PROBABILITIES = 'logits', 'probabilities'  #: names of the outputs; the second with preprocessing


class Options(NamedTuple):
    """How a file is to be written."""

    example: Tensor  #: input of the network, float32 (N, 3, H, W); N ≥ 2 where the batch is dynamic
    dynamic_batch: bool
    preprocessing: Preprocessing | None  #: to put in front of the network
    calibration: Tensor | None  #: float32 (M, 3, H, W): quantise to int8 with these images
    metadata: dict[str, Any]
