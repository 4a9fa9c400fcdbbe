"""Rewrite the README's tables from the package's: python scripts/readme.py (--check only compares)."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from resnet_hub.models import ARCHITECTURES
from resnet_hub.weights.catalog import WEIGHTS

README = Path(__file__).resolve().parent.parent / 'README.md'


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, [':--', *['--:'] * (len(header) - 1)], *rows]
    return '\n'.join(f'| {" | ".join(line)} |' for line in lines)


def architectures() -> str:
    return table(
        ('architecture', 'block', 'blocks', 'widths', 'parameters', 'paper'),
        (
            (
                f'`{name}`',
                a.block,
                ' '.join(map(str, a.layers)),
                ' '.join(map(str, a.widths)),
                f'{a.params:,}',
                link(a.paper),
            )
            for name, (_, a) in ARCHITECTURES.items()
        ),
    )


def link(paper: str) -> str:
    return f'[{paper.rpartition("/")[2]}]({paper})'


def weights() -> str:
    return table(
        ('weights', 'test images of', 'top-1 %', 'top-5 %', 'nll', 'parameters', 'licence'),
        (
            (
                f'`{name}`',
                w.dataset,
                f'{w.top1:.2f}',
                f'{w.top5:.2f}' if w.top5 else '',
                f'{w.nll:.4f}' if w.nll else '',
                f'{ARCHITECTURES[name.partition(".")[0]][1].params:,}',
                w.publisher.license,
            )
            for name, w in WEIGHTS.items()
        ),
    )


def with_tables(text: str) -> str:
    for name, content in (('architectures', architectures()), ('weights', weights())):
        begin, end = f'<!-- {name} -->', f'<!-- /{name} -->'
        text = re.sub(f'{begin}.*?{end}', lambda _, c=content, b=begin, e=end: f'{b}\n{c}\n{e}', text, flags=re.DOTALL)
    return text


def main() -> int:
    text = README.read_text(encoding='utf-8')
    if '--check' in sys.argv:
        return int(with_tables(text) != text)
    README.write_text(with_tables(text), encoding='utf-8')
    return 0


if __name__ == '__main__':
    sys.exit(main())
