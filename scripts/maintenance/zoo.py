"""The picture of the catalog: accuracy against multiply-adds, of our weights and the published ones."""

from __future__ import annotations

import functools
import html
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
    """Of one 32×32 image, by PyTorch's counter, which counts each as two operations."""
    row = ARCHITECTURES[architecture]
    model = network_class(architecture)(**row.model_args(), device='meta').eval()
    return count_flops(model, torch.empty(1, 3, 32, 32, device='meta')) // 2


class Point(NamedTuple):
    dataset: str
    architecture: str
    publisher: str
    cost: int  #: multiply-adds
    top1: float

    @property
    def label(self) -> str:
        """resnet20, preact20 and wide28_10, of the three families."""
        return self.architecture.removeprefix('cifar_').replace('_resnet', '')


def points() -> list[Point]:
    """What is to be drawn: the rows of the catalog for the panels' data sets."""
    rows = ((name.partition('.')[0], row) for name, row in WEIGHTS.items() if row.dataset in PANELS)
    return [Point(row.dataset, name, row.publisher.name, multiply_adds(name), row.top1) for name, row in rows]


def points_of(picture: Path) -> list[Point]:
    """What was drawn, out of the picture's description."""
    _, _, rest = picture.read_text(encoding='utf-8').partition('<dc:description>')
    return [Point(*item) for item in json.loads(html.unescape(rest.partition('</dc:description>')[0]) or '[]')]


def draw(path: Path = PICTURE) -> Figure:
    """Write the picture: the same bytes for the same catalog and the same matplotlib."""
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
        figure.draw_without_rendering()  # from here on everything has its place
        figure.set_layout_engine('none')
        for axes, shown in panels.items():
            _label(axes, shown)
        path.parent.mkdir(parents=True, exist_ok=True)
        metadata = {'Date': None, 'Creator': None, 'Description': json.dumps(found)}
        figure.savefig(path, format='svg', metadata=metadata)
    return figure


def _published_frontier(shown: Iterable[Point]) -> list[Point]:
    """Others' weights that are better than all of others' that cost as much or less."""
    best, front = 0.0, []
    for point in sorted(shown, key=lambda point: (point.cost, -point.top1)):
        if point.publisher != RESNET_HUB.name and point.top1 > best:
            best = point.top1
            front.append(point)
    return front


def _plot(axes: Axes, shown: list[Point], title: str) -> None:
    for publisher, (mark, area, colour) in MARKS.items():
        own = [point for point in shown if point.publisher == publisher]
        style = {'marker': mark, 's': area, 'color': colour, 'zorder': 3 if publisher == RESNET_HUB.name else 2}
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
    """Name ours and the best published, each at a near place that is free, with a line where that is far."""
    best = _published_frontier(shown)
    texts = {}
    for point in shown:
        if point.publisher == RESNET_HUB.name or point in best:
            colour, weight = MARKS[point.publisher][2], 'normal' if point in best else 'bold'
            texts[point] = axes.annotate(
                point.label,
                (point.cost, point.top1),
                (0, 0),
                textcoords='offset points',
                horizontalalignment='center',
                verticalalignment='center',
                fontsize=8.5,
                color=colour,
                fontweight=weight,
                arrowprops={'arrowstyle': '-', 'color': colour, 'linewidth': 0.5, 'shrinkB': 5},
            )
    marks = {point: axes.transData.transform((point.cost, point.top1)) for point in shown}
    sizes = {point: text.get_window_extent().size for point, text in texts.items()}
    orders = random.Random(0)
    layouts = [_layout(orders.sample([*sizes], len(sizes)), sizes, marks, axes.bbox) for _ in range(50)]
    for point, (distance, box) in min(layouts, key=lambda layout: sum(d**2 for d, _ in layout.values())).items():
        texts[point].set_position((box.min + box.max) / 2 - marks[point])
        texts[point].arrow_patch.set_visible(distance > 14)


def _layout(
    order: list[Point], sizes: Mapping[Point, Any], marks: Mapping[Point, Any], frame: Bbox
) -> dict[Point, tuple[int, Bbox]]:
    """The nearest box for each label that is free when its turn comes, and its distance from the mark."""
    taken = [Bbox([mark - 4, mark + 4]) for mark in marks.values()]
    layout = {}
    for point in order:
        layout[point] = next(
            (distance, box)
            for distance, box in _places(marks[point], sizes[point])
            if not box.count_overlaps(taken) and frame.count_contains([box.min, box.max]) == 2
        )
        taken.append(layout[point][1])
    return layout


def _places(mark: Any, size: Any) -> Iterator[tuple[int, Bbox]]:
    """Boxes around a mark, near before far, on the upper left, which is emptiest, before elsewhere."""
    for distance in range(6, 100, 2):
        for angle in np.radians([135, 180, 90, 150, 120, 0, 315, 270, 45, 225, 30, 330, 300, 240, 210, 60]):
            centre = mark + np.array([np.cos(angle), np.sin(angle)]) * (distance + size / 2)
            yield distance, Bbox([centre - size / 2, centre + size / 2])
