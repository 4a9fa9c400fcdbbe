"""Measure our weights for docs/zoo.md: python scripts/maintenance/measure_weights.py DATA [WEIGHTS …] [--speed]

DATA holds the folders cifar10 and cifar100 with the test images as parquet. Without WEIGHTS, those that lack a figure
are measured. The AUROC goes into resnet_hub/tables/weights.csv, the accuracy on JPEG images and the speed into zoo.csv
beside this script. Afterwards run scripts/maintenance/readme.py.
"""

from __future__ import annotations

import argparse
import csv
import io
import sys
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # this clone's package, whatever is installed
from resnet_hub.data.images import Images
from resnet_hub.data.sources import read_labelled
from resnet_hub.inference.evaluate import evaluate
from resnet_hub.inference.ood import evaluate_ood
from resnet_hub.registry.loading import load_model
from resnet_hub.tables.weights import RESNET_HUB, TABLE, WEIGHTS, Weights, read_table, write_table

ZOO = Path(__file__).with_name('zoo.csv')
QUALITY = 75  #: of JPEG, as Pillow, cameras and web sites have it by default


class Figures(NamedTuple):
    """A row of zoo.csv."""

    jpeg75: float  #: top-1 in % on JPEG-compressed test images
    images_per_second: float | None = None  #: float32, batches of 500, on the processor


def read_figures() -> dict[str, Figures]:
    """Read zoo.csv: the figures of weights by their names."""
    if not ZOO.is_file():
        return {}
    with open(ZOO, newline='', encoding='utf-8') as file:
        return {
            line['weights']: Figures(float(line['jpeg75']), float(line['images_per_second'] or 0) or None)
            for line in csv.DictReader(file)
        }


def compressed(images: Images) -> Images:
    """Return the images as JPEG files show them."""

    def through_jpeg(image: np.ndarray) -> np.ndarray:
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, 'JPEG', quality=QUALITY)
        return np.asarray(Image.open(buffer))

    return replace(images, pixels=torch.from_numpy(np.stack([through_jpeg(image) for image in images.pixels.numpy()])))


def measure(row: Weights, data: Path, speed: bool) -> tuple[float, Figures]:
    """Return the AUROC of the energy score in %, and the figures of zoo.csv."""
    inside, outside = (read_labelled(data / name, 'test').load() for name in (row.dataset, row.data.unknown))
    model = load_model(row.name, 'cpu')
    energy = next(found for found in evaluate_ood(model, inside, outside).separations if found.score == 'energy')
    metrics = evaluate(model, compressed(inside))
    return energy.auroc, Figures(metrics.top1, round(metrics.images_per_second) if speed else None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('data', type=Path)
    parser.add_argument('weights', nargs='*')
    parser.add_argument('--speed', action='store_true', help='note the images per second: only on an idle machine')
    args = parser.parse_args()
    ours = [name for name, row in WEIGHTS.items() if row.publisher is RESNET_HUB]
    for name in args.weights or [name for name in ours if WEIGHTS[name].auroc is None or name not in read_figures()]:
        auroc, measured = measure(WEIGHTS[name], args.data, args.speed)
        print(name, auroc, *measured, flush=True)
        rows, figures = read_table(), {**read_figures(), name: measured}
        write_table(TABLE, {**rows, name: rows[name]._replace(auroc=auroc)}.values())
        with open(ZOO, 'w', newline='', encoding='utf-8') as file:
            writer = csv.writer(file, lineterminator='\n')
            writer.writerow(('weights', *Figures._fields))
            writer.writerows((key, *figures[key]) for key in ours if key in figures)


if __name__ == '__main__':
    main()
