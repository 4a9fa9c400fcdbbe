"""The networks."""

from __future__ import annotations

from resnet_hub.models.base import ResidualNet
from resnet_hub.models.cifar_resnet import CifarResNet
from resnet_hub.models.preact_resnet import PreActResNet
from resnet_hub.tables.architectures import ARCHITECTURES

__all__ = ['CifarResNet', 'PreActResNet', 'ResidualNet', 'network_class']

_NETWORKS: dict[str, type[ResidualNet]] = {cls.__name__: cls for cls in (CifarResNet, PreActResNet)}


def network_class(architecture: str) -> type[ResidualNet]:
    """The network that builds an architecture."""
    return _NETWORKS[ARCHITECTURES[architecture].family.network]
