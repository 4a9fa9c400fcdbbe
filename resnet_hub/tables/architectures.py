"""Every architecture by its name."""

from __future__ import annotations

from resnet_hub.tables import cifar_resnet, preact_resnet
from resnet_hub.tables.family import Architecture

ARCHITECTURES: dict[str, Architecture] = {**cifar_resnet.ARCHITECTURES, **preact_resnet.ARCHITECTURES}
