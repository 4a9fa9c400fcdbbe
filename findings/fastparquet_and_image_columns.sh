#!/usr/bin/env bash
# fastparquet 2026.9.0: it cannot read the image column of the Hub's image data sets.
#
# Expected: the struct column img of bytes and path comes back, as pyarrow, polars and duckdb return it.
# Seen: TypeError, "int() argument must be ... not 'NAType'", where path is null, as it is in uoft-cs/cifar10's schema.
# pandas.read_parquet(engine='fastparquet') fails alike. Remedy: pyarrow.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder"
"$folder/bin/pip" install --quiet fastparquet==2026.9.0 pyarrow==26.0.1 pandas==2.3.3
"$folder/bin/python" - "$folder" <<'PYTHON'
import sys

import fastparquet
import pyarrow as pa
import pyarrow.parquet as pq

path = f'{sys.argv[1]}/images.parquet'
pq.write_table(pa.table({'img': [{'bytes': b'RIFF', 'path': None}] * 3, 'label': [1, 2, 3]}), path)
assert pq.read_table(path).to_pylist()[0] == {'img': {'bytes': b'RIFF', 'path': None}, 'label': 1}
try:
    print(fastparquet.ParquetFile(path).to_pandas())
except TypeError as error:
    print('TypeError:', error)
else:
    raise SystemExit('fastparquet reads it now')
PYTHON
