"""How good a classifier is on labelled images."""

from __future__ import annotations

import csv
import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from .data import Images, normalise
from .datasets import DATASETS, Triple
from .errors import InputError
from .files import encode, halve


@dataclass(frozen=True)
class Metrics:
    """Results on `images` images: percentages, and the mean negative log-likelihood in nats."""

    top1: float
    top5: float
    nll: float
    images: int

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@torch.inference_mode()
def evaluate(model: nn.Module, images: Images, mean: Triple, std: Triple, batch_size: int = 500) -> Metrics:
    """Top-1, top-5 (%) and negative log-likelihood (nats) of a classifier in float32.

    The model is put into evaluation mode and channels_last order; images are moved to its device.

    Raises:
        InputError: labels beyond the model's classes.
    """
    from tqdm.auto import trange

    model = model.eval().to(memory_format=torch.channels_last)
    device = next(model.parameters()).device
    top1 = top5 = 0
    nll = 0.0
    for start in trange(0, len(images), batch_size, desc='evaluate', unit='batch', leave=False, delay=1, disable=None):
        batch = images[slice(start, start + batch_size)].to(device)
        logits = model(normalise(batch.pixels, mean, std)).float()
        if int(batch.labels.max()) >= logits.shape[1]:
            raise InputError(
                f'the model has {logits.shape[1]} classes, the images have label {int(batch.labels.max())}'
            )
        hits = logits.topk(min(5, logits.shape[1])).indices == batch.labels[:, None]
        top1 += int(hits[:, 0].sum())
        top5 += int(hits.sum())
        nll += float(F.cross_entropy(logits.double(), batch.labels, reduction='sum'))
    count = len(images)
    return Metrics(
        top1=round(100 * top1 / count, 4), top5=round(100 * top5 / count, 4), nll=round(nll / count, 4), images=count
    )


def dataset_of(model: nn.Module) -> str:
    """The data set whose classes a model's `pretrained_cfg` names, else the one with as many classes.

    Raises:
        InputError: none fits.
    """
    cfg: dict[str, Any] = getattr(model, 'pretrained_cfg', {})
    names = tuple(cfg.get('label_names') or ())
    for fits in (lambda d: names == d.classes, lambda d: cfg.get('num_classes') == len(d.classes)):
        for name, dataset in DATASETS.items():
            if fits(dataset):
                return name
    raise InputError(f'no data set has the {cfg.get("num_classes")} classes of this model; say --dataset')


def log_evaluation(path: str | Path, result: dict[str, Any], model: nn.Module) -> None:
    """Append a result to a CSV file, with the digest of the weights as safetensors."""
    row = {**result, 'sha256': hashlib.sha256(encode(halve(model.state_dict()))).hexdigest()}
    path = Path(path)
    new = not path.exists()
    with open(path, 'a', newline='', encoding='utf-8') as file:
        writer = csv.DictWriter(file, row)
        if new:
            writer.writeheader()
        writer.writerow(row)
