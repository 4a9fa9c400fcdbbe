"""The rooms of the package import only downwards, as the map in CONTRIBUTING.md draws them."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

from tests.conftest import ROOT

PACKAGE = ROOT / 'resnet_hub'
MODULES = {
    '.'.join(path.relative_to(ROOT).with_suffix('').parts).removesuffix('.__init__'): path
    for path in PACKAGE.rglob('*.py')
}


def floors() -> list[list[str]]:
    """The rooms of each floor, from the top, as the map's left column has them."""
    block = re.search(r'```house\n(.*?)```', (ROOT / 'CONTRIBUTING.md').read_text(encoding='utf-8'), re.DOTALL)
    assert block, 'CONTRIBUTING.md has no ```house block'
    return [re.split(r'  +', line)[0].split() for line in block[1].splitlines()]


def room(module: str) -> str:
    """The room of a module: the part after the package's name."""
    return module.split('.')[1] if '.' in module else '__init__'


def imports(path: Path) -> Iterator[str]:
    """Every module of the package that a file imports, inside functions and for type checking too."""
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in MODULES)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f'{path.relative_to(ROOT)}:{node.lineno}: use an absolute import'
            for alias in node.names:
                whole = f'{node.module}.{alias.name}'
                if whole in MODULES:
                    yield whole
                elif node.module in MODULES:
                    yield str(node.module)


def test_every_room_is_on_the_map() -> None:
    drawn = {name for floor in floors() for name in floor}
    assert {room(module) for module in MODULES} <= drawn


def test_imports_point_down() -> None:
    level = {name: number for number, floor in enumerate(floors()) for name in floor}
    wrong = [
        f'{module} imports {other}'
        for module, path in MODULES.items()
        for other in imports(path)
        if room(module) != room(other) and level[room(module)] >= level[room(other)]
    ]
    assert not wrong


def test_no_circles() -> None:
    graph = {module: set(imports(path)) - {module} for module, path in MODULES.items()}
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle
