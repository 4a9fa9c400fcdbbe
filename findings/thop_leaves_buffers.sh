#!/usr/bin/env bash
# thop 0.1.1.post2209072238: counting operations leaves buffers in the network, and so in its next checkpoint.
#
# Expected: profile() looks at a network and leaves it as it was.
# Seen: the state dict gains total_ops and total_params of the network itself and of every module without parameters
# below the counted ones; load_state_dict of a fresh network then reports unexpected keys.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder"
"$folder/bin/pip" install --quiet torch==2.13.0 thop==0.1.1.post2209072238 numpy==2.4.6
"$folder/bin/python" - <<'PYTHON'
import torch
from thop import profile
from torch import nn


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.act = nn.Conv2d(3, 3, 3, padding=1), nn.ReLU()

    def forward(self, x):
        return x + self.act(self.conv(x))


net = nn.Sequential(Block(), Block())
before = set(net.state_dict())
profile(net, (torch.zeros(1, 3, 8, 8),), verbose=False)
added = sorted(set(net.state_dict()) - before)
print('added to the state dict:', *added)
assert '0.total_ops' in added and '0.total_params' in added
PYTHON
