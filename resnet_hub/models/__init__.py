"""The networks and the tables of their architectures."""

from __future__ import annotations

from .. import _autoload
from . import cifar_resnet, preact_resnet
from .base import Architecture, ResidualNet
from .cifar_resnet import CifarResNet
from .preact_resnet import PreActResNet

__all__ = ['ARCHITECTURES', 'Architecture', 'CifarResNet', 'PreActResNet', 'ResidualNet']

#: every architecture: its network and its row
ARCHITECTURES: dict[str, tuple[type[ResidualNet], Architecture]] = {
    **{name: (CifarResNet, row) for name, row in cifar_resnet.ARCHITECTURES.items()},
    **{name: (PreActResNet, row) for name, row in preact_resnet.ARCHITECTURES.items()},
}

_autoload.install()  # where this package is what imported timm, the finder came too early
