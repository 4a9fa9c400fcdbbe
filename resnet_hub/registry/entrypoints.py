"""Make timm's entrypoints and default cfgs from the tables.

This module runs inside an import of timm. Therefore it imports neither timm nor torch, see `resnet_hub._registration`.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING, Any

from resnet_hub.registry.help import help_text
from resnet_hub.tables.architectures import ARCHITECTURES
from resnet_hub.tables.datasets import DATASETS
from resnet_hub.tables.weights import WEIGHTS, tags

if TYPE_CHECKING:
    from torch import nn

_logger = logging.getLogger(__name__)
_DEFAULT_DATASET = DATASETS['cifar10']


def register(registry: Any) -> None:
    """Register all architectures and weights with timm. A name that timm already has is not registered again.

    Args:
        registry: timm's module with the functions `is_model`, `generate_default_cfgs` and `register_model`.
    """
    for name in ARCHITECTURES:
        if registry.is_model(name):
            _logger.debug('timm has a model %s already', name)
            continue
        module = _table_module(name)
        module.__dict__.setdefault('default_cfgs', {}).update(registry.generate_default_cfgs(_default_cfgs(name)))
        entrypoint = _timm_entrypoint(name)
        setattr(module, name, entrypoint)
        registry.register_model(entrypoint)


def _table_module(name: str) -> ModuleType:
    """Return the module of the architecture's table. timm groups models by this module.

    The module of the network is not used, because registration must not import the networks.
    """
    return sys.modules[f'resnet_hub.tables.{ARCHITECTURES[name].family.name}']


def _default_cfgs(name: str) -> dict[str, dict[str, Any]]:
    """Return the cfgs of an architecture for timm by 'architecture.tag'; one by 'architecture' if it has no weights."""
    row = ARCHITECTURES[name]
    common: dict[str, Any] = {
        'paper_ids': row.paper.replace('https://arxiv.org/abs/', 'arXiv:'),
        'origin_url': row.paper,
    }

    def cfg(mean: Any, std: Any, **fields: Any) -> dict[str, Any]:
        return row.pretrained_cfg(mean, std, **common, **fields)

    with_weights = {
        f'{name}.{tag}': cfg(
            *weights.normalisation,
            num_classes=len(weights.data.classes),
            label_names=weights.data.classes,
            license=weights.publisher.license.lower(),
            **weights.source,
        )
        for tag, weights in ((tag, WEIGHTS[f'{name}.{tag}']) for tag in tags(name))
    }
    return with_weights or {name: cfg(_DEFAULT_DATASET.mean, _DEFAULT_DATASET.std, num_classes=10)}


def _timm_entrypoint(name: str) -> Callable[..., nn.Module]:
    def entrypoint(pretrained: bool = False, **kwargs: Any) -> nn.Module:
        from resnet_hub.registry.create import create

        return create(name, pretrained, **kwargs)

    entrypoint.__name__ = entrypoint.__qualname__ = name
    entrypoint.__module__ = _table_module(name).__name__
    entrypoint.__doc__ = help_text(name)
    return entrypoint
