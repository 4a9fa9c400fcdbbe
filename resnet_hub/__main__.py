"""python -m resnet_hub: the command line."""

import sys

from resnet_hub.cli import main

sys.exit(main())
