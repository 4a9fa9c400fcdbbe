"""The row types of the tables of architectures."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple


class Family(NamedTuple):
    """What the architectures of one table have in common."""

    name: str  #: name of its modules in `resnet_hub.tables` and `resnet_hub.models`; timm groups models by it
    network: str  #: name of the class in `resnet_hub.models.<name>`
    title: str
    norm_first: bool  #: whether norm and activation come before each convolution (V2), not after it (V1)
    arguments: Mapping[str, str] = MappingProxyType({})  #: arguments that other families do not have, with their help

    @property
    def has_final_norm(self) -> bool:
        """Return whether the networks have the argument `final_norm`: a norm after the last block."""
        return 'final_norm' in self.arguments


class Architecture(NamedTuple):
    """A row of a family's table."""

    family: Family
    block: str  #: 'basic' or 'bottleneck'
    layers: tuple[int, ...]  #: number of residual blocks in each stage
    widths: tuple[int, ...]  #: base width of each stage; a bottleneck's output is four times as wide
    params: int  #: number of parameters with 10 classes and 3 input channels
    paper: str
    args: Mapping[str, Any] = MappingProxyType({})  #: further arguments of the network

    def model_args(self) -> dict[str, Any]:
        """Return the arguments of the network's class."""
        return {'block': self.block, 'layers': self.layers, 'widths': self.widths, **self.args}

    def pretrained_cfg(
        self, mean: tuple[float, ...], std: tuple[float, ...], layers: tuple[int, ...] | None = None, **fields: Any
    ) -> dict[str, Any]:
        """Return the fields of timm's `PretrainedCfg`.

        Args:
            mean: subtracted from the pixels, scaled to 0 … 1; one value for each channel.
            std: by which the result is divided; one value for each channel.
            layers: number of blocks in each stage, if it differs from this row.
            fields: further fields; they replace those of the same name.
        """
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
