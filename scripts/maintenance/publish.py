"""Make weights of ours out of finished runs: python scripts/maintenance/publish.py runs/resnet20 --data cifar10/

Measures each on the test images, notes that in resnet_hub/weights/evaluations.csv, puts the files where their size wants
them, in the package or in a folder under weights/ that `resnet-hub upload` takes, and prints the rows for
resnet_hub/tables/weights.py. Of further seeds of a published recipe only the figure is added to its row: the first
seed's weights stay the ones that are published, whichever are the best.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # of this clone, whatever is installed
from resnet_hub import cli
from resnet_hub.checkpoints.folder import CONFIG_FILE, EVALUATION_FILE, RECIPE_FILE, WEIGHTS_FILE
from resnet_hub.hub.package import prepare
from resnet_hub.tables.weights import _OUR_ROWS, OWNER, RESNET_HUB, recipe_file, weights_file, weights_folder
from resnet_hub.training.recipe import Recipe
from resnet_hub.utils.errors import InputError, ResnetHubError
from resnet_hub.utils.files import replacing

LARGEST = 2_000_000  #: bytes of weights that come with the package


def publish(run: Path, data: str | None) -> str:
    """Measure, and install the files unless the run is a further seed; the row of the catalog."""
    recipe = Recipe.from_file(run / RECIPE_FILE)
    if recipe.holdout:
        raise InputError(f'{run} kept {recipe.holdout} training images aside: train it again with --holdout 0')
    name = f'{recipe.model}.{recipe.dataset}'
    log = recipe_file(name).with_name('evaluations.csv')
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        options = ['--json', '--append', str(log), *(['--data', data] if data else [])]
        if code := cli.main(['evaluate', f'local-dir:{run}', *options]):
            sys.exit(code)
    (run / EVALUATION_FILE).write_text(printed.getvalue(), encoding='utf-8')
    (result,) = json.loads(printed.getvalue())
    if row := published(name, recipe):
        return f'{row} {result["top1"]:.2f}'
    files = prepare(run, f'{OWNER}/{name}', license=RESNET_HUB.license).files
    small = len(files[WEIGHTS_FILE]) <= LARGEST
    folder = weights_folder(name)
    targets = {weights_file(name): WEIGHTS_FILE} if small else {folder / file: file for file in files}
    for path, file in {**targets, recipe_file(name): RECIPE_FILE}.items():
        with replacing(path) as temporary:
            temporary.write_bytes(files[file])
        print(path)
    figures = f'{result["top1"]:.2f} {result["top5"]:.2f} {result["nll"]:.4f}'
    digest = json.loads(files[CONFIG_FILE])['sha256']
    return f'    {name} {figures} {recipe.seed} {"package" if small else "clone"} {digest}'


def published(name: str, recipe: Recipe) -> str:
    """The row of weights that were trained by the same recipe with another seed; '' if there are none."""
    row = next((row for row in _OUR_ROWS.splitlines() if row.split()[:1] == [name]), '')
    if not row:
        return ''
    first = Recipe.from_file(recipe_file(name))
    return row if recipe.seed != first.seed and replace(first, seed=recipe.seed) == recipe else ''


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('runs', type=Path, nargs='+', metavar='DIR', help='of `resnet-hub train`')
    parser.add_argument('--data', metavar='DIR', help='folder with test-*.parquet; default: from the Hub')
    args = parser.parse_args()
    try:
        for run in args.runs:
            row = publish(run, args.data)
            print(f'for _OUR_ROWS of the catalog, then python scripts/maintenance/readme.py:\n{row}', flush=True)
    except ResnetHubError as error:
        print(f'publish.py: {error}', file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == '__main__':
    sys.exit(main())
