#!/usr/bin/env bash
# torchmetrics 1.9.0: the AUROC of energy scores in float32 is not the AUROC of these scores.
#
# Expected: a rank statistic, equal to scikit-learn's roc_auc_score for any scores.
# Seen: scores outside 0..1 pass through a sigmoid first. In float32 it is exactly 1 for scores above about 17, so
# energies of confident networks become ties: 0.7476 in place of 0.7726. The same scores in float64 give 0.7726.
# Remedy: hand torchmetrics float64, or ranks scaled into 0..1.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder"
"$folder/bin/pip" install --quiet torch==2.13.0 torchmetrics==1.9.0 scikit-learn==1.9.1
"$folder/bin/python" - <<'PYTHON'
import torch
from sklearn.metrics import roc_auc_score
from torchmetrics.functional.classification import binary_auroc

torch.manual_seed(0)
energies = torch.cat([torch.randn(2000) * 4 + 18, torch.randn(2000) * 4 + 14])  # inside, outside
inside = torch.cat([torch.ones(2000), torch.zeros(2000)]).long()
expected = roc_auc_score(inside, energies)
float32, float64 = float(binary_auroc(energies, inside)), float(binary_auroc(energies.double(), inside))
print(f'scikit-learn {expected:.4f}, torchmetrics float32 {float32:.4f}, float64 {float64:.4f}')
assert abs(float64 - expected) < 1e-4 and expected - float32 > 0.02
PYTHON
