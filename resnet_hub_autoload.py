"""PyTorch's entry point: registers the models of resnet-hub with timm, without an import of resnet_hub.

`import torch` ends with calling the entry points of the group `torch.backends`. This module lies beside the package,
so that the variable can be looked at before anything of the package is imported.
"""

import logging
import os


def autoload() -> None:
    """Import resnet_hub, unless RESNET_HUB_AUTOLOAD is 0. Never raises, since that would break `import torch`."""
    if os.environ.get('RESNET_HUB_AUTOLOAD') == '0':
        return
    try:
        import resnet_hub  # noqa: F401
    except Exception:
        logging.getLogger('resnet_hub').exception('resnet-hub could not register its models with timm')
