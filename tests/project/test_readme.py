"""The README is true: its tables are current and its examples run."""

import importlib
import os
import re
import shlex
import subprocess
import sys

import numpy as np
import pytest
from matplotlib.text import Text

from resnet_hub.tables.weights import WEIGHTS
from tests.conftest import ROOT

TEXT = (ROOT / 'README.md').read_text(encoding='utf-8')


def blocks(language):
    return re.findall(rf'^```{language}\n(.*?)^```', TEXT, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope='module')
def scripts():
    """The modules readme and zoo of scripts/."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / 'scripts' / 'maintenance')
        yield importlib.import_module('readme'), importlib.import_module('zoo')


def test_the_tables_are_current(scripts):
    """`python scripts/maintenance/readme.py` rewrites them; the weights' has every figure of the catalog and no other."""
    readme, _ = scripts
    assert readme.with_tables(TEXT) == TEXT, 'run python scripts/maintenance/readme.py'
    found, architecture = {}, ''
    for line in TEXT.partition('<!-- weights -->')[2].partition('<!-- /weights -->')[0].splitlines()[3:]:
        name, _, _, publisher, *figures = (cell.strip(' `*') for cell in line[1:-1].split('|'))
        architecture = name or architecture
        for dataset, figure in zip(('cifar10', 'cifar100', 'svhn'), figures, strict=True):
            if figure:
                found[architecture, publisher, dataset] = figure
    assert found.keys() == {(n.partition('.')[0], row.publisher.name, row.dataset) for n, row in WEIGHTS.items()}
    for name, row in WEIGHTS.items():
        first, *spread = re.findall(r'[\d.]+', found[name.partition('.')[0], row.publisher.name, row.dataset])
        assert float(first) == row.top1
        seeds = np.array([row.top1, *row.further_top1])
        assert [*map(float, spread)] == (
            [round(seeds.mean(), 2), round(seeds.std(ddof=1), 2)] if row.further_top1 else []
        )


def test_the_picture_is_current(scripts):
    """As is the one of the architectures' costs, which the literature states: 41 and 126 million, 0.56 and 5.2 billion."""
    _, zoo = scripts
    assert f']({zoo.PICTURE.relative_to(ROOT)})' in TEXT
    drawn = zoo.points_of(zoo.PICTURE)
    assert drawn == zoo.points(), 'run python scripts/maintenance/readme.py'
    rows = {name: row for name, row in WEIGHTS.items() if row.dataset in ('cifar10', 'cifar100')}
    assert len(drawn) == len(rows) and {point.top1 for point in drawn} == {row.top1 for row in rows.values()}
    costs = {'cifar_resnet20': 41e6, 'cifar_resnet56': 126e6, 'preact_resnet18': 0.56e9, 'wide_resnet28_10': 5.2e9}
    for architecture, cost in costs.items():
        assert zoo.multiply_adds(architecture) == pytest.approx(cost, rel=0.01)


def test_the_picture_names_ours_and_the_best_legibly(scripts, tmp_path, monkeypatch):
    """Ours and the best published have their names, none over another or over the edge, with twenty of ours too."""
    _, zoo = scripts
    figure = zoo.draw(tmp_path / 'zoo.svg')
    zoo.draw(tmp_path / 'again.svg')
    assert (tmp_path / 'zoo.svg').read_bytes() == (tmp_path / 'again.svg').read_bytes()
    assert_legible(figure, zoo.points())
    ours = [
        zoo.Point(dataset, f'{family}_resnet{depth}', 'resnet-hub', zoo.multiply_adds(f'{family}_resnet{depth}'), top1)
        for dataset, scale in (('cifar10', 0), ('cifar100', 22))
        for family, lead in (('cifar', 0), ('preact', 0.1))
        for depth, top in ((20, 93.4), (32, 94.3), (44, 94.9), (56, 95.4), (18, 96.2))
        for top1 in [top + lead - scale]
    ]
    crowded = [*zoo.points(), *ours]
    monkeypatch.setattr(zoo, 'points', lambda: crowded)
    assert_legible(zoo.draw(tmp_path / 'crowded.svg'), crowded)


def assert_legible(figure, points):
    for axes, dataset in zip(figure.axes, ('cifar10', 'cifar100'), strict=True):
        shown = [point for point in points if point.dataset == dataset]
        ours = [point for point in shown if point.publisher == 'resnet-hub']
        others = [point for point in shown if point not in ours]
        cheapest_first = sorted(others, key=lambda point: point.cost)
        best = {max(others, key=lambda point: point.top1), max(cheapest_first[:1], key=lambda point: point.top1)}
        names = [text.get_text() for text in axes.texts]
        assert {point.label for point in (*ours, *best)} <= {*names} and len(names) >= len(ours) + 5
        boxes = [Text.get_window_extent(text) for text in axes.texts]  # without the line to a mark
        for number, box in enumerate(boxes):
            assert not box.count_overlaps(boxes[:number]), names[number]
            assert axes.bbox.count_contains([box.min, box.max]) == 2, names[number]


def test_python_examples_run(tmp_path):
    """In one process, with the clone in the place of the GitHub repository."""
    code = '\n'.join(blocks('python'))
    assert code.count("'org/repo'") >= 3
    code = code.replace("'org/repo'", repr(str(ROOT))).replace('trust_repo=True', "source='local'")
    done = subprocess.run([sys.executable, '-c', code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    'line', [line for block in blocks('bash') for line in block.splitlines() if ' list' in line or ' predict' in line]
)
def test_commands_run(line):
    command = shlex.split(line.partition('&& resnet-hub')[2] or line.removeprefix('resnet-hub'), comments=True)
    environment = {**os.environ, 'HF_HUB_OFFLINE': '1'}
    done = subprocess.run(
        [sys.executable, '-m', 'resnet_hub', *command], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0 and done.stdout, done.stderr


LINES = [line.split('#')[0].strip() for block in blocks('bash') for line in block.splitlines()]


@pytest.mark.parametrize('line', [line for line in LINES if re.search(r'resnet-hub |resnet_hub ', line)])
def test_commands_are_ones_that_there_are(line, capsys):
    """Every option of every line, those that need a network or data among them."""
    from resnet_hub.cli import _parser

    words = re.split(r'.*(?:-m resnet_hub|&& resnet-hub|^resnet-hub) ', line)[-1].partition(' > ')[0]
    if line.startswith('git clone'):
        return
    assert _parser().parse_args(shlex.split(words)).run, capsys.readouterr().err


def test_the_test_command_is_the_one_of_ci():
    install, _, test = next(block for block in blocks('bash') if 'pytest' in block).strip().partition(' && ')
    ci = (ROOT / '.ci' / 'run').read_text()
    assert f"-e '.[test]'\n{test}\n" in ci and "-e '.[test]'" in install
