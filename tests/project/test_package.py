"""The built wheel, on its own; versions that stand in several files."""

import configparser
import functools
import http.server
import os
import shutil
import subprocess
import sys
import threading
import zipfile

import pytest

import resnet_hub
from resnet_hub.tables.weights import WEIGHTS
from tests.conftest import ROOT


@pytest.fixture(scope='module')
def wheel(tmp_path_factory):
    """Built from a copy of what git tracks, so that nothing is left in the clone. The large weights stay behind."""
    source, target = tmp_path_factory.mktemp('source'), tmp_path_factory.mktemp('wheel')
    tracked = subprocess.run(['git', 'ls-files', '-z'], cwd=ROOT, capture_output=True, text=True)
    if tracked.returncode:
        pytest.skip('this is no clone of the repository')
    for name in tracked.stdout.rstrip('\0').split('\0'):
        if not name.startswith('weights/') and (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, source / name)
    pip = [sys.executable, '-m', 'pip', '--quiet', '--disable-pip-version-check']
    subprocess.run([*pip, 'wheel', '--no-deps', '--no-build-isolation', '-w', target, source], check=True)
    return next(target.glob('resnet_hub-*.whl'))


def test_weights_are_inside_and_tests_are_outside(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    ours = [name for name, row in WEIGHTS.items() if row.in_package]
    assert {f'resnet_hub/weights/{name}.{suffix}' for name in ours for suffix in ('safetensors', 'toml')} <= {*names}
    assert 'resnet_hub/py.typed' in names
    assert {name.split('/')[0] for name in names} <= {
        'resnet_hub',
        'resnet_hub_autoload.py',
        wheel.name.rsplit('-', 3)[0] + '.dist-info',
    }
    assert wheel.stat().st_size < 16e6


@pytest.fixture(scope='module')
def site(wheel, tmp_path_factory):
    """A folder in which the wheel is installed alone."""
    folder = tmp_path_factory.mktemp('site')
    pip = [sys.executable, '-m', 'pip', '--quiet', '--disable-pip-version-check']
    subprocess.run([*pip, 'install', '--no-deps', '--target', folder, wheel], check=True)
    return folder


def test_it_works_outside_the_clone(site, tmp_path):
    """Registered without an import, weights found, the cat recognised."""
    code = """
import sys, timm
model = timm.create_model('cifar_resnet20', pretrained=True)
import resnet_hub
assert resnet_hub.__file__.startswith(sys.argv[1]), resnet_hub.__file__
assert model.pretrained_cfg['file'].startswith(sys.argv[1]), model.pretrained_cfg['file']
from resnet_hub.cli import main
sys.exit(main(['predict', sys.argv[2], '--topk', '1']))
"""
    environment = {**os.environ, 'PYTHONPATH': str(site), 'HF_HUB_OFFLINE': '1'}
    cat = ROOT / 'tests' / 'images' / 'cat.jpg'
    done = subprocess.run(
        [sys.executable, '-c', code, site, cat],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[1] == 'cat'


def test_it_loads_our_large_weights_from_the_repository(site, tmp_path):
    """Over HTTP from loopback, which stands for GitHub and has the files on the branch main alone."""
    (tmp_path / 'repository').mkdir()
    (tmp_path / 'repository' / 'main').symlink_to(ROOT)
    code = """
import sys
from resnet_hub.tables import weights
weights.RAW = sys.argv[2]
import timm
large = [row for row in weights.WEIGHTS.values() if row.path and not row.in_package]
for row in large:
    assert row.path.is_relative_to(sys.argv[1]) and not row.path.exists()
    model = timm.create_model(row.name, pretrained=True)
    assert model.num_classes == len(row.data.classes) and model.pretrained_cfg['file'].startswith(sys.argv[3])
print(len(large))
"""
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=tmp_path / 'repository')
    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url, cache = f'http://127.0.0.1:{server.server_port}', str(tmp_path / 'cache')
        environment = {k: v for k, v in os.environ.items() if k != 'RESNET_HUB_OWNER'}
        environment |= {'PYTHONPATH': str(site), 'RESNET_HUB_CACHE': cache}
        command = [sys.executable, '-c', code, site, url, cache]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        server.shutdown()
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == sum(not row.in_package for row in WEIGHTS.values() if row.path) >= 6


def test_versions_agree():
    """The version, and those of the linters, stand in two files each."""
    citation = (ROOT / 'CITATION.cff').read_text(encoding='utf-8')
    assert f'\nversion: {resnet_hub.__version__}\n' in citation
    assert f'\n## {resnet_hub.__version__}' in (ROOT / 'CHANGELOG.md').read_text(encoding='utf-8')
    lint = configparser.ConfigParser()
    lint.read(ROOT / 'setup.cfg', encoding='utf-8')
    pinned = dict(line.split('==') for line in lint['options.extras_require']['lint'].split('\n') if '==' in line)
    hooks = (ROOT / '.pre-commit-config.yaml').read_text(encoding='utf-8')
    assert f'ruff-pre-commit\n    rev: v{pinned["ruff"]}\n' in hooks and 'mypy' in pinned
