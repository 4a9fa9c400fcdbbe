"""Registration without an import.

timm has no plugin discovery, PyTorch has: `import torch` ends with calling the entry points of the group
`torch.backends`. Ours leaves a finder that registers the models as soon as `timm.models` has been imported. It waits
for `timm.models`, not `timm`: where `import timm` is what imports torch, `timm` is half-initialised by then.

Nothing here may raise, since that would break `import torch`; and failures are logged, not warned about, since under
`python -W error` a warning raises.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

_logger = logging.getLogger(__name__)
_TARGET = 'timm.models'
#: False where PyTorch's entry point is what imports this package
_EXPLICIT = 'torch' not in sys.modules


def _register() -> None:
    """Import the registry, which registers."""
    models = sys.modules.get(f'{__package__}.models')
    if models and not hasattr(models, 'ARCHITECTURES'):
        return  # our own models are what imports timm here; they call `install` again when they are complete
    try:
        importlib.import_module('.registry', __package__)
    except Exception:
        _logger.exception('resnet-hub could not register its models with timm')


class _Finder(MetaPathFinder):
    """Registers the models right after timm.models has run, once."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != _TARGET:
            return None
        uninstall()
        spec = importlib.util.find_spec(fullname)
        if spec and spec.loader:
            run = spec.loader.exec_module

            def run_and_register(module: ModuleType) -> None:
                run(module)
                _register()

            spec.loader.exec_module = run_and_register  # type: ignore[method-assign]
        return spec


def install() -> None:
    """Register now if timm is there, else as soon as it is."""
    if _TARGET in sys.modules:
        _register()
    elif not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


def uninstall() -> None:
    sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, _Finder)]


def autoload() -> None:
    """The entry point; RESNET_HUB_AUTOLOAD=0 turns it off, and leaves an explicit `import resnet_hub` its effect."""
    if os.environ.get('RESNET_HUB_AUTOLOAD') == '0' and not _EXPLICIT:
        uninstall()
        for name in [name for name in sys.modules if name.partition('.')[0] == __package__]:
            del sys.modules[name]
