"""Functions of `benchmark.py`: take samples in turn, run new processes, compute medians, and make tables."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

SCRIPTS = Path(__file__).resolve().parent
ROOT = SCRIPTS.parents[1]
PACKAGES = (
    'resnet-hub',
    'torch',
    'timm',
    'torchvision',
    'safetensors',
    'pytorchcv',
    'openvino',
    'onnxruntime',
    'torchao',
)


class Target(NamedTuple):
    """The value that a figure should reach."""

    sign: str  #: '≥' or '≤'
    limit: float

    def met(self, value: float) -> bool:
        return value >= self.limit if self.sign == '≥' else value <= self.limit


@dataclass(frozen=True)
class Comparison:
    """Samples of one quantity from several sides, taken in turn."""

    what: str
    unit: str
    samples: dict[str, list[float]]  #: by side
    targets: dict[str, Target] = field(default_factory=dict)  #: by side: of its ratio; without a baseline, its median
    baseline: str | None = None  #: the side that the others are divided by

    def to_dict(self) -> dict[str, Any]:
        """Return a dictionary for JSON: samples, medians, ratios of neighbours, and whether targets are met."""
        sides = {side: self._side(side) for side in self.samples}
        return {'what': self.what, 'unit': self.unit, 'baseline': self.baseline, 'sides': sides}

    def _side(self, side: str) -> dict[str, Any]:
        samples = self.samples[side]
        result: dict[str, Any] = {'samples': samples, 'median': statistics.median(samples)}
        if self.baseline not in (None, side):
            ratios = [a / b for a, b in zip(samples, self.samples[self.baseline], strict=True)]
            result |= {'ratios': ratios, 'ratio': statistics.median(ratios)}
        if side in self.targets:
            target = self.targets[side]
            result |= {'target': target._asdict(), 'met': target.met(result.get('ratio', result['median']))}
        return result


def take_turns(
    label: str, sides: dict[str, Callable[[], Any]], rounds: int, warm_up: bool = True
) -> dict[str, list[Any]]:
    """Take a sample of every side in each round. Every other round has the opposite order.

    With `warm_up`, a round that is not counted comes first.
    """
    samples: dict[str, list[Any]] = {side: [] for side in sides}
    first = 0 if warm_up else 1
    with tqdm(total=(rounds + 1 - first) * len(sides), desc=label, leave=False, disable=None) as bar:
        for number in range(first, rounds + 1):
            for side in list(sides)[:: 1 if number % 2 else -1]:
                bar.set_postfix_str(side)
                sample = sides[side]()
                bar.update()
                if number:
                    samples[side].append(sample)
    return samples


def pick(samples: dict[str, list[dict[str, float]]], figure: str) -> dict[str, list[float]]:
    """Return one figure of each sample, if samples have several."""
    return {side: [sample[figure] for sample in taken] for side, taken in samples.items()}


def run(*command: Any) -> subprocess.CompletedProcess[str]:
    """Run a command in a new process, which can import the modules of this folder.

    Raises:
        SystemExit: the command failed. The message is its error output.
    """
    path = os.pathsep.join(filter(None, (str(SCRIPTS), os.environ.get('PYTHONPATH'))))
    environment = {**os.environ, 'PYTHONPATH': path}
    done = subprocess.run([*map(str, command)], env=environment, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f'benchmark: what was measured failed:\n{done.stderr}')
    return done


_PRELUDE = """
import json, sys, time

def status(field):
    '''Return a field of /proc/self/status in bytes.'''
    return next(int(line.split()[1]) * 1024 for line in open('/proc/self/status') if line.startswith(field))

def begin():
    '''Reset the peak of memory. Return the bytes that the process holds now, and the time.'''
    open('/proc/self/clear_refs', 'w').write('5')
    return status('VmRSS'), time.perf_counter()
"""


def fresh(program: str, *arguments: Any) -> Any:
    """Run a Python program in a new process, and return the JSON on the last line that it prints.

    The program may use the functions `begin` and `status`.
    """
    return json.loads(run(sys.executable, '-c', _PRELUDE + program, *arguments).stdout.splitlines()[-1])


class Clock:
    """Measures the seconds of one call, as the mean of so many calls that they take `at_least` seconds.

    The first calls, which are slower, are made when the object is created.
    """

    def __init__(self, function: Callable[[Tensor], Tensor], x: Tensor, at_least: float) -> None:
        self.function, self.x, self.calls = function, x, 1
        for _ in range(3):
            self.calls = max(1, round(at_least / self()))

    def __call__(self) -> float:
        start = self._now()
        for _ in range(self.calls):
            self.function(self.x)
        return (self._now() - start) / self.calls

    def _now(self) -> float:
        if self.x.device.type != 'cpu':
            torch.accelerator.synchronize()
        return time.perf_counter()


def count_flops(model: nn.Module, x: Tensor) -> int:
    """Count the floating-point operations of a forward pass. A multiplication and an addition are two."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(x)
    return counter.get_total_flops()


def environment() -> dict[str, Any]:
    """Return the versions of the packages, and a description of the machine."""
    installed = {dist.name.lower(): dist.version for dist in metadata.distributions() if dist.name}
    return {
        'versions': {name: installed[name] for name in PACKAGES if name in installed},
        'python': platform.python_version(),
        'processor': _processor(),
        'cores': os.cpu_count(),
        'threads': torch.get_num_threads(),
        'gpu': torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def _processor() -> str:
    lines = Path('/proc/cpuinfo').read_text(encoding='utf-8').splitlines()
    names = (line.partition(':')[2].strip() for line in lines if line.startswith('model name'))
    return next(names, platform.machine())


# ---------------------------------------------------------------------------------------------- tables

HEADER = ('', 'side', 'median', 'range', 'ratio', 'range', 'target')


def rows(comparisons: Sequence[dict[str, Any]], brief: bool = False) -> list[tuple[str, ...]]:
    """Return a row for each side; with `brief`, only for sides with a target. The first row names the comparison."""
    lines = []
    for comparison in comparisons:
        what = f'{comparison["what"]} ({comparison["unit"]})'
        for side, result in comparison['sides'].items():
            if brief and 'target' not in result:
                continue
            ratio = (f'{_number(result["ratio"])} ×', _range(result['ratios'])) if 'ratio' in result else ('', '')
            lines.append((what, side, _number(result['median']), _range(result['samples']), *ratio, _verdict(result)))
            what = ''
    return lines


def _number(value: float) -> str:
    return f'{value:,.0f}' if value >= 1000 else f'{value:.4g}' if value >= 10 else f'{value:.3g}'


def _range(values: Sequence[float]) -> str:
    return f'{_number(min(values))} to {_number(max(values))}' if len(values) > 1 else ''


def _verdict(result: dict[str, Any]) -> str:
    if 'target' not in result:
        return ''
    times = ' ×' if 'ratio' in result else ''
    return f'{result["target"]["sign"]} {result["target"]["limit"]:g}{times}: {"met" if result["met"] else "not met"}'


def describe(environment: dict[str, Any]) -> str:
    """Return an environment as one line."""
    versions = ', '.join(f'{name} {version}' for name, version in environment['versions'].items())
    threads = f'{environment["cores"]} cores, {environment["threads"]} threads'
    machine = ', '.join(filter(None, (environment['processor'], threads, environment['gpu'])))
    return f'Python {environment["python"]}, {versions}; {machine}'


def text(comparisons: Sequence[dict[str, Any]]) -> str:
    """Return the table for the terminal, with text on the left and numbers on the right."""
    lines = [HEADER, *rows(comparisons)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    aligned = (
        '  '.join(f'{cell:{"<" if i < 2 else ">"}{widths[i]}}' for i, cell in enumerate(line)).rstrip()
        for line in lines
    )
    return '\n'.join(aligned)


def markdown(results: dict[str, Any], brief: bool = False) -> str:
    """Return the table of a JSON file, see `rows`. A line for each machine stands above it."""
    machines: dict[str, list[str]] = {}
    for name, section in results.items():
        quick = ' (quick)' if section['quick'] else ''
        machines.setdefault(describe(section['environment']), []).append(name + quick)
    notes = [f'{", ".join(names).capitalize()}: {machine}.' for machine, names in machines.items()]
    comparisons = [comparison for section in results.values() for comparison in section['comparisons']]
    lines = [HEADER, [':--', ':--', *['--:'] * (len(HEADER) - 2)], *rows(comparisons, brief)]
    return '\n\n'.join([*notes, '\n'.join(f'| {" | ".join(line)} |' for line in lines)])
