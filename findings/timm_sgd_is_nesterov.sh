#!/usr/bin/env bash
# timm 1.0.31: create_optimizer_v2(..., opt='sgd') is Nesterov's SGD, unlike torch.optim.SGD.
#
# Expected: torch.optim.SGD with its own default, nesterov=False, as in recipes that say "SGD, momentum 0.9".
# Seen: nesterov=True. Plain momentum is called 'momentum'. The same recipe trains differently in the two.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder"
"$folder/bin/pip" install --quiet torch==2.14.1 torchvision==0.29.1 timm==1.0.31
"$folder/bin/python" - <<'PYTHON'
import torch
from timm.optim import create_optimizer_v2

nesterov = {
    name: create_optimizer_v2(torch.nn.Linear(2, 2), opt=name, lr=0.1, momentum=0.9).defaults['nesterov']
    for name in ('sgd', 'momentum')
}
print('nesterov:', nesterov)
assert nesterov == {'sgd': True, 'momentum': False}
PYTHON
