#!/usr/bin/env bash
# Pillow 13.0.0: Image.resize gives other pixels than Pillow 12.2.0 where a picture is much taller than wide.
#
# Expected: the same filter gives the same pixels in every release.
# Seen: the two passes (rows, columns) changed their order for tall pictures, and the first one rounds to 8 bits. A
# landscape picture keeps its pixels, a portrait of 200x900 differs. Digests of preprocessed images, and networks on the
# edge between two classes, can change with the release of Pillow.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
for version in 12.2.0 13.0.0; do
    python3 -m venv "$folder/$version"
    "$folder/$version/bin/pip" install --quiet "pillow==$version" numpy==2.4.6
    "$folder/$version/bin/python" - > "$folder/$version.txt" <<'PYTHON'
import numpy as np
from PIL import Image

picture = np.random.default_rng(0).integers(0, 256, (900, 900, 3), np.uint8)
for name, part in {'landscape': picture[:200], 'portrait': picture[:, :200]}.items():
    small = Image.fromarray(part).resize((32, 32), Image.Resampling.BICUBIC)
    print(name, np.asarray(small, np.int64).ravel()[:8], np.asarray(small, np.int64).sum())
PYTHON
    echo "Pillow $version"
    cat "$folder/$version.txt"
done
cmp -s <(grep landscape "$folder/12.2.0.txt") <(grep landscape "$folder/13.0.0.txt")
! cmp -s <(grep portrait "$folder/12.2.0.txt") <(grep portrait "$folder/13.0.0.txt")
