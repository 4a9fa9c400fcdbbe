"""Register the models with timm, now or while timm is imported.

timm does not look for plug-ins. Therefore importing this package adds a finder to `sys.meta_path`. The finder finds
nothing: Python asks it for every module that is imported, so that it learns when timm's own models are registered.

The registration runs inside an import of timm, so another thread may be waiting for timm. It is safe for two reasons:

- It imports only `resnet_hub.registry.entrypoints` and what that needs: tables and the standard library. No thread that
  is importing one of these waits for timm.
- `install` waits for no import of timm, because another thread may wait for `import resnet_hub` while it imports timm.

A failure is logged. It is neither raised nor a warning, because a plug-in must not break torch or timm, not even under
`python -W error`.
"""

from __future__ import annotations

import logging
import sys
import threading
from importlib.abc import MetaPathFinder

_logger = logging.getLogger(__name__)
_REGISTRY = 'timm.models._registry'
_LAST = 'timm.models._factory'  # the last module that timm.models imports, after timm's own models


def install() -> None:
    """Register the models now if timm has registered its own, else as soon as it has."""
    watcher = _Watcher()
    sys.meta_path.insert(0, watcher)
    if 'timm.models' in sys.modules:  # perhaps only in part, if another thread is importing it
        watcher.look()


class _Watcher(MetaPathFinder):
    """Registers the models when `timm.models` imports its last module, then removes itself."""

    def __init__(self) -> None:
        self._awaited = _LAST
        self._once = threading.Lock()

    def find_spec(self, fullname: str, path: object, target: object = None) -> None:
        if fullname.startswith(self._awaited):
            self.look()

    def look(self) -> None:
        """Register the models if timm's registry is complete, else wait for any further module of `timm.models`."""
        registry = sys.modules.get(_REGISTRY)
        if not hasattr(registry, 'is_model'):
            self._awaited = 'timm.models.'
        elif self._once.acquire(blocking=False):
            # A new list, because another thread may be iterating over the old one and would skip a finder.
            sys.meta_path = [finder for finder in sys.meta_path if not isinstance(finder, _Watcher)]
            try:
                from resnet_hub.registry.entrypoints import register

                register(registry)
            except Exception:
                _logger.exception('resnet-hub could not register its models with timm')
