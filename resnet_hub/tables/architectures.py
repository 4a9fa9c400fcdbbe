"""All families and all architectures, by name."""

from __future__ import annotations

from resnet_hub.tables import cifar_resnet, preact_resnet
from resnet_hub.tables.family import Architecture, Family

#: To add a family, write a module here and one of the same name in `resnet_hub.models`, and add it to this tuple.
_TABLES = (cifar_resnet, preact_resnet)

FAMILIES: dict[str, Family] = {table.FAMILY.name: table.FAMILY for table in _TABLES}
ARCHITECTURES: dict[str, Architecture] = {name: row for table in _TABLES for name, row in table.ARCHITECTURES.items()}
