"""Measure the energy thresholds of our weights for the browser page, and write them into resnet_hub/demo/energy.csv.

    python scripts/maintenance/energy.py DATA [WEIGHTS …]

DATA holds the folders cifar10 and cifar100 with the test images as parquet. Without WEIGHTS, those that the table
lacks are measured.
"""

from __future__ import annotations

import csv
import sys

from resnet_hub.data.sources import read_labelled
from resnet_hub.demo.energy import TABLE, Threshold, measure_threshold, read_thresholds
from resnet_hub.registry.loading import load_model
from resnet_hub.tables.datasets import DATASETS
from resnet_hub.tables.weights import RESNET_HUB, WEIGHTS
from resnet_hub.utils.files import replacing


def main(data: str, *names: str) -> None:
    known = read_thresholds()
    ours = [name for name, row in WEIGHTS.items() if row.publisher == RESNET_HUB]
    for name in names or [name for name in ours if name not in known]:
        dataset = WEIGHTS[name].dataset
        images = read_labelled(data, 'test', dataset=dataset)
        known[name] = measure_threshold(load_model(name, 'cpu'), images, f'{DATASETS[dataset].title} test pictures')
        print(name, *known[name], sep=', ')
        _write({name: known[name] for name in ours if name in known})


def _write(thresholds: dict[str, Threshold]) -> None:
    with replacing(TABLE) as path, path.open('w', encoding='utf-8', newline='') as file:
        writer = csv.writer(file, lineterminator='\n')
        writer.writerow(['weights', *Threshold._fields])
        writer.writerows([name, *threshold] for name, threshold in thresholds.items())


if __name__ == '__main__':
    main(*sys.argv[1:])
