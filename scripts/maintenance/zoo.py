"""Draw the zoo: accuracy against multiply-adds, of our weights and of those of other publishers."""

from __future__ import annotations

import functools
import html
import itertools
import json
import random
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter
from matplotlib.transforms import Bbox
from measuring import count_flops
from torch import nn

from resnet_hub.models import network_class
from resnet_hub.tables.architectures import ARCHITECTURES
from resnet_hub.tables.datasets import DATASETS
from resnet_hub.tables.weights import RESNET_HUB, WEIGHTS

PICTURE = Path(__file__).resolve().parents[2] / '.github' / 'zoo.svg'
PANELS = {name: DATASETS[name].title for name in ('cifar10', 'cifar100')}
#: publisher: mark, its area, colour
MARKS = {
    'resnet-hub': ('*', 80, '#cf222e'),
    'osmr': ('o', 22, '#4a6c98'),
    'chenyaofo': ('^', 24, '#3f8f80'),
    'akamaster': ('s', 20, '#9a7d48'),
}
TICKS = (50, 60, 65, 70, 75, 80, 82, 84, 86, 88, 90, 92, 94, 95, 96, 97, 98)


@functools.cache
def multiply_adds(architecture: str) -> int:
    """Return the multiply-adds for one 32×32 image, by PyTorch's counter, which counts each as two operations.

    The counter counts convolutions and matrix products. It is eight times as fast without the other layers.
    """
    row, without = ARCHITECTURES[architecture], {'norm_layer': nn.Identity, 'act_layer': nn.Identity}
    model = network_class(architecture)(**row.model_args(), **without, device='meta').eval()
    return count_flops(model, torch.empty(1, 3, 32, 32, device='meta')) // 2


class Point(NamedTuple):
    dataset: str
    architecture: str
    publisher: str
    cost: int  #: multiply-adds
    top1: float


def points() -> list[Point]:
    """Return what is to be drawn: the rows of the table of weights for the panels' data sets."""
    rows = ((name.partition('.')[0], row) for name, row in WEIGHTS.items() if row.dataset in PANELS)
    return [Point(row.dataset, name, row.publisher.name, multiply_adds(name), row.top1) for name, row in rows]


def points_of(picture: Path) -> list[Point]:
    """Return what a picture shows, from the description in it."""
    _, _, rest = picture.read_text(encoding='utf-8').partition('<dc:description>')
    return [Point(*item) for item in json.loads(html.unescape(rest.partition('</dc:description>')[0]) or '[]')]


def draw(path: Path = PICTURE) -> Figure:
    """Write the picture. The same table and the same matplotlib give the same bytes."""
    style = {'svg.hashsalt': 'zoo', 'font.size': 10, 'axes.spines.top': False, 'axes.spines.right': False}
    found = points()
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(10, 5.4), dpi=72, layout='constrained')
        panels = {}
        for axes, (dataset, title) in zip(figure.subplots(1, len(PANELS)), PANELS.items(), strict=True):
            panels[axes] = [point for point in found if point.dataset == dataset]
            _plot(axes, panels[axes], title)
        figure.legend(*axes.get_legend_handles_labels(), loc='outside upper center', ncols=5, frameon=False)
        figure.supxlabel('multiply-adds', fontsize='medium')
        figure.supylabel('test top-1 % (errors on a log scale)', fontsize='medium')
        figure.draw_without_rendering()  # after this everything has its final place
        figure.set_layout_engine('none')
        for axes, shown in panels.items():
            _label(axes, shown)
        path.parent.mkdir(parents=True, exist_ok=True)
        metadata = {'Date': None, 'Creator': None, 'Description': json.dumps(found)}
        figure.savefig(path, format='svg', metadata=metadata)
    return figure


def _published_frontier(shown: Iterable[Point]) -> list[Point]:
    """Return others' weights that are better than all other published ones of the same cost or less."""
    best, front = 0.0, []
    for point in sorted(shown, key=lambda point: (point.cost, -point.top1)):
        if point.publisher != RESNET_HUB.name and point.top1 > best:
            best = point.top1
            front.append(point)
    return front


def _plot(axes: Axes, shown: list[Point], title: str) -> None:
    for publisher, (mark, area, colour) in MARKS.items():
        own = [point for point in shown if point.publisher == publisher]
        level = 2 if publisher == RESNET_HUB.name else 3  # our large stars lie below the small marks
        style = {'marker': mark, 's': area, 'color': colour, 'edgecolor': 'white', 'linewidth': 0.5, 'zorder': level}
        axes.scatter([p.cost for p in own], [p.top1 for p in own], label=publisher, **style)
    best = _published_frontier(shown)
    axes.plot(
        [p.cost for p in best], [p.top1 for p in best], color='#b8c4d4', linewidth=1, label='best published', zorder=1
    )
    axes.set_xscale('log')
    axes.xaxis.set_major_formatter(EngFormatter())
    axes.set_yscale('function', functions=(lambda top1: -np.log(100 - top1), lambda y: 100 - np.exp(-y)))
    axes.margins(0.14, 0.09)
    limits = axes.get_ylim()
    axes.set_yticks(TICKS)
    axes.set(title=title, ylim=limits)
    axes.grid(alpha=0.25)


def _label(axes: Axes, shown: list[Point]) -> None:
    """Write the names of ours and of the best published beside their marks, with a line from a mark to a far name.

    No name covers a mark, another name, or the line of the best published.
    """
    best = _published_frontier(shown)
    texts = {}
    for point in shown:
        if point.publisher == RESNET_HUB.name or point in best:
            colour, weight = MARKS[point.publisher][2], 'normal' if point in best else 'bold'
            texts[point] = axes.annotate(
                point.architecture,
                (point.cost, point.top1),
                (0, 0),
                textcoords='offset points',
                horizontalalignment='center',
                verticalalignment='center',
                fontsize=7.5,
                color=colour,
                fontweight=weight,
                arrowprops={'arrowstyle': '-', 'color': colour, 'linewidth': 0.5, 'shrinkB': 5},
            )
    marks = {point: axes.transData.transform((point.cost, point.top1)) for point in shown}
    sizes = {point: text.get_window_extent().size for point, text in texts.items()}
    orders = random.Random(0)
    line = [box for a, b in itertools.pairwise(best) for box in _boxes_along(marks[a], marks[b])]
    layouts = [_layout(orders.sample([*sizes], len(sizes)), sizes, marks, line, axes.bbox) for _ in range(50)]
    for point, (distance, box) in min(layouts, key=lambda layout: sum(d**2 for d, _ in layout.values())).items():
        texts[point].set_position((box.min + box.max) / 2 - marks[point])
        texts[point].arrow_patch.set_visible(distance > 14)


def _layout(
    order: list[Point], sizes: Mapping[Point, Any], marks: Mapping[Point, Any], line: list[Bbox], frame: Bbox
) -> dict[Point, tuple[int, Bbox]]:
    """Return the nearest box for each name that is free when its turn comes, and its distance from the mark."""
    boxes = [*line, *(Bbox([mark - 4, mark + 4]) for mark in marks.values())]
    taken = np.array([box.get_points() for box in boxes])
    layout = {}
    for point in order:
        layout[point] = next(
            (distance, box)
            for distance, box in _places(marks[point], sizes[point])
            if not _overlaps(box, taken) and frame.count_contains([box.min, box.max]) == 2
        )
        taken = np.append(taken, layout[point][1].get_points()[None], axis=0)
    return layout


def _overlaps(box: Bbox, others: Any) -> bool:
    """Return whether a box overlaps any other one. `Bbox.count_overlaps` converts all of them each time."""
    return bool(((others[:, 0] < box.max) & (box.min < others[:, 1])).all(axis=1).any())


def _boxes_along(start: Any, end: Any) -> list[Bbox]:
    """Return small boxes that cover the straight line between two points of the picture."""
    steps = int(np.hypot(*(end - start)) // 3) + 1
    return [Bbox([point - 1, point + 1]) for point in np.linspace(start, end, steps + 1)]


def _places(mark: Any, size: Any) -> Iterator[tuple[int, Bbox]]:
    """Yield boxes around a mark: near ones first, and first those on the upper left, which is emptiest."""
    for distance in range(6, 100, 2):
        for angle in np.radians([135, 180, 90, 150, 120, 0, 315, 270, 45, 225, 30, 330, 300, 240, 210, 60]):
            centre = mark + np.array([np.cos(angle), np.sin(angle)]) * (distance + size / 2)
            yield distance, Bbox([centre - size / 2, centre + size / 2])
