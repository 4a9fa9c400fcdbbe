"""The built wheel, on its own; and the code's own checks."""

import os
import shutil
import subprocess
import sys
import zipfile

import pytest

from resnet_hub.tables.weights import WEIGHTS
from tests.conftest import ROOT


@pytest.fixture(scope='module')
def wheel(tmp_path_factory):
    """Built from a copy, so that nothing is left in the clone."""
    source, target = tmp_path_factory.mktemp('source') / 'resnet-hub', tmp_path_factory.mktemp('wheel')
    shutil.copytree(
        ROOT, source, ignore=shutil.ignore_patterns('.git', 'runs', '.venv', 'build', '*.egg-info', '.*_cache')
    )
    pip = [sys.executable, '-m', 'pip', '--quiet', '--disable-pip-version-check']
    subprocess.run([*pip, 'wheel', '--no-deps', '--no-build-isolation', '-w', target, source], check=True)
    return next(target.glob('resnet_hub-*.whl'))


def test_weights_are_inside_and_tests_are_outside(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    ours = [name for name, row in WEIGHTS.items() if row.url is None]
    assert {f'resnet_hub/weights/{name}.{suffix}' for name in ours for suffix in ('safetensors', 'toml')} <= {*names}
    assert 'resnet_hub/py.typed' in names
    assert {name.split('/')[0] for name in names} <= {
        'resnet_hub',
        'resnet_hub_autoload.py',
        wheel.name.rsplit('-', 3)[0] + '.dist-info',
    }
    assert wheel.stat().st_size < 16e6


def test_it_works_outside_the_clone(wheel, tmp_path):
    """Installed alone into a folder: registered without an import, weights found, the cat recognised."""
    pip = [sys.executable, '-m', 'pip', '--quiet', '--disable-pip-version-check']
    subprocess.run([*pip, 'install', '--no-deps', '--target', tmp_path / 'site', wheel], check=True)
    code = """
import sys, timm
model = timm.create_model('cifar_resnet20', pretrained=True)
import resnet_hub
assert resnet_hub.__file__.startswith(sys.argv[1]), resnet_hub.__file__
assert model.pretrained_cfg['file'].startswith(sys.argv[1]), model.pretrained_cfg['file']
from resnet_hub.cli import main
sys.exit(main(['predict', sys.argv[2], '--topk', '1']))
"""
    environment = {**os.environ, 'PYTHONPATH': str(tmp_path / 'site'), 'HF_HUB_OFFLINE': '1'}
    cat = ROOT / 'tests' / 'images' / 'cat.jpg'
    done = subprocess.run(
        [sys.executable, '-c', code, tmp_path / 'site', cat],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[1] == 'cat'


@pytest.mark.parametrize('check', ['ruff check', 'ruff format --check', 'mypy'])
def test_the_code_is_clean(check):
    done = subprocess.run([sys.executable, '-m', *check.split()], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
