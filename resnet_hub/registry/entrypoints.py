"""Make timm's entrypoints and default cfgs from the tables."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from dataclasses import replace
from types import ModuleType
from typing import Any

import torch
from timm.models import (
    PretrainedCfg,
    build_model_with_cfg,
    generate_default_cfgs,
    is_model,
    register_model,
    resolve_pretrained_cfg,
)
from torch import nn

from resnet_hub.registry.help import help_text
from resnet_hub.tables.architectures import ARCHITECTURES
from resnet_hub.tables.datasets import DATASETS
from resnet_hub.tables.weights import WEIGHTS, Weights, tags

_logger = logging.getLogger(__name__)
_DEFAULT_DATASET = DATASETS['cifar10']
_SOURCES = ('state_dict', 'file', 'hf_hub_id', 'url')  # the fields of a cfg that give the place of the weights


def register() -> None:
    """Register all architectures and weights with timm. A name that timm already has is not registered again."""
    for name in ARCHITECTURES:
        if is_model(name):
            _logger.debug('timm has a model %s already', name)
            continue
        module = _table_module(name)
        module.__dict__.setdefault('default_cfgs', {}).update(generate_default_cfgs(_default_cfgs(name)))
        entrypoint = _timm_entrypoint(name)
        setattr(module, name, entrypoint)
        register_model(entrypoint)


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
            **_source(weights),
        )
        for tag, weights in ((tag, WEIGHTS[f'{name}.{tag}']) for tag in tags(name))
    }
    return with_weights or {name: cfg(_DEFAULT_DATASET.mean, _DEFAULT_DATASET.std, num_classes=10)}


def _source(weights: Weights) -> dict[str, str]:
    """Return the field of timm's cfg that gives the place of the weights: a file, a Hub repository, or a URL."""
    if weights.path and (weights.in_package or weights.path.is_file()):
        return {'file': str(weights.path)}
    return {'hf_hub_id': weights.repo_id} if weights.repo_id else {'url': str(weights.url)}


def _timm_entrypoint(name: str) -> Callable[..., nn.Module]:
    def entrypoint(pretrained: bool = False, **kwargs: Any) -> nn.Module:
        return _create(name, pretrained, **kwargs)

    entrypoint.__name__ = entrypoint.__qualname__ = name
    entrypoint.__module__ = _table_module(name).__name__
    entrypoint.__doc__ = help_text(name)
    return entrypoint


def _create(
    name: str,
    pretrained: bool,
    pretrained_cfg: Any = None,
    pretrained_cfg_overlay: dict[str, Any] | None = None,
    cache_dir: Any = None,
    device: Any = None,
    **kwargs: Any,
) -> nn.Module:
    """Build a network, and load its weights if `pretrained`, with timm's own functions.

    If weights are loaded, the network is built on the meta device and uses the tensors of the file as parameters, see
    `TimmModel.load_state_dict`. So no parameter is initialised or copied in vain.
    """
    from resnet_hub.models import network_class
    from resnet_hub.models.timm_api import update_model_args

    cls, row = network_class(name), ARCHITECTURES[name]
    cfg = resolve_pretrained_cfg(name, pretrained_cfg, pretrained_cfg_overlay)
    given = [key for key in _SOURCES if (pretrained_cfg_overlay or {}).get(key)]
    if given:  # the user's own weights; remove our places, which timm might prefer
        cfg = replace(cfg, **{key: None for key in _SOURCES if key not in given})
    weights = _weights_row(name, cfg)
    model_args = {**(weights.model_args if weights else {}), **kwargs}
    if pretrained and weights and weights.url and _sources(cfg) == _source(weights):
        from resnet_hub.weights.fetch import fetch

        cfg = replace(cfg, file=str(fetch(weights.name, cache_dir)))

    def build(**args: Any) -> nn.Module:
        return cls(**{**row.model_args(), **args}, device='meta' if pretrained else device)

    stages = len(model_args.get('layers', row.layers))
    model = build_model_with_cfg(
        build,
        name,
        pretrained,
        pretrained_cfg=cfg.to_dict(),
        cache_dir=cache_dir,
        feature_cfg={'out_indices': tuple(range(stages + 1))},
        **model_args,
    )
    if weights and weights.model_args:
        update_model_args(model, **weights.model_args)  # so that timm's export to the Hub writes them
    return model.to(torch.get_default_device() if device is None else device) if pretrained else model


def _sources(cfg: PretrainedCfg) -> dict[str, Any]:
    """Return those fields of a cfg that give the place of its weights and are set."""
    return {key: value for key in _SOURCES if (value := getattr(cfg, key))}


def _weights_row(name: str, cfg: PretrainedCfg) -> Weights | None:
    """Return the row of the table of weights that belongs to a cfg.

    The result is None for a Hub repository or a model folder, because these have their own weights.
    """
    return None if cfg.source in ('hf-hub', 'local-dir') else WEIGHTS.get(f'{name}.{cfg.tag}')
