"""The networks: one module for each family, with the same name as its table."""

from __future__ import annotations

from importlib import import_module

from resnet_hub.models.base import ResidualNet
from resnet_hub.models.cifar_resnet import CifarResNet
from resnet_hub.models.preact_resnet import PreActResNet
from resnet_hub.tables.architectures import ARCHITECTURES
from resnet_hub.tables.family import Family

__all__ = ['CifarResNet', 'PreActResNet', 'ResidualNet', 'family_class', 'network_class']


def family_class(family: Family) -> type[ResidualNet]:
    """Return the class of a family's networks."""
    network: type[ResidualNet] = getattr(import_module(f'resnet_hub.models.{family.name}'), family.network)
    return network


def network_class(architecture: str) -> type[ResidualNet]:
    """Return the class of an architecture's network."""
    return family_class(ARCHITECTURES[architecture].family)
