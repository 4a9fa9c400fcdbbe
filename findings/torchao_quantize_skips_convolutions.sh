#!/usr/bin/env bash
# torchao 0.18.0: quantize_ leaves every convolution in float32, without a word.
#
# Expected: a convolutional network is quantised, or a warning or an error says that it is not.
# Seen: only nn.Linear is quantised. Of a convolutional network this is the classifier; nothing is reported.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder"
"$folder/bin/pip" install --quiet torch==2.13.0 torchao==0.18.0
"$folder/bin/python" - 2>/dev/null <<'PYTHON'
import warnings

import torch
from torch import nn
from torchao.quantization import Int8WeightOnlyConfig, quantize_

net = nn.Sequential(nn.Conv2d(3, 64, 3), nn.ReLU(), nn.Conv2d(64, 64, 3), nn.Flatten(), nn.Linear(64, 10))
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter('always')
    quantize_(net, Int8WeightOnlyConfig())
kinds = {name: type(module.weight).__name__ for name, module in net.named_children() if hasattr(module, 'weight')}
print('weights:', kinds, '| warnings:', len(caught))
assert kinds['0'] == kinds['2'] == 'Parameter' and net[2].weight.dtype == torch.float32
assert kinds['4'] != 'Parameter' and not caught
PYTHON
