"""Registers the models with timm, now or as soon as `timm.models` is imported.

timm has no plug-in discovery. So importing this package puts a finder on `sys.meta_path` that waits for `timm.models`
and registers the models when that module has run. It waits for `timm.models`, not for `timm`: `import timm` may be
what imports torch, torch then imports this package, and `timm` is only half there.

A failure is logged, neither raised nor warned about: a plug-in must not break torch or timm, not even under
`python -W error`.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

_logger = logging.getLogger(__name__)
_TARGET = 'timm.models'


def install() -> None:
    """Register now if `timm.models` is imported, else right after it will have been."""
    if _TARGET in sys.modules:
        register()
    else:
        sys.meta_path.insert(0, _Finder())


def register() -> None:
    """Import the registry, which registers the models."""
    try:
        import_module('resnet_hub.registry')
    except Exception:
        _logger.exception('resnet-hub could not register its models with timm')


class _Finder(MetaPathFinder):
    """Finds `timm.models` where the other finders do, and gives it a loader that registers our models."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != _TARGET:
            return None
        others = (finder for finder in sys.meta_path if not isinstance(finder, _Finder))
        spec = next(filter(None, (finder.find_spec(fullname, path, target) for finder in others)), None)
        if spec and spec.loader:
            spec.loader = _Loader(spec.loader)
        return spec


class _Loader(Loader):
    """Runs a module with its own loader, then registers our models and removes the finder."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def __getattr__(self, name: str) -> object:
        if name.startswith('_'):  # copy and pickle ask for those before there is a self._loader
            raise AttributeError(name)
        return getattr(self._loader, name)  # whoever finds the module without running it may ask for its source

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        module.__loader__ = module.__spec__.loader = self._loader  # type: ignore[union-attr]
        self._loader.exec_module(module)
        # a new list: a thread that walks along the old one would miss a finder if one before it were removed
        sys.meta_path = [finder for finder in sys.meta_path if not isinstance(finder, _Finder)]
        register()
