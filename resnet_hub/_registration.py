"""Registers the models with timm, now or as soon as `timm.models` is imported.

timm has no plugin discovery, so importing this package puts a finder in front of `sys.meta_path` that waits for
`timm.models`. It waits for that module, not for `timm`: where `import timm` is what imports torch, and torch this
package, `timm` is half-initialised by then.

Failures are logged, not raised or warned about: a plug-in must break neither torch nor timm, also under
`python -W error`.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

_logger = logging.getLogger(__name__)
_TARGET = 'timm.models'


def install() -> None:
    """Register now if timm.models is there, else right after it has been imported."""
    if _TARGET in sys.modules:
        _register()
    else:
        sys.meta_path.insert(0, _Finder())


def _register() -> None:
    """Import the registry, which registers."""
    try:
        importlib.import_module('resnet_hub.registry')
    except Exception:
        _logger.exception('resnet-hub could not register its models with timm')


class _Finder(MetaPathFinder):
    """Finds timm.models once, with a loader that registers our models after it."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != _TARGET:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec and spec.loader:
            spec.loader = _RegisteringLoader(spec.loader)
        return spec


class _RegisteringLoader(Loader):
    """Runs a module with its own loader, then registers our models."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def __getattr__(self, name: str) -> object:
        return getattr(self._loader, name)  # importlib.resources and inspect ask for more than the two below

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        module.__loader__ = module.__spec__.loader = self._loader  # type: ignore[union-attr]
        self._loader.exec_module(module)
        _register()
