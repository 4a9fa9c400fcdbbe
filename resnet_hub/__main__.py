"""Run the command line: `python -m resnet_hub` is the same as `resnet-hub`."""

import sys

from resnet_hub.cli import main

sys.exit(main())
