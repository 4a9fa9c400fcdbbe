"""python -m resnet_hub: the command line."""

import sys

from .cli import main

sys.exit(main())
