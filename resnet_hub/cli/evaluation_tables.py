"""Print the results of `resnet-hub evaluate` as tables: one function for each kind of measurement.

`args` are the options of the command; `answers` are what it prints with --json, one for each model.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from resnet_hub.cli.output import print_rows


def print_metrics(args: argparse.Namespace, answers: Sequence[dict[str, Any]]) -> None:
    """Print a line for each model and, where wanted, one for each of its classes."""
    print_rows([{k: v for k, v in row.items() if k not in ('per_class', 'confusion')} for row in answers])
    for row in answers if args.per_class else ():
        accuracy, counts = row['per_class'], map(sum, row['confusion'])
        print(f'\n{row["model"]}')
        print_rows([{'class': c, 'images': n, 'accuracy': accuracy[c]} for c, n in zip(accuracy, counts, strict=True)])


def print_ood(args: argparse.Namespace, answers: Sequence[dict[str, Any]]) -> None:
    rows = [
        {'model': answer['model'], 'inside': answer['inside'], **{**row, 'group': row['group'] or '-'}}
        for answer in answers
        for row in answer['separations']
    ]
    print_rows(rows)
    print('\nAll figures are in %. The images outside are the positive ones, as in OpenOOD 1.5.')


def print_shift(args: argparse.Namespace, answers: Sequence[dict[str, Any]]) -> None:
    print_rows([{'model': answer['model'], **row} for answer in answers for row in answer['changes']])


def print_corruptions(args: argparse.Namespace, answers: Sequence[dict[str, Any]]) -> None:
    """Print top-1 by corruption and severity, the mean of the paper's corruptions, and the others apart."""
    from resnet_hub.inference.corruptions import EXTRA_CORRUPTIONS, SEVERITIES

    for answer in answers:
        top1 = answer['top1']

        def rows(names: Sequence[str], top1: dict[str, list[float]] = top1) -> list[dict[str, Any]]:
            severities = range(1, SEVERITIES + 1)
            return [
                {
                    'corruption': name,
                    **{f'severity {s}': f'{top1[name][s - 1]:.2f}' for s in severities},
                    'mean': f'{sum(top1[name]) / SEVERITIES:.2f}',
                }
                for name in names
            ]

        paper, extra = [n for n in top1 if n not in EXTRA_CORRUPTIONS], [n for n in top1 if n in EXTRA_CORRUPTIONS]
        print(f'{answer["model"]} on {answer["data"]}: top-1 in %\n')
        if paper:
            print_rows(rows(paper))
            lacking = f', without {", ".join(answer["missing"])}' if answer['missing'] else ''
            print(f'\nmean over {len(paper)} corruptions{lacking}: {answer["mean_top1"]:.2f}\n')
        if extra:
            print('not in the mean:')
            print_rows(rows(extra))
