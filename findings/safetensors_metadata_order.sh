#!/usr/bin/env bash
# safetensors 0.8.0: the same tensors and the same metadata give other bytes in every process.
#
# Expected: a deterministic file, since the tensors are sorted and there is no time stamp in it.
# Seen: with several metadata entries their order in the header is random, and with it the digest of the file.
# Remedy for reproducible files: one metadata entry at the most.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder"
"$folder/bin/pip" install --quiet safetensors==0.8.0 numpy==2.4.6
for metadata in "{'format': 'pt'}" "{'format': 'pt', 'author': 'me', 'epoch': '3', 'license': 'mit', 'top1': '93'}"; do
    digests=$(for _ in 1 2 3 4 5 6 7 8; do
        "$folder/bin/python" -c "
import hashlib, numpy, safetensors.numpy
print(hashlib.sha256(safetensors.numpy.save({'a': numpy.zeros(3)}, metadata=$metadata)).hexdigest())"
    done | sort -u | wc -l)
    echo "$digests digest(s) in 8 processes with the metadata $metadata"
done
test "$digests" -gt 1
