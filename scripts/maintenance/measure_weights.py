"""Measure our weights for docs/zoo.md and for the browser page.

    python scripts/maintenance/measure_weights.py DATA [WEIGHTS …] [--speed]

DATA holds the folders cifar10 and cifar100 with images as parquet. Without WEIGHTS, those that lack a figure are
measured. With --speed only the speeds are measured, which needs an idle machine. The AUROC goes into
resnet_hub/tables/weights.csv, the threshold of the energy score into resnet_hub/demo/energy.csv, and everything else
into zoo.csv beside this script. Then run scripts/maintenance/readme.py.

Figures of int8 need the extra `export`. They are those of an OpenVINO file. Its ranges come from 300 training images:
of the network's own data set if DATA has them, else of the other one.
"""

from __future__ import annotations

import argparse
import csv
import io
import sys
import tempfile
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # this clone's package, whatever is installed
from resnet_hub.data.images import Images
from resnet_hub.data.sources import read_labelled
from resnet_hub.demo.energy import TABLE as ENERGY
from resnet_hub.demo.energy import Threshold, find_threshold, read_thresholds
from resnet_hub.exporting.export import export
from resnet_hub.inference.evaluate import Metrics, evaluate
from resnet_hub.inference.logits import Outputs, compute_outputs
from resnet_hub.inference.ood import ood_scores, separation
from resnet_hub.inference.optimize import CALIBRATION_IMAGES
from resnet_hub.registry.loading import load_model
from resnet_hub.tables.weights import RESNET_HUB, TABLE, WEIGHTS, Weights, read_table, write_table
from resnet_hub.utils.errors import InputError, MissingExtraError
from resnet_hub.utils.files import replacing

ZOO = Path(__file__).with_name('zoo.csv')
QUALITY = 75  #: of JPEG, as Pillow, cameras and web sites have it by default


class Figures(NamedTuple):
    """A row of zoo.csv. The speeds are those of batches of 500 on the processor; None was not measured."""

    jpeg75: float | None = None  #: top-1 in % on JPEG-compressed test images
    int8_top1: float | None = None  #: top-1 in % of the int8 file
    images_per_second: float | None = None  #: of the network in float32
    int8_images_per_second: float | None = None  #: of the int8 file


def read_figures() -> dict[str, Figures]:
    """Read zoo.csv: the figures of weights by their names."""
    with open(ZOO, newline='', encoding='utf-8') as file:
        return {
            line.pop('weights'): Figures(**{name: float(cell) for name, cell in line.items() if cell})
            for line in csv.DictReader(file)
        }


def write_rows(path: Path, rows: Mapping[str, Any], fields: Iterable[str]) -> None:
    """Write a table with a row for each of our weights that `rows` has."""
    with replacing(path) as temporary, temporary.open('w', newline='', encoding='utf-8') as file:
        writer = csv.writer(file, lineterminator='\n')
        writer.writerow(('weights', *fields))
        writer.writerows((name, *rows[name]) for name in WEIGHTS if name in rows)


def compressed(images: Images) -> Images:
    """Return the images as JPEG files show them."""

    def through_jpeg(image: np.ndarray) -> np.ndarray:
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, 'JPEG', quality=QUALITY)
        return np.asarray(Image.open(buffer))

    return replace(images, pixels=torch.from_numpy(np.stack([through_jpeg(image) for image in images.pixels.numpy()])))


def measure(row: Weights, data: Path) -> tuple[float, Threshold, Figures]:
    """Return the AUROC of the energy score in %, its threshold, and the accuracies of zoo.csv."""
    inside, outside = (read_labelled(data / name, 'test').load() for name in (row.dataset, row.data.unknown))
    model = load_model(row.name, 'cpu')
    known = compute_outputs(model, inside)
    top1 = Metrics.from_logits(known.logits, inside.labels).top1
    if abs(top1 - row.top1) > 0.05:
        raise SystemExit(f'{row.name} has a top-1 of {top1:.2f} % on {data}, but {row.top1:.2f} in the table')
    int8 = measure_int8(model, row, data, inside)
    figures = Figures(evaluate(model, compressed(inside)).top1, int8 and int8.top1)
    auroc = separation(energy(known), energy(compute_outputs(model, outside)))['auroc']
    return auroc, find_threshold(energy(known), f'{row.data.title} test pictures'), figures


def measure_speed(row: Weights, data: Path) -> Figures:
    """Return the speeds of zoo.csv, on the first test images. A first pass over them is not measured."""
    images = read_labelled(data / row.dataset, 'test')[:1000].load()
    model = load_model(row.name, 'cpu')
    evaluate(model, images)
    int8 = measure_int8(model, row, data, images)
    return Figures(
        images_per_second=round(evaluate(model, images).images_per_second),
        int8_images_per_second=int8 and round(int8.images_per_second),
    )


def energy(outputs: Outputs) -> torch.Tensor:
    return ood_scores(outputs.logits)['energy']


def measure_int8(model: nn.Module, row: Weights, data: Path, images: Images) -> Metrics | None:
    """Measure the int8 file of a network. Return None if the extra `export` is not installed."""
    try:
        calibration = read_labelled(data / row.dataset, 'train')
    except InputError:
        calibration = read_labelled(data / row.data.unknown, 'train')
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.filterwarnings('ignore', 'the accuracy of the int8 file was not measured')
        path = Path(folder, 'int8.xml')
        try:
            export(model, path, int8=True, calibrate=calibration[:CALIBRATION_IMAGES].load(), dynamic_batch=True)
        except MissingExtraError as error:
            print(f'no figures of int8: {error}', file=sys.stderr)
            return None
        return evaluate(load_model(str(path)), images)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('data', type=Path, metavar='DATA')
    parser.add_argument('weights', nargs='*', metavar='WEIGHTS')
    parser.add_argument('--speed', action='store_true', help='measure only the speeds, on an idle machine')
    args = parser.parse_args()
    thresholds, zoo = read_thresholds(), read_figures()
    fields = Figures._fields[2:] if args.speed else Figures._fields[:2]

    def is_complete(name: str) -> bool:
        known = zoo.get(name, Figures())
        there = args.speed or (WEIGHTS[name].auroc is not None and name in thresholds)
        return there and all(getattr(known, field) is not None for field in fields)

    ours = [name for name, row in WEIGHTS.items() if row.publisher is RESNET_HUB]
    for name in args.weights or [name for name in ours if not is_complete(name)]:
        if args.speed:
            figures = measure_speed(WEIGHTS[name], args.data)
        else:
            auroc, thresholds[name], figures = measure(WEIGHTS[name], args.data)
            rows = read_table()
            write_table(TABLE, {**rows, name: rows[name]._replace(auroc=auroc)}.values())
            write_rows(ENERGY, thresholds, Threshold._fields)
        found = {field: value for field in fields if (value := getattr(figures, field)) is not None}
        zoo[name] = zoo.get(name, Figures())._replace(**found)
        write_rows(ZOO, zoo, Figures._fields)
        print(f'{name}: {found}', flush=True)


if __name__ == '__main__':
    main()
