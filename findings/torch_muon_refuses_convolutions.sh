#!/usr/bin/env bash
# torch 2.13.0: torch.optim.Muon does not take the weights of convolutions.
#
# Expected: four dimensions are flattened to (out, in * height * width), as in the CIFAR-10 speed record that Muon comes
# from, and in timm's Muon.
# Seen: ValueError, "Muon only supports 2D parameters".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder"
"$folder/bin/pip" install --quiet torch==2.13.0
"$folder/bin/python" -W ignore - <<'PYTHON'
import torch

try:
    torch.optim.Muon([torch.nn.Conv2d(3, 4, 3).weight])
except ValueError as error:
    print('ValueError:', error)
    assert 'only supports 2D parameters' in str(error)
else:
    raise SystemExit('torch.optim.Muon takes convolutions now')
PYTHON
