"""The row types of the tables of architectures."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple


class Family(NamedTuple):
    """What the architectures of one table share."""

    name: str  #: of the table's module, by which timm groups models
    network: str  #: class in `resnet_hub.models`
    title: str
    norm_first: bool  #: norm and activation before each convolution, so that a final norm is possible (V2)


class Architecture(NamedTuple):
    """A row of a family's table."""

    family: Family
    block: str  #: 'basic' or 'bottleneck'
    layers: tuple[int, ...]  #: residual blocks in each stage
    widths: tuple[int, ...]  #: base width of each stage; a bottleneck's output is four times as wide
    params: int  #: parameters with 10 classes and 3 input channels
    paper: str
    args: Mapping[str, Any] = MappingProxyType({})  #: further arguments of the network

    def model_args(self) -> dict[str, Any]:
        return {'block': self.block, 'layers': self.layers, 'widths': self.widths, **self.args}

    def pretrained_cfg(
        self, mean: tuple[float, ...], std: tuple[float, ...], layers: tuple[int, ...] | None = None, **fields: Any
    ) -> dict[str, Any]:
        """The fields of timm's `PretrainedCfg` that all our networks share; `layers` where they are not the row's."""
        return {
            'input_size': (3, 32, 32),
            'pool_size': (2 ** (6 - len(layers or self.layers)),) * 2,
            'mean': mean,
            'std': std,
            'crop_pct': 1.0,
            'interpolation': 'bicubic',
            'first_conv': 'conv1',
            'classifier': 'fc',
            **fields,
        }
