#!/usr/bin/env bash
# imagecorruptions 1.1.2: its severities are ImageNet-C's at every image size, also at 32x32.
#
# Expected: at 32x32 the noise of CIFAR-10-C, whose Gaussian noise has a standard deviation of 0.04, 0.06, 0.08, 0.09
# and 0.10 (make_cifar_c.py of hendrycks/robustness).
# Seen: 0.08, 0.12, 0.18, 0.26 and 0.38, cut to 0..1. Severity 1 is CIFAR-10-C's severity 3, and severity 2 is already
# beyond its severity 5. Figures on images made so are not comparable with published CIFAR-10-C figures.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder"
"$folder/bin/pip" install --quiet 'setuptools<80' imagecorruptions==1.1.2 numpy==2.4.6
"$folder/bin/python" -W ignore - <<'PYTHON'
import numpy as np
from imagecorruptions import corrupt

np.random.seed(0)
grey = np.full((32, 32, 3), 128, np.uint8)
noise = [(corrupt(grey, corruption_name='gaussian_noise', severity=s) / 255 - 128 / 255).std() for s in (1, 2, 3)]
print('standard deviation at severity 1, 2, 3:', *(f'{value:.3f}' for value in noise))
assert np.allclose(noise, (0.08, 0.12, 0.18), atol=0.01)
PYTHON
