"""Register the models of resnet-hub with timm when torch is imported, so that users need not import resnet_hub.

At its end `import torch` calls the entry points of the group `torch.backends`; `autoload` is one of them. This module
is outside the package, so that RESNET_HUB_AUTOLOAD=0 prevents the import of the package itself.
"""

import logging
import os


def autoload() -> None:
    """Import resnet_hub, unless RESNET_HUB_AUTOLOAD is 0. An error is logged, because it must not break `import torch`."""
    if os.environ.get('RESNET_HUB_AUTOLOAD') == '0':
        return
    try:
        import resnet_hub  # noqa: F401
    except Exception:
        logging.getLogger('resnet_hub').exception('resnet-hub could not register its models with timm')
