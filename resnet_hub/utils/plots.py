"""Draw training curves and evaluations as PNG files. Importing this raises MissingExtraError without matplotlib."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from resnet_hub.utils.errors import MissingExtraError
from resnet_hub.utils.files import replacing

try:
    from matplotlib.colors import PowerNorm
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator
except ImportError:
    raise MissingExtraError('matplotlib', 'plot') from None


def plot_history(history: list[dict[str, float]], path: str | Path, title: str = '') -> None:
    """Draw the loss of each epoch as a PNG, with accuracy and loss on held-out images if the history has them.

    Args:
        history: one row per epoch, with epoch, train_loss and perhaps holdout_top1 and holdout_nll.
        path: where to write the PNG.
        title: text above the plot.
    """
    epochs = [row['epoch'] for row in history]
    marker = 'o' if len(epochs) == 1 else ''
    figure = Figure(figsize=(8, 4.5), layout='constrained')
    axes = figure.subplots()
    axes.plot(epochs, [row['train_loss'] for row in history], marker=marker, label='training loss')
    axes.set(xlabel='epoch', ylabel='loss')
    axes.set_title(title, parse_math=False)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if 'holdout_top1' in history[0]:
        axes.plot(epochs, [row['holdout_nll'] for row in history], marker=marker, label='held-out loss')
        right = axes.twinx()
        accuracy = [row['holdout_top1'] for row in history]
        right.plot(epochs, accuracy, marker=marker, color='tab:green', label='held-out top-1')
        right.set_ylabel('top-1 (%)')
    figure.legend(loc='outside lower center', ncols=3)
    _save(figure, path)


def plot_confusion(confusion: Sequence[Sequence[int]], names: Sequence[str], path: str | Path, title: str = '') -> None:
    """Draw a confusion matrix as a PNG: which share of each true class (row) got each prediction (column).

    Args:
        confusion: number of images of each true class (row) and predicted class (column). The plot shows these numbers
            too if there are at most 20 classes.
        names: names of the classes, in the same order.
        path: where to write the PNG.
        title: text above the plot.
    """
    few = len(names) <= 20
    shares = [[100 * count / (sum(row) or 1) for count in row] for row in confusion]
    size = 4 + (0.4 if few else 0.14) * len(names)
    figure = Figure(figsize=(size + 1, size), layout='constrained')
    axes = figure.subplots()
    image = axes.imshow(shares, cmap='Blues', norm=PowerNorm(0.4, 0, 100))  # a linear scale would hide the errors
    figure.colorbar(image, label='% of the true class', ticks=(0, 1, 5, 20, 50, 100), aspect=40, fraction=0.04)
    axes.set(xlabel='predicted class', ylabel='true class')
    axes.set_title(title, parse_math=False)
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=9 if few else 6)
    axes.set_yticks(range(len(names)), names, fontsize=9 if few else 6)
    if few:
        for i, row in enumerate(confusion):
            for j, count in enumerate(row):
                color = 'white' if shares[i][j] > 20 else 'black'
                axes.text(j, i, str(count or ''), ha='center', va='center', fontsize=9, color=color)
    _save(figure, path)


def plot_corruptions(top1: Mapping[str, Sequence[float]], path: str | Path, title: str = '') -> None:
    """Draw the accuracy at each corruption (row) and severity (column) as a PNG.

    Args:
        top1: for each corruption, the accuracy in % at the severities 1, 2, ….
        path: where to write the PNG.
        title: text above the plot.
    """
    names, severities = [*top1], range(1, len(next(iter(top1.values()))) + 1)
    figure = Figure(figsize=(7, 2 + 0.35 * len(names)), layout='constrained')
    axes = figure.subplots()
    image = axes.imshow([*top1.values()], cmap='RdYlGn', vmin=0, vmax=100, aspect='auto')
    figure.colorbar(image, label='top-1 (%)')
    axes.set(xlabel='severity')
    axes.set_title(title, parse_math=False)
    axes.set_xticks(range(len(severities)), [str(severity) for severity in severities])
    axes.set_yticks(range(len(names)), [name.replace('_', ' ') for name in names])
    for i, values in enumerate(top1.values()):
        for j, value in enumerate(values):
            axes.text(j, i, f'{value:.1f}', ha='center', va='center', fontsize=9)
    _save(figure, path)


def _save(figure: Figure, path: str | Path) -> None:
    with replacing(path) as temporary:
        figure.savefig(temporary, format='png', dpi=120)
