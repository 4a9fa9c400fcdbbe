#!/usr/bin/env bash
# detectors 0.1.11 with timm 1.0.31: the package that registers CIFAR networks with timm cannot be imported.
#
# Expected: its requirement timm>=0.8.19.dev0 allows timm 1.0.31, so `import detectors` registers resnet18_cifar10.
# Seen: ValueError. The import builds a ViT by the name 'timm/vit_base_patch16_224.orig_in21k_ft_in1k', and timm now
# asks for a prefix ('hf-hub:' or 'local-dir:') in front of a name with a slash.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder"
"$folder/bin/pip" install --quiet torch==2.14.1 torchvision==0.29.1 timm==1.0.31 'setuptools<80' detectors==0.1.11
"$folder/bin/python" -W ignore - <<'PYTHON'
try:
    import detectors
except ValueError as error:
    print('ValueError:', error)
    assert 'has no source prefix' in str(error)
else:
    raise SystemExit(f'detectors {detectors.__version__} can be imported now')
PYTHON
