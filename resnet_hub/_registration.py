"""Register the models with timm, now or as soon as `timm.models` is imported.

timm does not look for plug-ins. Therefore importing this package adds a finder to `sys.meta_path`, which registers the
models right after `timm.models` has been imported. The finder waits for `timm.models`, not for `timm`: `import timm`
may import torch, which then imports this package while `timm` is only partly initialised.

A failure is logged. It is neither raised nor a warning, because a plug-in must not break torch or timm, not even under
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
    """Register the models now if `timm.models` is already imported, else right after its import."""
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
    """Finds `timm.models` with the other finders, and gives it a loader that registers our models."""

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
        if name.startswith('_'):  # copy and pickle look such names up before self._loader exists
            raise AttributeError(name)
        return getattr(self._loader, name)  # tools that do not run the module may ask its loader for the source

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        module.__loader__ = module.__spec__.loader = self._loader  # type: ignore[union-attr]
        self._loader.exec_module(module)
        # A new list, because another thread may be iterating over the old one and would skip a finder.
        sys.meta_path = [finder for finder in sys.meta_path if not isinstance(finder, _Finder)]
        register()
