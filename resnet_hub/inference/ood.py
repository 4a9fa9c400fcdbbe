"""Detect images of unknown classes: scores of a network, and how well they separate two sets of images.

Every score is high for an image that looks like the training images. Scores are computed in float64, because in
float32 the maximum softmax of many images is exactly 1, so that these images could not be ranked.

Out-of-distribution images are the positive ones, as in OpenOOD 1.5 (Zhang et al. 2023, https://arxiv.org/abs/2306.09301).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn

from resnet_hub.inference.logits import Data, as_images, compute_outputs
from resnet_hub.registry.loading import as_model
from resnet_hub.utils.errors import InputError

_FAR = ('mnist', 'svhn', 'texture', 'places365')

#: OpenOOD's groups of data sets, by the data set of the known classes
OPENOOD = {
    'cifar10': {'near': ('cifar100', 'tin'), 'far': _FAR},
    'cifar100': {'near': ('cifar10', 'tin'), 'far': _FAR},
}


@dataclass(frozen=True)
class Separation:
    """How well one score separates images of known classes from other images. All figures are in %."""

    outside: str  #: name of the other images, or 'mean of near' or 'mean of far'
    group: str  #: group of the other images in OpenOOD, 'near' or 'far'; '' if they are not in OpenOOD
    score: str  #: 'softmax', 'energy', 'max_logit' or 'knn'
    auroc: float  #: area under the ROC curve; 50 is chance
    fpr95: float  #: share of the known images that are rejected when 95 % of the other images are rejected
    aupr_in: float  #: area under the precision-recall curve if the known images are the positive ones
    aupr_out: float  #: the same area if the other images are the positive ones
    images: int  #: number of the other images


@dataclass(frozen=True)
class OodMetrics:
    """The figures that `evaluate_ood` measures."""

    inside: str  #: name of the images of known classes
    separations: tuple[Separation, ...]  #: one for each set of other images and score, then the means

    def to_dict(self) -> dict[str, Any]:
        """Return what `resnet-hub evaluate --ood … --json` prints for a model."""
        return {'inside': self.inside, 'positive': 'outside', 'separations': [asdict(row) for row in self.separations]}


def evaluate_ood(
    model: nn.Module | str,
    inside: Data,
    outside: Data | Sequence[Data],
    *,
    train: Data | None = None,
    k: int = 50,
    batch_size: int = 500,
) -> OodMetrics:
    """Measure how well the scores of a network separate images of its classes from other images.

    Args:
        model: a classifier, or its name, see `load_model`.
        inside: test images of the network's classes; anything that `evaluate` takes.
        outside: one set of other images, or a list of sets. Labels are not needed. If several sets belong to the same
            group of OpenOOD (near or far), the result also has the mean of the group.
        train: training images for the score of the k nearest neighbours; None leaves this score out.
        k: the distance to the k-th neighbour is the score 'knn' (Sun et al. 2022, https://arxiv.org/abs/2204.06507).
        batch_size: number of images in a batch.

    Returns:
        The figures of each set of other images and each score.

    Raises:
        InputError: the images are unusable, or `train` is given for a network without timm's `forward_features`.
    """
    model = as_model(model)
    if train is not None and not hasattr(model, 'forward_features'):
        raise InputError(
            "the nearest neighbours need features, which only a network with timm's forward_features has: leave out "
            'train (--knn)'
        )
    several = isinstance(outside, list) or (isinstance(outside, tuple) and not _is_pair(outside))
    known = as_images(inside)
    others = [as_images(data, need_labels=False) for data in (outside if several else [outside])]
    bank = None
    if train is not None:
        features = compute_outputs(model, as_images(train, 'train'), batch_size=batch_size, features=True).features
        assert features is not None
        bank = nn.functional.normalize(features)

    def scores(images: Any) -> dict[str, Tensor]:
        outputs = compute_outputs(model, images, batch_size=batch_size, features=bank is not None)
        found = ood_scores(outputs.logits)
        if bank is not None and outputs.features is not None:
            found['knn'] = nearest_neighbours(outputs.features, bank, k)
        return found

    of_known, rows = scores(known), []
    for images in others:
        name = re.sub('^test[_-]', '', images.name)
        group = next((group for group, names in OPENOOD.get(known.name, {}).items() if name in names), '')
        for score, values in scores(images).items():
            rows.append(Separation(name, group, score, **separation(of_known[score], values), images=len(values)))
    return OodMetrics(known.name, (*rows, *_means(rows)))


def _is_pair(data: tuple[Any, ...]) -> bool:
    return len(data) == 2 and not isinstance(data[0], str) and hasattr(data[0], 'shape')


def ood_scores(logits: Tensor) -> dict[str, Tensor]:
    """Return the scores of logits (N, classes), each float64 (N,), by name.

    'softmax' comes from Hendrycks and Gimpel 2017 (https://arxiv.org/abs/1610.02136), 'energy' from Liu et al. 2020
    (https://arxiv.org/abs/2010.03759), 'max_logit' from Hendrycks et al. 2022 (https://arxiv.org/abs/1911.11132).
    """
    logits = logits.double()
    return {
        'softmax': logits.softmax(1).amax(1),
        'energy': logits.logsumexp(1),
        'max_logit': logits.amax(1),
    }


def nearest_neighbours(features: Tensor, bank: Tensor, k: int = 50) -> Tensor:
    """Return the score 'knn': minus the distance of each feature vector to its k-th nearest neighbour in `bank`.

    Args:
        features: float32 (N, width); they are divided by their length first.
        bank: feature vectors of training images, float32 (M, width), each of length 1.
        k: the number of the neighbour, from 1.

    Returns:
        float64 (N,).
    """
    similarity = [
        (part @ bank.T).topk(min(k, len(bank))).values[:, -1] for part in nn.functional.normalize(features).split(1000)
    ]
    return -(2 - 2 * torch.cat(similarity).double()).clamp(min=0).sqrt()


def separation(inside: Tensor, outside: Tensor) -> dict[str, float]:
    """Return AUROC, FPR at 95 % TPR and both AUPR in %, see `Separation`.

    Args:
        inside: scores of the images of known classes, float64 (N,).
        outside: scores of the other images, float64 (M,).
    """
    found, false = _cumulative(-outside, -inside)  # the least familiar images first
    tpr, fpr = found / len(outside), false / len(inside)
    figures = {
        'auroc': torch.trapezoid(tpr, fpr),
        'fpr95': fpr[(tpr >= 0.95).nonzero()[0, 0]],
        'aupr_in': _area_under_precision(*_cumulative(inside, outside)),
        'aupr_out': _area_under_precision(found, false),
    }
    return {name: round(100 * float(value), 4) for name, value in figures.items()}


def _cumulative(positive: Tensor, negative: Tensor) -> tuple[Tensor, Tensor]:
    """Count the positive and negative scores that are at least as high as each threshold, from (0, 0) on.

    The thresholds are the distinct scores in descending order.
    """
    scores, order = torch.cat([positive, negative]).sort(descending=True)
    hits = (order < len(positive)).double().cumsum(0)
    last = torch.cat([scores[1:] != scores[:-1], torch.tensor([True])])  # marks the last of equal scores
    hits, counts = hits[last], torch.arange(1, len(scores) + 1)[last]
    zero = torch.zeros(1, dtype=torch.float64)
    return torch.cat([zero, hits]), torch.cat([zero, counts - hits])


def _area_under_precision(found: Tensor, false: Tensor) -> Tensor:
    """Return the area under the precision-recall curve by the trapezoidal rule; precision is 1 where recall is 0."""
    precision = torch.where(found + false > 0, found / (found + false).clamp(min=1), 1)
    return torch.trapezoid(precision, found / found[-1])


def _means(rows: Sequence[Separation]) -> list[Separation]:
    """Return the means of each score over OpenOOD's groups, for groups of which there are several data sets."""
    means = []
    for group in ('near', 'far'):
        names = {row.outside for row in rows if row.group == group}
        for score in dict.fromkeys(row.score for row in rows if row.group == group) if len(names) > 1 else ():
            part = [row for row in rows if (row.group, row.score) == (group, score)]
            figures = {
                key: round(fmean(getattr(row, key) for row in part), 4)
                for key in ('auroc', 'fpr95', 'aupr_in', 'aupr_out')
            }
            means.append(Separation(f'mean of {group}', group, score, **figures, images=sum(r.images for r in part)))
    return means
