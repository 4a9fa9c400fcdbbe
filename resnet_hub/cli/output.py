"""Print tables, JSON, and how to load a model folder."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

#: formats of the columns of tables
_FORMATS = {
    'parameters': ',',
    'images': ',',
    'top1': '.2f',
    'top5': '.2f',
    'accuracy': '.2f',
    'ece': '.2f',
    'auroc': '.1f',
    'fpr95': '.2f',
    'aupr_in': '.2f',
    'aupr_out': '.2f',
    'difference': '+.2f',
    'nll': '.4f',
    'temperature': '.3f',
    'images_per_second': ',.0f',
}


def print_json(content: Any) -> None:
    """Print JSON, with each list of numbers on one line."""
    text = json.dumps(content, indent=2)
    print(re.sub(r'\[\n\s+([-+.,\s\w]+)\n\s+\]', lambda found: f'[{" ".join(found[1].split())}]', text))


def print_rows(rows: Sequence[dict[str, Any]]) -> None:
    """Print a table. Text is aligned to the left and numbers to the right."""
    lines = [
        [*rows[0]],
        *(
            ['-' if value is None else format(value, _FORMATS.get(key, '')) for key, value in row.items()]
            for row in rows
        ),
    ]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    signs = ['<' if isinstance(value, str) else '>' for value in rows[0].values()]
    for line in lines:
        cells = (f'{cell:{sign}{width}}' for cell, sign, width in zip(line, signs, widths, strict=True))
        print('  '.join(cells).rstrip())


def print_folder(folder: Path) -> None:
    print(f'{folder}: load it with timm.create_model({f"local-dir:{folder}"!r}, pretrained=True)')
