#!/usr/bin/env bash
# torch 2.13.0: torch.export.save writes the whole storage behind an example input.
#
# Expected: an exported program holds weights and graph, and the two example images at the most.
# Seen: with two images cut out of a tensor of 2,000 as the example, the file of a network of 112 parameters has 24 MB,
# and all 2,000 images are in it. With a copy of the two (.clone()) it has 0.03 MB.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder"
"$folder/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6
"$folder/bin/python" -W ignore - "$folder" <<'PYTHON'
import sys
from pathlib import Path

import torch

images = torch.zeros(2000, 3, 32, 32)
net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3)).eval()
sizes = {}
for name, example in {'slice': images[:2], 'copy': images[:2].clone()}.items():
    path = Path(sys.argv[1], f'{name}.pt2')
    torch.export.save(torch.export.export(net, (example,)), path)
    sizes[name] = path.stat().st_size
print('bytes:', sizes)
assert sizes['slice'] > images.nbytes > 100 * sizes['copy']
PYTHON
