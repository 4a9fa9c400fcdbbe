"""Rewrite the README's tables and its picture from the package's: python scripts/maintenance/readme.py (--check only compares)."""

from __future__ import annotations

import json
import re
import statistics
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from measuring import markdown
from zoo import PICTURE, draw, multiply_adds, points, points_of

from resnet_hub.tables.architectures import ARCHITECTURES
from resnet_hub.tables.datasets import DATASETS
from resnet_hub.tables.weights import PUBLISHERS, RESNET_HUB, WEIGHTS, Weights, tags

README = Path(__file__).resolve().parents[2] / 'README.md'
RESULTS = Path(__file__).with_name('benchmark.json')  # of benchmark.py


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
            for name, a in ARCHITECTURES.items()
        ),
    )


def link(paper: str) -> str:
    return f'[{paper.rpartition("/")[2]}]({paper})'


def weights() -> str:
    """One row for each publisher of an architecture, ours first; the architecture stands in the first of them."""
    rows = []
    for name, architecture in ARCHITECTURES.items():
        facts = [f'`{name}`', short(architecture.params), short(multiply_adds(name))] if tags(name) else []
        for publisher in PUBLISHERS.values():
            found = {
                row.dataset: row
                for row in (WEIGHTS[f'{name}.{tag}'] for tag in tags(name))
                if row.publisher == publisher
            }
            if found:
                mark = '**' if publisher is RESNET_HUB else ''
                figures = [figure(found[dataset], mark) if dataset in found else '' for dataset in DATASETS]
                rows.append([*facts, f'{mark}{publisher.name}{mark}', *figures])
                facts = ['', '', '']
    return table(
        ('architecture', 'parameters', 'multiply-adds', 'weights', *(data.title for data in DATASETS.values())), rows
    )


def figure(row: Weights, mark: str = '') -> str:
    """Top-1 between marks, and mean ± standard deviation where there are several seeds."""
    seeds = (row.top1, *row.further_top1)
    spread = f' ({statistics.mean(seeds):.2f} ± {statistics.stdev(seeds):.2f})' if row.further_top1 else ''
    return f'{mark}{row.top1:.2f}{mark}{spread}'


def publishers() -> str:
    lines = [
        f'- [{p.name}]({p.page}), {p.license}: `<architecture>.{p.name}_<data set>`'
        for p in PUBLISHERS.values()
        if p.page
    ]
    return '\n'.join([f'- **{RESNET_HUB.name}**, {RESNET_HUB.license}: `<architecture>.<data set>`', *lines])


def benchmark() -> str:
    """What has a target, and everything on demand."""
    results = json.loads(RESULTS.read_text(encoding='utf-8'))
    whole = f'<details><summary>All sides of every comparison</summary>\n\n{markdown(results)}\n\n</details>'
    return f'{markdown(results, brief=True)}\n\n{whole}'


def short(number: int) -> str:
    value, unit = (number / 1e9, 'G') if number >= 1e9 else (number / 1e6, 'M')
    return f'{f"{value:#.3g}".rstrip(".")} {unit}'


def with_tables(text: str) -> str:
    for make in (architectures, weights, publishers, benchmark):
        name, content = make.__name__, make()
        begin, end = f'<!-- {name} -->', f'<!-- /{name} -->'
        text = re.sub(f'{begin}.*?{end}', lambda _, c=content, b=begin, e=end: f'{b}\n{c}\n{e}', text, flags=re.DOTALL)
    return text


def main() -> int:
    text = README.read_text(encoding='utf-8')
    if '--check' in sys.argv:
        return int(with_tables(text) != text or points_of(PICTURE) != points())
    draw()
    README.write_text(with_tables(text), encoding='utf-8')
    return 0


if __name__ == '__main__':
    sys.exit(main())
