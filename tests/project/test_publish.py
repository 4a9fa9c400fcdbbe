"""Weights of ours from a finished run to those who use them: in the package, in a clone, on the Hub."""

import http.server
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
import threading
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from safetensors.torch import load_file

from resnet_hub import __version__, evaluate_ood
from resnet_hub.data.images import Images
from resnet_hub.hub.package import prepare
from resnet_hub.tables import weights as catalog
from resnet_hub.tables.datasets import DATASETS
from resnet_hub.tables.weights import RESNET_HUB, WEIGHTS, Weights, read_table
from resnet_hub.training.recipe import Recipe
from resnet_hub.utils.errors import ResnetHubError
from resnet_hub.utils.files import digest, halve
from resnet_hub.weights.cache import cached_file, find
from resnet_hub.weights.fetch import fetch
from resnet_hub.weights.folder import make_config, write_folder
from tests.conftest import ROOT, write_parquet
from tests.hub.fixtures import clients, hub, server, write_network  # noqa: F401

# 1.4 and 2.4 MB, of architectures without weights
SMALL, LARGE = 'wide_resnet16_2.cifar10_distilled', 'cifar_resnet8x4.cifar10'
TEACHER = 'cifar_resnet20.cifar10'


CAT = ROOT / 'tests' / 'images' / 'cat.jpg'


class Clone(NamedTuple):
    """A copy of this project in which two runs were published."""

    root: Path
    runs: dict[str, Path]
    rows: dict[str, Weights]  #: of the clone's table of weights
    unknown: Images  #: against which the AUROC was measured


def write_run(folder: Path, architecture: str, seed: int, teacher: str = '') -> Path:
    """What `resnet-hub train` leaves, of random weights."""
    recipe = Recipe(model=architecture, dataset='cifar10', seed=seed, teacher=teacher)
    state, data = halve(load_file(write_network(folder, architecture, seed) / 'model.safetensors')), DATASETS['cifar10']
    options = {'num_classes': 10, 'label_names': data.classes, 'recipe': asdict(recipe)}
    write_folder(folder, state, make_config(architecture, mean=data.mean, std=data.std, **options))
    (folder / 'recipe.toml').write_text(recipe.to_toml())
    (folder / 'checkpoint.pt').write_bytes(b'not to be published')
    return folder


def run_in(root: Path, *arguments: object, **env: str) -> subprocess.CompletedProcess[str]:
    """Python, with the package of the clone `root`."""
    environment = {**os.environ, 'PYTHONPATH': str(root), 'HF_HUB_OFFLINE': '1', **env}
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope='module')
def clone(tmp_path_factory, tiny_data):
    folder = tmp_path_factory.mktemp('publish')
    root, without = folder / 'clone', shutil.ignore_patterns('__pycache__')
    for part in ('resnet_hub', 'scripts'):
        shutil.copytree(ROOT / part, root / part, ignore=without)
    teachers = {SMALL: TEACHER, LARGE: ''}
    runs = {
        name: write_run(folder / name, name.partition('.')[0], seed, teacher)
        for seed, (name, teacher) in enumerate(teachers.items(), 3)
    }
    grey = Images(torch.full((9, 32, 32, 3), 128, dtype=torch.uint8), torch.zeros(9, dtype=torch.int64))
    write_parquet(folder / 'unknown' / 'test-0.parquet', grey.pixels, grey.labels, 'cifar100')
    script, where = (
        root / 'scripts' / 'maintenance' / 'publish.py',
        ('--data', tiny_data[0], '--unknown', folder / 'unknown'),
    )
    done = run_in(root, script, *runs.values(), *where)
    assert done.returncode == 0, done.stderr
    return Clone(root, runs, read_table(table_of(root)), grey)


def table_of(root: Path) -> Path:
    return root / 'resnet_hub' / 'tables' / 'weights.csv'


def test_files_go_where_their_size_wants_them(clone):
    package = clone.root / 'resnet_hub' / 'weights'
    assert digest(package / f'{SMALL}.safetensors') == digest(clone.runs[SMALL] / 'model.safetensors')
    assert not (clone.root / 'weights' / SMALL).exists() and not (package / f'{LARGE}.safetensors').exists()
    for name, run in clone.runs.items():
        assert (package / f'{name}.toml').read_bytes() == (run / 'recipe.toml').read_bytes()
    folder = clone.root / 'weights' / LARGE
    assert digest(folder / 'model.safetensors') == digest(clone.runs[LARGE] / 'model.safetensors')
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert files.keys() == {'model.safetensors', 'config.json', 'README.md', 'evaluation.json', 'recipe.toml'}
    assert files == prepare(folder, f'org/{LARGE}', license='apache-2.0').files, 'what `resnet-hub upload` would send'
    assert b'license: apache-2.0' in files['README.md']


def test_their_rows_are_added_and_all_others_stay(clone, tiny_data):
    assert next(iter(clone.rows.values())).name == next(iter(WEIGHTS)), 'in the order of the architectures'
    assert {name: row for name, row in clone.rows.items() if name not in clone.runs} == WEIGHTS
    for name, run in clone.runs.items():
        (measured,) = json.loads((run / 'evaluation.json').read_text())
        row = clone.rows[name]
        assert (row.dataset, row.publisher, measured['images']) == ('cifar10', RESNET_HUB, 64)
        assert row.digest == f'sha256:{digest(run / "model.safetensors")}'
        assert row.seed == Recipe.from_file(run / 'recipe.toml').seed
        figures = [round(measured[key], places) for key, places in (('top1', 2), ('top5', 2), ('nll', 4), ('ece', 2))]
        assert figures == [row.top1, row.top5, row.nll, row.ece]
        ood = evaluate_ood(f'local-dir:{run}', tiny_data[0], clone.unknown).separations
        assert row.auroc == round(next(found.auroc for found in ood if found.score == 'energy'), 1)
    assert clone.rows[SMALL].file == f'resnet_hub/weights/{SMALL}.safetensors'
    assert clone.rows[LARGE].file == f'weights/{LARGE}/model.safetensors'


def test_a_further_seed_adds_its_figure_and_replaces_nothing(clone, tmp_path, tiny_data):
    run = write_run(tmp_path / f'{SMALL}.seed9', SMALL.partition('.')[0], 9, TEACHER)
    kept = clone.root / 'resnet_hub' / 'weights' / f'{SMALL}.safetensors'
    before = digest(kept)
    done = run_in(clone.root, clone.root / 'scripts' / 'maintenance' / 'publish.py', run, '--data', tiny_data[0])
    assert done.returncode == 0, done.stderr
    assert digest(kept) == before != digest(run / 'model.safetensors')
    (measured,) = json.loads((run / 'evaluation.json').read_text())
    rows = read_table(table_of(clone.root))
    assert rows == {**clone.rows, SMALL: clone.rows[SMALL]._replace(further_top1=(round(measured['top1'], 2),))}


def test_mean_and_deviation_over_seeds(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / 'scripts' / 'maintenance')
    from readme import figure

    row = next(iter(WEIGHTS.values()))._replace(top1=60.0, further_top1=(50.0, 70.0))
    assert figure(row) == '60.00 (60.00 ± 10.00)' and figure(row._replace(further_top1=())) == '60.00'


@pytest.mark.parametrize(
    ('changes', 'tag'),
    [({}, 'cifar10'), ({'mixup': 0.2}, 'cifar10_mix'), ({'cutmix': 1.0, 'teacher': 'a'}, 'cifar10_mix'),
     ({'teacher': 'a', 'dataset': 'cifar100'}, 'cifar100_distilled')],
)  # fmt: skip
def test_the_tag_says_how_they_were_trained(changes, tag):
    publish = runpy.run_path(str(ROOT / 'scripts' / 'maintenance' / 'publish.py'))
    assert publish['default_tag'](Recipe(**{'dataset': 'cifar10', **changes})) == tag


def test_a_run_that_kept_images_aside_is_refused(tmp_path, monkeypatch, capsys):
    run = write_run(tmp_path / 'run', 'cifar_resnet8', 0)
    (run / 'recipe.toml').write_text(Recipe(model='cifar_resnet8', holdout=5000).to_toml())
    monkeypatch.setattr(sys, 'argv', ['publish.py', str(run)])
    with pytest.raises(SystemExit, match='2'):
        runpy.run_path(str(ROOT / 'scripts' / 'maintenance' / 'publish.py'), run_name='__main__')
    error = capsys.readouterr().err
    assert 'kept 5000 training images aside' in error and len(error.splitlines()) == 1
    assert not (run / 'evaluation.json').exists()


# ------------------------------------------------------------------------------------------------------------ in a clone

USE = """
import json, sys
import timm, torch
from safetensors.torch import load_file
from resnet_hub.cli import main

names = json.loads(sys.argv[1])
for name, run in names.items():
    architecture, _, tag = name.partition('.')
    assert name in timm.list_pretrained() and timm.is_model_pretrained(architecture)
    state = load_file(f'{run}/model.safetensors')
    for model in (timm.create_model(name, pretrained=True), timm.create_model(architecture, pretrained=True)):
        assert all(torch.equal(tensor, state[key].to(tensor.dtype)) for key, tensor in model.state_dict().items())
        assert model.pretrained_cfg['tag'] == tag and model.pretrained_cfg['label_names'][3] == 'cat'
sys.exit(main(['list', '--pretrained', '--verify', '--json']))
"""


def test_they_load_from_the_clone(clone, tmp_path):
    names = json.dumps({name: str(run) for name, run in clone.runs.items()})
    cache = tmp_path / 'cache'
    done = run_in(clone.root, '-c', USE, names, RESNET_HUB_CACHE=str(cache))
    assert done.returncode == 0, done.stderr
    rows = {row['weights']: row for row in json.loads(done.stdout)}
    for name in (SMALL, LARGE):
        assert (rows[name]['file'], rows[name]['publisher']) == ('verified', 'resnet-hub')
        assert rows[name]['top1'] == clone.rows[name].top1
    assert rows['cifar_resnet56.osmr_cifar10']['file'] == 'to download' and not cache.exists()


# ------------------------------------------------------------------------------------------------------------ on the Hub

#: in a process that has registered the models already
ROW = """
import os
import timm, torch
from timm.models import _registry
from resnet_hub.registry.entrypoints import register
from resnet_hub.tables import weights as catalog

name, digest, os.environ['RESNET_HUB_CACHE'] = {name!r}, {digest!r}, {cache!r}
os.environ['RESNET_HUB_OWNER'] = 'org'
catalog.RAW = os.environ['HF_ENDPOINT'] + '/raw'  # in the place of GitHub, which has no such file
file = f'weights/{{name}}/model.safetensors'
catalog.WEIGHTS[name] = catalog.Weights(name, 'cifar10', catalog.RESNET_HUB, f'sha256:{{digest}}', file, 90.0)
assert catalog.tags('cifar_resnet8x4') == ['cifar10'] and not catalog.WEIGHTS[name].path.exists()
_registry._model_entrypoints.pop('cifar_resnet8x4')
register(_registry)
result = 0
"""


@pytest.fixture
def on_hub(hub, clients, tmp_path):  # noqa: F811
    """Runs code where the catalog has a row for weights of ours that are on the Hub alone."""
    run = write_run(tmp_path / 'run', 'cifar_resnet8x4', 3)
    hub.plant(f'org/{LARGE}', {file: (run / file).read_bytes() for file in ('model.safetensors', 'config.json')})
    row = ROW.format(name=LARGE, digest=digest(run / 'model.safetensors'), cache=str(tmp_path / 'ours'))

    def execute(code: str, **how):
        hub.requests.clear()
        return clients.run(row + code, **how)

    execute.file, execute.cache = run / 'model.safetensors', tmp_path / 'ours'
    return execute


def test_the_hub_has_what_no_clone_has(on_hub, hub):  # noqa: F811
    """Fetched once through the client, compared, kept as it came, and found there from then on."""
    code = """
model = timm.create_model('cifar_resnet8x4', pretrained=True, num_classes={classes}{more})
assert model.pretrained_cfg['tag'] == 'cifar10' and model.pretrained_cfg['mean'][0] == 0.4914
assert torch.equal(model.conv1.weight, timm.create_model('local-dir:{folder}', pretrained=True).conv1.weight)
"""
    folder = on_hub.file.parent
    assert on_hub('assert main(["list", "cifar_resnet8x4", "--pretrained"]) == 0').out.endswith('to download\n')
    assert not hub.requests
    done = on_hub(code.format(classes=10, more='', folder=folder))
    assert done.code == 0, done.err
    assert [line.partition('?')[0].rpartition('/')[2] for line in hub.requests].count('model.safetensors') <= 2
    (kept,) = on_hub.cache.iterdir()
    assert kept.name == f'{LARGE}-{digest(on_hub.file)[:8]}.safetensors' and digest(kept) == digest(on_hub.file)
    done = on_hub(code.format(classes=7, more='', folder=folder), offline=True)
    assert done.code == 0 and not hub.requests, done.err
    other = folder.parent / 'another cache'
    done = on_hub(code.format(classes=10, more=f', cache_dir={str(other)!r}', folder=folder))
    assert done.code == 0 and hub.requests and [path.name for path in other.iterdir()] == [kept.name]
    verify = 'result = main(["list", "cifar_resnet8x4", "--pretrained", "--verify"])'
    assert on_hub(verify).out.endswith(' verified\n')
    kept.write_bytes(b'something else')
    done = on_hub(verify)
    assert done.code == 1 and f'{kept} has sha256' in done.err


@pytest.mark.parametrize('damage', ['cut', 503])
def test_a_failure_that_passes_is_waited_out(damage, on_hub, hub):  # noqa: F811
    hub.fail(damage, 'GET /cdn/')
    done = on_hub('timm.create_model(name, pretrained=True)')
    assert done.code == 0 and not hub.faults[0].times, done.err
    (kept,) = on_hub.cache.iterdir()
    assert digest(kept) == digest(on_hub.file)


@pytest.mark.parametrize(
    ('damage', 'message'),
    [
        ('wrong', rf'hf-hub:org/{LARGE} has sha256 [0-9a-f]{{64}}, not '),
        (
            503,
            rf'cannot be downloaded \(hf-hub:org/{LARGE}: the Hub does not work at the moment.*; http://.*/raw/main/.* 404',
        ),
        (
            'no repository',
            rf'neither in a clone \({ROOT}/weights/{LARGE}/.*: no such repository.* train --recipe {LARGE} -o ',
        ),
        ('offline', 'cannot be downloaded .*HF_HUB_OFFLINE is set.* set RESNET_HUB_OWNER'),
    ],
)
def test_what_cannot_be_had_is_said_in_one_line(damage, message, on_hub, hub):  # noqa: F811
    """Where it was looked for, and what to do; nothing is kept, and the next try succeeds."""
    if damage == 'no repository':
        (hub.folder / 'repositories' / 'org' / f'{LARGE}.json').unlink()
    elif damage != 'offline':
        hub.fail(damage, 'GET /cdn/', times=10)
    done = on_hub(f"result = main(['predict', {str(CAT)!r}, '--model', name])", offline=damage == 'offline')
    assert done.code == 1 and re.search(message, done.err) and len(done.err.splitlines()) == 1, done.err
    assert not on_hub.cache.exists() or not list(on_hub.cache.iterdir())
    if damage != 'no repository':
        hub.faults.clear()
        assert on_hub('timm.create_model(name, pretrained=True)').code == 0


class Repository:
    """A server on loopback in the place of GitHub's raw files: paths to bytes; it notes the requests."""

    def __init__(self):
        self.files: dict[str, bytes] = {}
        self.requests: list[str] = []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                outer.requests.append(self.path)
                self.send_response(200 if self.path in outer.files else 404)
                self.end_headers()
                self.wfile.write(outer.files.get(self.path, b''))

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
        self.url = f'http://127.0.0.1:{self.server.server_port}'
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def repository():
    started = Repository()
    yield started
    started.server.shutdown()
    started.server.server_close()


@pytest.fixture
def as_installed(repository, monkeypatch, tmp_path):
    """The table without the folder weights/ of a clone, as a wheel and torch.hub's archive have it."""
    monkeypatch.setattr(catalog, 'RAW', repository.url)
    monkeypatch.setattr(catalog, '_ROOT', tmp_path / 'site-packages')
    monkeypatch.setenv('RESNET_HUB_CACHE', str(tmp_path / 'cache'))
    monkeypatch.delenv('RESNET_HUB_OWNER', raising=False)
    return repository


def path_of(row, ref):
    return f'/{ref}/{row.file}'


@pytest.mark.parametrize('ref', [f'v{__version__}', 'main'])
def test_the_projects_repository_has_what_is_not_here(ref, as_installed):
    """The release's tag is asked first. A damaged file is not used, and nothing is asked for twice."""
    row = WEIGHTS['cifar_resnet18.cifar10_mix']
    content = (ROOT / row.file).read_bytes()
    as_installed.files[path_of(row, ref)] = content[:-1] + b'?'
    with pytest.raises(ResnetHubError, match=r'has sha256 .* is damaged .*; or train it: resnet-hub train --recipe'):
        fetch(row.name)
    assert find(row.name) is None
    as_installed.files[path_of(row, ref)] = content
    as_installed.requests.clear()
    path = fetch(row.name)
    assert path.read_bytes() == content and path == fetch(row.name) == find(row.name)
    expected = [path_of(row, f'v{__version__}'), path_of(row, 'main')]
    assert as_installed.requests == expected[: expected.index(path_of(row, ref)) + 1]


def test_a_host_that_cannot_be_reached_is_tried_once(as_installed, monkeypatch, tmp_path):
    row = WEIGHTS['cifar_resnet18.cifar10_mix']
    as_installed.server.shutdown()
    as_installed.server.server_close()
    with pytest.raises(ResnetHubError, match='cannot be downloaded') as caught:
        fetch(row.name)
    message = str(caught.value)
    assert message.count(as_installed.url) == 1 and '\n' not in message and 'set RESNET_HUB_OWNER' in message
    assert str(tmp_path / 'site-packages' / row.file) in message and str(cached_file(row.name)) in message


def test_the_owner_is_that_of_the_environment(run_python):
    code = f"""
from resnet_hub.tables import weights as catalog
row = catalog.Weights('{LARGE}', 'cifar10', catalog.RESNET_HUB, 'sha256:00', 'weights/{LARGE}/model.safetensors', 90.0)
print(row.repo_id, row.url)
"""
    url = f'https://github.com/org/repo/raw/main/weights/{LARGE}/model.safetensors'
    assert run_python(code, RESNET_HUB_OWNER='somebody').stdout == f'somebody/{LARGE} {url}\n'
    assert run_python(code, RESNET_HUB_OWNER='').stdout == f'None {url}\n'
