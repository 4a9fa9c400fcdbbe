"""Make timm and torch.hub entrypoints from the tables. Importing this package registers the models with timm."""

from __future__ import annotations

from resnet_hub.registry.entrypoints import register
from resnet_hub.registry.loading import as_model, load_model
from resnet_hub.registry.torch_hub import hub_entrypoint

__all__ = ['as_model', 'hub_entrypoint', 'load_model', 'register']

register()
