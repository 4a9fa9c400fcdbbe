"""`resnet-hub upload` from a plain clone: python scripts/upload.py --help."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from resnet_hub.cli import main

sys.exit(main(['upload', *sys.argv[1:]]))
