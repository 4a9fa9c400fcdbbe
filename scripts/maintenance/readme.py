"""Rewrite the generated tables of README.md and docs/, and the picture of the zoo: python scripts/maintenance/readme.py

A table stands between <!-- NAME --> and <!-- /NAME -->, where NAME is a function of this module. --check only compares.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from measure_weights import Figures, read_figures
from measuring import describe, markdown
from zoo import PICTURE, draw, multiply_adds, points, points_of

from resnet_hub.tables.architectures import ARCHITECTURES
from resnet_hub.tables.datasets import DATASETS
from resnet_hub.tables.weights import PUBLISHERS, RESNET_HUB, WEIGHTS, Weights, tags

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / 'README.md', *sorted((ROOT / 'docs').glob('*.md'))]
RESULTS = Path(__file__).with_name('benchmark.json')  # of benchmark.py


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, [':--', *['--:'] * (len(header) - 1)], *rows]
    return '\n'.join(f'| {" | ".join(line)} |' for line in lines)


def architectures() -> str:
    return table(
        ('architecture', 'block', 'layers', 'widths', 'parameters', 'paper'),
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


def our_weights() -> str:
    """Return a row for each of our weights, under the name that loads it."""
    header = ('weights', 'parameters', 'multiply-adds', 'top-1 %', 'NLL', 'ECE %', 'AUROC %')
    return table(
        header,
        (
            (
                f'`{name}`',
                short(ARCHITECTURES[row.architecture].params),
                short(multiply_adds(row.architecture)),
                figure(row),
                '' if row.nll is None else f'{row.nll:.3f}',
                '' if row.ece is None else f'{row.ece:.1f}',
                '' if row.auroc is None else f'{row.auroc:.1f}',
            )
            for name, row in WEIGHTS.items()
            if row.publisher is RESNET_HUB
        ),
    )


def zoo() -> str:
    """Return every figure of each of our weights. A figure that was not measured yet is left out."""
    header = 'weights', 'top-1 %', 'int8 %', 'JPEG %', 'NLL', 'ECE %', 'AUROC %', 'images/s', 'int8 images/s'
    measured = read_figures()
    rows = []
    for name, row in WEIGHTS.items():
        if row.publisher is RESNET_HUB:
            found = measured.get(name, Figures())
            figures = (
                (found.int8_top1, '.2f'),
                (found.jpeg75, '.2f'),
                (row.nll, '.3f'),
                (row.ece, '.1f'),
                (row.auroc, '.1f'),
                (found.images_per_second, ',.0f'),
                (found.int8_images_per_second, ',.0f'),
            )
            cells = ['' if value is None else format(value, spec) for value, spec in figures]
            costs = short(ARCHITECTURES[row.architecture].params), short(multiply_adds(row.architecture))
            rows.append((f'`{name}`', figure(row), *cells, *costs))
    return table((*header, 'parameters', 'multiply-adds'), rows)


def weights() -> str:
    """Return a row for each form of tag of an architecture, such as osmr_DATA. The first has the facts."""
    rows = []
    for name, architecture in ARCHITECTURES.items():
        facts = [f'`{name}`', short(architecture.params), short(multiply_adds(name))] if tags(name) else []
        forms: dict[str, dict[str, Weights]] = {}
        for tag in tags(name):
            row = WEIGHTS[f'{name}.{tag}']
            forms.setdefault(tag.replace(row.dataset, 'DATA'), {})[row.dataset] = row
        for form, found in forms.items():
            mark = '**' if form.startswith('DATA') else ''
            figures = [figure(found[dataset], mark) if dataset in found else '' for dataset in DATASETS]
            rows.append([*facts, f'{mark}`{form}`{mark}', *figures])
            facts = ['', '', '']
    titles = (data.title for data in DATASETS.values())
    return table(('architecture', 'parameters', 'multiply-adds', 'tag', *titles), rows)


def figure(row: Weights, mark: str = '') -> str:
    """Return the top-1 between marks, then mean ± standard deviation if there are several seeds."""
    seeds = (row.top1, *row.further_top1)
    spread = f' ({statistics.mean(seeds):.2f} ± {statistics.stdev(seeds):.2f})' if row.further_top1 else ''
    return f'{mark}{row.top1:.2f}{mark}{spread}'


def publishers() -> str:
    lines = [f'- [{p.name}]({p.page}), {p.license}: `{p.name}_DATA`' for p in PUBLISHERS.values() if p.page]
    return '\n'.join(
        [
            f'- **{RESNET_HUB.name}**, {RESNET_HUB.license}: `DATA`, and `DATA_mix`, trained with mixup and cutmix',
            *lines,
        ]
    )


def benchmark() -> str:
    """Return the comparisons that have a target, and a hidden part with all comparisons."""
    results = json.loads(RESULTS.read_text(encoding='utf-8'))
    whole = f'<details><summary>All sides of every comparison</summary>\n\n{markdown(results)}\n\n</details>'
    return f'{markdown(results, brief=True)}\n\n{whole}'


def short(number: int) -> str:
    value, unit = (number / 1e9, 'G') if number >= 1e9 else (number / 1e6, 'M')
    return f'{f"{value:#.3g}".rstrip(".")} {unit}'


def speed() -> str:
    """Return the three ratios that matter most to users, for the README."""
    results = json.loads(RESULTS.read_text(encoding='utf-8'))
    sides = {comparison['what']: comparison['sides'] for part in results.values() for comparison in part['comparisons']}
    load = sides['load cifar_resnet18']['resnet-hub']['ratio']
    infer = sides['cifar_resnet20, batch 32']['optimize, compile']['ratio']
    train = sides['train cifar_resnet20, batch 128']['resnet-hub train']['ratio']
    return (
        f'- loading `cifar_resnet18` with its weights takes {100 * load:.0f} % of the time;\n'
        f'- `resnet_hub.optimize(model, compile=True)` classifies {infer:.1f} times as many images per second '
        '(`cifar_resnet20`, float32, batches of 32);\n'
        f'- `resnet-hub train` trains on {train:.1f} times as many images per second (`cifar_resnet20`, bfloat16 where '
        'the usual code has float32, batches of 128).\n\n'
        f'Measured on {describe(results["inference"]["environment"])}.'
    )


TABLES = {make.__name__: make for make in (architectures, our_weights, zoo, weights, publishers, benchmark, speed)}


def with_tables(text: str) -> str:
    """Return the text of a page with its tables made anew."""

    def fill(match: re.Match[str]) -> str:
        name = match[1]
        return f'<!-- {name} -->\n{TABLES[name]()}\n<!-- /{name} -->'

    return re.sub(rf'<!-- ({"|".join(TABLES)}) -->.*?<!-- /\1 -->', fill, text, flags=re.DOTALL)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--check', action='store_true', help='write nothing; exit with 1 if something is out of date')
    check = parser.parse_args().check
    texts = {page: page.read_text(encoding='utf-8') for page in PAGES}
    stale = {page: text for page, text in texts.items() if with_tables(text) != text}
    if check:
        for page in stale:
            print(f'{page.relative_to(ROOT)} is out of date')
        return int(bool(stale) or points_of(PICTURE) != points())
    draw()
    for page, text in stale.items():
        page.write_text(with_tables(text), encoding='utf-8')
    return 0


if __name__ == '__main__':
    sys.exit(main())
