"""`resnet-hub download` from a plain clone: python scripts/download.py --help."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from resnet_hub.cli import main

sys.exit(main(['download', *sys.argv[1:]]))
