"""Publish finished runs of `resnet-hub train`.

    python scripts/maintenance/publish.py runs/resnet20 --data cifar10/ --unknown cifar100/

Measure each run on the test images, copy its files to their place, and write its row into
resnet_hub/tables/weights.csv. The AUROC of the energy score is measured against the test images of the data set that
serves as unknown images. Files of up to 2 MB come with the package. Larger ones get a folder under weights/ that
`resnet-hub upload` takes.

A run of a published recipe with another seed only adds its top-1 to the row. The published weights stay those of the
first seed, even if another seed is better. Afterwards run measure_weights.py and readme.py in the same folder.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # this clone's package, whatever is installed
from resnet_hub import cli
from resnet_hub.data.sources import read_labelled
from resnet_hub.hub.package import prepare
from resnet_hub.inference.ood import evaluate_ood
from resnet_hub.registry.loading import load_model
from resnet_hub.tables.datasets import DATASETS
from resnet_hub.tables.weights import (
    OWNER,
    RESNET_HUB,
    TABLE,
    Weights,
    read_table,
    recipe_file,
    weights_file,
    weights_folder,
    write_table,
)
from resnet_hub.training.recipe import Recipe
from resnet_hub.utils.errors import InputError, ResnetHubError
from resnet_hub.utils.files import replacing
from resnet_hub.weights.folder import CONFIG_FILE, EVALUATION_FILE, RECIPE_FILE, WEIGHTS_FILE

LARGEST = 2_000_000  #: bytes of weights that come with the package


def publish(run: Path, data: str | None, unknown: str | None, tag: str | None) -> Weights:
    """Measure a run, write its row into the table, and return it. Copy its files, unless it is a further seed."""
    recipe = Recipe.from_file(run / RECIPE_FILE)
    if recipe.holdout:
        raise InputError(f'{run} kept {recipe.holdout} training images aside: train it again with --holdout 0')
    if recipe.dataset not in DATASETS:
        raise InputError(f'{run} was trained on images of its own: weights here are of {", ".join(DATASETS)}')
    name = f'{recipe.model}.{tag or default_tag(recipe)}'
    rows = read_table()
    result = measure(run, recipe.dataset, data)
    if name in rows and is_further_seed(recipe, Recipe.from_file(recipe_file(name))):
        row = rows[name]._replace(further_top1=(*rows[name].further_top1, result['top1']))
    else:
        auroc = measure_auroc(run, recipe.dataset, data, unknown)
        row = install(run, name, recipe, result)._replace(auroc=auroc)
    write_table(TABLE, {**rows, name: row}.values())
    return row


def default_tag(recipe: Recipe) -> str:
    """Return the tag: the data set, and the kind of training if it is special."""
    if recipe.mixup or recipe.cutmix:
        return f'{recipe.dataset}_mix'
    return f'{recipe.dataset}_distilled' if recipe.teacher else recipe.dataset


def is_further_seed(recipe: Recipe, published: Recipe) -> bool:
    """Return whether two recipes differ only in the seed."""
    return recipe.seed != published.seed and replace(published, seed=recipe.seed) == recipe


def measure(run: Path, dataset: str, data: str | None) -> dict[str, Any]:
    """Evaluate a run on all test images, and write the figures beside its weights, for the model card."""
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        options = ['--json', '--dataset', dataset, *(['--data', data] if data else [])]
        if code := cli.main(['evaluate', f'local-dir:{run}', *options]):
            sys.exit(code)
    (run / EVALUATION_FILE).write_text(printed.getvalue(), encoding='utf-8')
    (result,) = json.loads(printed.getvalue())
    return dict(result)


def measure_auroc(run: Path, dataset: str, data: str | None, unknown: str | None) -> float:
    """Return how well the energy score tells the test images from those of the other data set, in %."""
    inside = read_labelled(data or dataset, 'test', dataset=dataset).load()
    outside = read_labelled(unknown or DATASETS[dataset].unknown, 'test').load()
    separations = evaluate_ood(load_model(f'local-dir:{run}', 'cpu'), inside, outside).separations
    return next(row.auroc for row in separations if row.score == 'energy')


def install(run: Path, name: str, recipe: Recipe, result: dict[str, Any]) -> Weights:
    """Copy a run's files to their place, and return the row."""
    files = prepare(run, f'{OWNER}/{name}', license=RESNET_HUB.license).files
    small = len(files[WEIGHTS_FILE]) <= LARGEST
    weights = weights_file(name) if small else weights_folder(name) / WEIGHTS_FILE
    targets = {weights: WEIGHTS_FILE} if small else {weights.with_name(file): file for file in files}
    for path, file in {**targets, recipe_file(name): RECIPE_FILE}.items():
        with replacing(path) as temporary:
            temporary.write_bytes(files[file])
        print(path)
    published = Recipe.from_file(recipe_file(name))  # an earlier version may lack fields, and state the usual size
    published = replace(published, size=0 if published.size == 32 else published.size)
    recipe_file(name).write_text(published.to_toml(), encoding='utf-8')
    return Weights(
        name=name,
        dataset=recipe.dataset,
        publisher=RESNET_HUB,
        digest=f'sha256:{json.loads(files[CONFIG_FILE])["sha256"]}',
        file=weights.relative_to(TABLE.parents[2]).as_posix(),
        seed=recipe.seed,
        **{figure: result[figure] for figure in ('top1', 'top5', 'nll', 'ece')},
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('runs', type=Path, nargs='+', metavar='DIR', help='folders that `resnet-hub train` wrote')
    parser.add_argument('--data', metavar='DIR', help='folder with test-*.parquet; default: from the Hub')
    parser.add_argument(
        '--unknown', metavar='DIR', help='the same of the data set that serves as unknown images; default: from the Hub'
    )
    parser.add_argument(
        '--tag',
        help='tag of the weights; default: the data set, with _mix for mixup or cutmix, or _distilled for a teacher',
    )
    args = parser.parse_args()
    try:
        for run in args.runs:
            row = publish(run, args.data, args.unknown, args.tag)
            print(f'{row.name}: top-1 {row.top1:.2f} %', flush=True)
    except ResnetHubError as error:
        print(f'publish.py: {error}', file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == '__main__':
    sys.exit(main())
