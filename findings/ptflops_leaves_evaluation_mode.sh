#!/usr/bin/env bash
# ptflops 0.7.5: counting operations leaves the network in evaluation mode.
#
# Expected: get_model_complexity_info returns two numbers and leaves the network as it was.
# Seen: a network in training mode is in evaluation mode afterwards. A training loop that calls train() only once then
# trains without dropout and with frozen running statistics.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder"
"$folder/bin/pip" install --quiet torch==2.13.0 ptflops==0.7.5 numpy==2.4.6
"$folder/bin/python" - <<'PYTHON'
from ptflops import get_model_complexity_info
from torch import nn

net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(), nn.Flatten(), nn.Linear(144, 10)).train()
get_model_complexity_info(net, (3, 8, 8), as_strings=False, print_per_layer_stat=False, verbose=False)
print('in training mode:', {type(module).__name__: module.training for module in net.modules()})
assert not any(module.training for module in net.modules())
PYTHON
