#!/usr/bin/env bash
# ema-pytorch 0.8.3: with its defaults the average is a stale copy for the first hundred steps, then moves every tenth.
#
# Expected: EMA(model, beta=0.99) moves at every update() call, as timm's ModelEmaV3 and torch's AveragedModel do.
# Seen: update_after_step=100 and update_every=10. After 50 steps it is the network of step 41, not an average.
# A short trial so evaluates something else than a long run.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder"
"$folder/bin/pip" install --quiet torch==2.13.0 ema-pytorch==0.8.3 numpy==2.4.6
"$folder/bin/python" -W ignore - <<'PYTHON'
import torch
from ema_pytorch import EMA

net = torch.nn.Linear(1, 1, bias=False)
average = EMA(net, beta=0.99)
for step in range(1, 51):
    net.weight.data.fill_(step)
    average.update()
print('after steps 1 ... 50 the average is', average.ema_model.weight.item())
assert average.ema_model.weight.item() == 41
PYTHON
