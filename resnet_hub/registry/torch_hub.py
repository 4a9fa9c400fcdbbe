"""Make entrypoints for torch.hub."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import timm
from torch import nn

from resnet_hub.registry.help import help_text
from resnet_hub.tables.weights import tags
from resnet_hub.utils.errors import InputError


def hub_entrypoint(name: str) -> Callable[..., nn.Module]:
    """Return the entrypoint of an architecture for torch.hub."""

    def entrypoint(pretrained: bool | str = False, **kwargs: Any) -> nn.Module:
        if not isinstance(pretrained, str):
            return timm.create_model(name, pretrained=pretrained, **kwargs)
        if pretrained.startswith('hf-hub:'):
            return _load_from_hub(name, pretrained, **kwargs)
        if pretrained not in tags(name):
            known = ', '.join(map(repr, tags(name))) or 'none yet'
            raise InputError(f'{name} has no weights {pretrained!r}; it has {known}')
        return timm.create_model(f'{name}.{pretrained}', pretrained=True, **kwargs)

    entrypoint.__name__ = entrypoint.__qualname__ = name
    entrypoint.__doc__ = help_text(name)
    return entrypoint


def _load_from_hub(name: str, source: str, **kwargs: Any) -> nn.Module:
    """Return the network of a repository on the Hub, 'hf-hub:OWNER/NAME', if it has the architecture `name`."""
    held = timm.models.load_model_config_from_hf(source.removeprefix('hf-hub:'), kwargs.get('cache_dir'))[1]
    if held != name:
        raise InputError(f'{source} holds {held}, not {name}: call torch.hub.load with {held!r}')
    return timm.create_model(source, pretrained=True, **kwargs)
