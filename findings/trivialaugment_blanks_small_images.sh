#!/usr/bin/env bash
# torchvision 0.29.1: TrivialAugmentWide can move a 32×32 image out of the frame.
#
# Expected: the largest translation depends on the size of the image, as in torchvision's RandAugment, AutoAugment and
# AugMix, which translate a 32×32 image by at most 14.5 pixels.
# Seen: the largest translation is 32 pixels for every size. Of 3,000 grey 32×32 images, 19 come out black, and of
# 64×64 images none.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder"
"$folder/bin/pip" install --quiet torch==2.14.1 torchvision==0.29.1 numpy==2.4.6
"$folder/bin/python" - <<'PYTHON'
import torch
from torchvision.transforms import v2


def blank(augment, size):
    """Return how many of 3,000 grey images are black afterwards."""
    torch.manual_seed(0)
    image = torch.full((3, size, size), 128, dtype=torch.uint8)
    return sum(int(augment(image).max()) == 0 for _ in range(3000))


policies = {'TrivialAugmentWide': v2.TrivialAugmentWide(), 'RandAugment': v2.RandAugment(num_ops=1, magnitude=30)}
found = {name: {size: blank(augment, size) for size in (32, 64)} for name, augment in policies.items()}
print('black images of 3,000, by size:', found)
assert found['TrivialAugmentWide'][32] > 0 and found['TrivialAugmentWide'][64] == 0
assert found['RandAugment'] == {32: 0, 64: 0}
PYTHON
