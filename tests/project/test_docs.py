"""The README and the pages of docs/ are true: their tables are current, their links lead somewhere, their examples run."""

from __future__ import annotations

import importlib
import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from matplotlib.text import Text

import resnet_hub
from resnet_hub.data.images import Images
from resnet_hub.tables.datasets import DATASETS
from resnet_hub.tables.weights import RESNET_HUB, WEIGHTS
from tests.conftest import ROOT
from tests.hub.fixtures import clients, hub, server  # noqa: F401
from tests.hub.server import Hub

README = ROOT / 'README.md'
PAGES = [README, ROOT / 'CONTRIBUTING.md', *sorted((ROOT / 'docs').glob('*.md'))]
TEXTS = {page: page.read_text(encoding='utf-8') for page in PAGES}


def need_extra(page: Path) -> None:
    """Skip a page whose examples need an extra that is not installed."""
    if page.name == 'export.md':
        for package in ('onnx', 'onnxscript', 'onnxruntime', 'openvino', 'torchao'):
            pytest.importorskip(package)


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf'^```{language}\n(.*?)^```', TEXTS[page], re.MULTILINE | re.DOTALL)


def table(page: Path, name: str) -> list[list[str]]:
    """Return the rows of a generated table, without its header."""
    lines = TEXTS[page].partition(f'<!-- {name} -->\n')[2].partition(f'\n<!-- /{name} -->')[0].splitlines()
    return [[cell.strip(' `*') for cell in line[1:-1].split('|')] for line in lines[2:]]


@pytest.fixture(scope='module')
def scripts():
    """The modules readme and zoo of scripts/maintenance."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / 'scripts' / 'maintenance')
        yield importlib.import_module('readme'), importlib.import_module('zoo')


class TestTables:
    def test_are_current(self, scripts: tuple[ModuleType, ModuleType]) -> None:
        readme, _ = scripts
        stale = [page.name for page, text in TEXTS.items() if readme.with_tables(text) != text]
        assert not stale, 'run python scripts/maintenance/readme.py'
        everything = ''.join(TEXTS.values())
        assert [name for name in readme.TABLES if f'<!-- {name} -->' not in everything] == []

    def test_every_weight_is_in_the_table(self) -> None:
        found, architecture = {}, ''
        for name, _, _, form, *figures in table(ROOT / 'docs' / 'weights.md', 'weights'):
            architecture = name or architecture
            for dataset, figure in zip(DATASETS, figures, strict=True):
                if figure:
                    found[f'{architecture}.{form.replace("DATA", dataset)}'] = [
                        *map(float, re.findall(r'[\d.]+', figure))
                    ]
        assert found.keys() == WEIGHTS.keys()
        for name, row in WEIGHTS.items():
            seeds = np.array([row.top1, *row.further_top1])
            spread = [round(seeds.mean(), 2), round(seeds.std(ddof=1), 2)] if row.further_top1 else []
            assert found[name] == [row.top1, *spread]

    def test_our_weights_are_in_the_readme(self) -> None:
        found = {name: float(top1.split()[0]) for name, _, _, top1, *_ in table(README, 'our_weights')}
        assert found == {name: row.top1 for name, row in WEIGHTS.items() if row.publisher is RESNET_HUB}
        assert len(TEXTS[README].splitlines()) <= 180


class TestPicture:
    def test_is_current(self, scripts: tuple[ModuleType, ModuleType]) -> None:
        """So are the costs, which the literature states: 41 and 126 million, 0.56 and 5.2 billion multiply-adds."""
        _, zoo = scripts
        assert f']({zoo.PICTURE.relative_to(ROOT)})' in TEXTS[README]
        drawn = zoo.points_of(zoo.PICTURE)
        assert drawn == zoo.points(), 'run python scripts/maintenance/readme.py'
        rows = {name: row for name, row in WEIGHTS.items() if row.dataset in ('cifar10', 'cifar100')}
        assert len(drawn) == len(rows) and {point.top1 for point in drawn} == {row.top1 for row in rows.values()}
        costs = {'cifar_resnet20': 41e6, 'cifar_resnet56': 126e6, 'preact_resnet18': 0.56e9, 'wide_resnet28_10': 5.2e9}
        for architecture, cost in costs.items():
            assert zoo.multiply_adds(architecture) == pytest.approx(cost, rel=0.01)

    def test_names_ours_and_the_best_legibly(self, scripts, tmp_path, monkeypatch) -> None:
        """Ours and the best published have their names, none over another or over the edge, with twenty of ours too."""
        _, zoo = scripts
        figure = zoo.draw(tmp_path / 'zoo.svg')
        zoo.draw(tmp_path / 'again.svg')
        assert (tmp_path / 'zoo.svg').read_bytes() == (tmp_path / 'again.svg').read_bytes()
        assert_legible(figure, zoo.points())
        ours = [
            zoo.Point(dataset, f'{family}_resnet{depth}', 'resnet-hub', zoo.multiply_adds(f'{family}_resnet{depth}'), t)
            for dataset, scale in (('cifar10', 0), ('cifar100', 22))
            for family, lead in (('cifar', 0), ('preact', 0.1))
            for depth, top in ((20, 93.4), (32, 94.3), (44, 94.9), (56, 95.4), (18, 96.2))
            for t in [top + lead - scale]
        ]
        crowded = [*zoo.points(), *ours]
        monkeypatch.setattr(zoo, 'points', lambda: crowded)
        assert_legible(zoo.draw(tmp_path / 'crowded.svg'), crowded)


def assert_legible(figure, points) -> None:
    for axes, dataset in zip(figure.axes, ('cifar10', 'cifar100'), strict=True):
        shown = [point for point in points if point.dataset == dataset]
        ours = [point for point in shown if point.publisher == 'resnet-hub']
        others = [point for point in shown if point not in ours]
        cheapest_first = sorted(others, key=lambda point: point.cost)
        best = {max(others, key=lambda point: point.top1), max(cheapest_first[:1], key=lambda point: point.top1)}
        names = [text.get_text() for text in axes.texts]
        assert {point.architecture for point in (*ours, *best)} <= {*names} and len(names) >= len(ours) + 5
        boxes = [Text.get_window_extent(text) for text in axes.texts]  # without the line to a mark
        for number, box in enumerate(boxes):
            assert not box.count_overlaps(boxes[:number]), names[number]
            assert axes.bbox.count_contains([box.min, box.max]) == 2, names[number]
            assert not axes.transData.transform_path(axes.lines[0].get_path()).intersects_bbox(box, filled=False)


class TestLinks:
    @pytest.mark.parametrize('page', PAGES, ids=lambda page: page.name)
    def test_lead_to_files_and_headings(self, page: Path) -> None:
        without_code = re.sub(r'^```.*?^```', '', TEXTS[page], flags=re.MULTILINE | re.DOTALL)
        for target in re.findall(r'\]\(([^)\s]+)\)', without_code):
            if '://' in target:
                continue
            name, _, heading = target.partition('#')
            linked = (page.parent / name).resolve() if name else page
            assert linked.exists(), target
            if heading:
                text = linked.read_text(encoding='utf-8')
                titles = [title.lower() for title in re.findall(r'^#+ (.*)', text, re.MULTILINE)]
                assert heading in [re.sub(r'[^\w -]', '', title).replace(' ', '-') for title in titles], target


@pytest.fixture
def workplace(tmp_path: Path, tiny_data: tuple[Path, Images], monkeypatch: pytest.MonkeyPatch) -> Path:
    """Enter a folder like the one that the pages assume: with tests/ of the clone, and few images in cifar10/."""
    (tmp_path / 'tests').symlink_to(ROOT / 'tests')
    (tmp_path / 'cifar10').symlink_to(tiny_data[0])
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_python_of_the_readme_runs_without_an_import_of_ours(tmp_path: Path) -> None:
    [code] = blocks(README, 'python')
    assert 'resnet_hub' not in code
    done = subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == 'cat\n'


@pytest.mark.usefixtures('workplace')
@pytest.mark.parametrize('page', [page for page in PAGES[1:] if blocks(page, 'python')], ids=lambda page: page.name)
def test_python_runs(page: Path, request: pytest.FixtureRequest) -> None:
    """All blocks of a page run one after the other, with the clone in the place of the GitHub repository."""
    need_extra(page)
    code = '\n'.join(blocks(page, 'python'))
    code = code.replace("'org/repo'", repr(str(ROOT))).replace('trust_repo=True', "source='local'")
    if 'OWNER' in code:  # against a Hub on this machine
        code = code.replace('OWNER/NAME', 'me/net').replace('OWNER', 'me')
        local: Hub = request.getfixturevalue('hub')
        done = request.getfixturevalue('clients').run(
            f'import os, warnings\nwarnings.resetwarnings()\nos.chdir({str(Path.cwd())!r})\n{code}'
        )
        assert done.code == 0, done.err
        assert local.files('me/net')
    else:
        exec(compile(code, str(page), 'exec'), {'__name__': page.stem})


def test_every_public_name_is_documented_with_an_example() -> None:
    page = ROOT / 'docs' / 'api.md'
    directives, examples = '\n'.join(blocks(page, '.eval-rst.')), '\n'.join(blocks(page, 'py(?:thon)?'))
    documented = re.findall(r'^\.\. auto\w+:: (\w+)', directives, re.MULTILINE)
    assert sorted(documented) == sorted(resnet_hub.__all__)
    examples += TEXTS.get(ROOT / 'docs' / 'demo.md', 'build_demo Page')
    assert [name for name in documented if not re.search(rf'\b{name}\b', examples)] == []


LINES = [(page, line) for page in PAGES for block in blocks(page, 'bash') for line in block.splitlines()]
COMMANDS = [(page, line) for page, line in LINES if re.search(r'(^|&& )resnet-hub |-m resnet_hub ', line)]


def words(line: str) -> list[str]:
    """Return the arguments of a line that calls resnet-hub."""
    return shlex.split(re.split(r'(?:-m resnet_hub|&& resnet-hub|^resnet-hub) ', line)[-1].partition(' > ')[0])


@pytest.mark.parametrize('line', dict.fromkeys(line for _, line in COMMANDS))
def test_commands_have_the_options_that_there_are(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    from resnet_hub.cli import _parser

    assert _parser().parse_args(words(line)).run, capsys.readouterr().err


#: what a line has that a test cannot do: a network, an account, hours
ELSEWHERE = re.compile(
    'OWNER|demo |--recipe|--resume|--check|torchrun|teacher|cifar_resnet18|runs/mine|cifar100/|CIFAR-10-C'
)


@pytest.mark.parametrize('page', dict.fromkeys(page for page, _ in COMMANDS), ids=lambda page: page.name)
def test_commands_run(page: Path, workplace: Path, monkeypatch: pytest.MonkeyPatch, command, request) -> None:
    """The commands of a page run one after the other, on few images, without a network."""
    need_extra(page)
    monkeypatch.setenv('HF_HUB_OFFLINE', '1')
    lines = [line for where, line in COMMANDS if where == page and not ELSEWHERE.search(line)]
    if any('resnet32.th' in line for line in lines):
        (workplace / 'resnet32.th').symlink_to(request.getfixturevalue('published') / 'resnet32-d509ac18.th')
    for line in lines:
        assert command(*words(line)).out, line


def test_test_command_is_the_one_of_ci() -> None:
    install, _, test = next(block for block in blocks(README, 'bash') if 'pytest' in block).strip().partition(' && ')
    ci = (ROOT / '.ci' / 'run').read_text()
    assert f'{test}\n' in ci and "-e '.[test" in ci and "-e '.[test]'" in install
