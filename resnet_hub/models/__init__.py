"""The networks and the tables of their architectures."""

from __future__ import annotations

from .base import Architecture
from .cifar_resnet import CifarResNet
from .preact_resnet import PreActResNet

__all__ = ['Architecture', 'CifarResNet', 'PreActResNet']
