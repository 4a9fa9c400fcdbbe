"""Create a network with timm's own functions."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import timm
import torch
from torch import nn

from resnet_hub.models import network_class
from resnet_hub.models.timm_api import update_model_args
from resnet_hub.tables.architectures import ARCHITECTURES
from resnet_hub.tables.weights import WEIGHTS, Weights

_SOURCES = ('state_dict', 'file', 'hf_hub_id', 'url')  # the fields of a cfg that give the place of the weights


def create(
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
    cls, row = network_class(name), ARCHITECTURES[name]
    cfg = timm.models.resolve_pretrained_cfg(name, pretrained_cfg, pretrained_cfg_overlay)
    given = [key for key in _SOURCES if (pretrained_cfg_overlay or {}).get(key)]
    if given:  # the user's own weights; remove our places, which timm might prefer
        cfg = replace(cfg, **{key: None for key in _SOURCES if key not in given})
    weights = _weights_row(name, cfg)
    model_args = {**(weights.model_args if weights else {}), **kwargs}
    if pretrained and weights and weights.url and _sources(cfg) == weights.source:
        from resnet_hub.weights.fetch import fetch

        cfg = replace(cfg, file=str(fetch(weights.name, cache_dir)))

    def build(**args: Any) -> nn.Module:
        return cls(**{**row.model_args(), **args}, device='meta' if pretrained else device)

    stages = len(model_args.get('layers', row.layers))
    model = timm.models.build_model_with_cfg(
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


def _sources(cfg: timm.models.PretrainedCfg) -> dict[str, Any]:
    """Return those fields of a cfg that give the place of its weights and are set."""
    return {key: value for key in _SOURCES if (value := getattr(cfg, key))}


def _weights_row(name: str, cfg: timm.models.PretrainedCfg) -> Weights | None:
    """Return the row of the table of weights that belongs to a cfg.

    The result is None for a Hub repository or a model folder, because these have their own weights.
    """
    return None if cfg.source in ('hf-hub', 'local-dir') else WEIGHTS.get(f'{name}.{cfg.tag}')
