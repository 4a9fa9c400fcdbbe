"""Pictures, where people would rather look."""

from __future__ import annotations

from pathlib import Path

from .errors import MissingExtraError
from .files import replacing


def plot_history(history: list[dict[str, float]], path: str | Path) -> None:
    """Loss, and held-out accuracy where there is one, by epoch, as a PNG.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingExtraError('matplotlib', 'train') from None
    epochs = [row['epoch'] for row in history]
    figure = Figure(figsize=(8, 4.5), layout='constrained')
    axes = figure.subplots()
    axes.plot(epochs, [row['train_loss'] for row in history], label='training loss')
    axes.set(xlabel='epoch', ylabel='loss')
    lines = axes.get_lines()
    if 'holdout_top1' in history[0]:
        axes.plot(epochs, [row['holdout_nll'] for row in history], label='held-out negative log-likelihood')
        right = axes.twinx()
        right.plot(epochs, [row['holdout_top1'] for row in history], color='tab:green', label='held-out top-1')
        right.set_ylabel('top-1 (%)')
        lines = [*axes.get_lines(), *right.get_lines()]
    axes.legend(handles=lines, loc='best')
    with replacing(path) as temporary:
        figure.savefig(temporary, format='png', dpi=120)
