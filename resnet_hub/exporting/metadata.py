"""Make the metadata of an exported file."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from torch import nn

from resnet_hub.utils.files import encode, halve

_CFG = (
    'architecture',
    'input_size',
    'mean',
    'std',
    'interpolation',
    'crop_pct',
    'crop_mode',
    'num_classes',
    'label_names',
    'license',
)


def describe(model: nn.Module, name: str, packages: tuple[str, ...], **facts: Any) -> dict[str, Any]:
    """Return the metadata of an exported network. All values can be written as JSON.

    Args:
        model: the network, before it is exported.
        name: the name that the user gave.
        packages: names of the packages that write the file; the metadata has their versions.
        facts: further entries.
    """
    cfg: Mapping[str, Any] = getattr(model, 'pretrained_cfg', {})
    known = {key: cfg[key] for key in _CFG if cfg.get(key) is not None}
    return {
        'source': name,
        'source_sha256': hashlib.sha256(encode(halve(model.state_dict()))).hexdigest(),
        'license': cfg.get('license'),
        'pretrained_cfg': {**known, 'num_classes': getattr(model, 'num_classes', known.get('num_classes'))},
        'versions': {package: version(package) for package in ('resnet-hub', 'torch', *packages)},
        **facts,
    }
