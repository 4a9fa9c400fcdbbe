"""torch.hub: from a clone, and from GitHub where nothing of ours is installed."""

import http.server
import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from resnet_hub.models import network_class
from resnet_hub.tables.architectures import ARCHITECTURES
from resnet_hub.tables.weights import RESNET_HUB, WEIGHTS, tags
from resnet_hub.utils.errors import InputError
from resnet_hub.weights.cache import find
from tests.conftest import ROOT

OURS = [name for name, row in WEIGHTS.items() if row.publisher is RESNET_HUB]
LARGE = [WEIGHTS[name] for name in OURS if not WEIGHTS[name].in_package]
HUBCONF = torch.hub._import_module('hubconf', str(ROOT / 'hubconf.py'))


def test_entrypoints_are_the_tables():
    public = {name for name in dir(HUBCONF) if callable(getattr(HUBCONF, name)) and not name.startswith('_')}
    assert public == ARCHITECTURES.keys()
    assert {'torch', 'timm', 'huggingface_hub', 'safetensors'} == set(HUBCONF.dependencies)


@pytest.mark.parametrize('name', ARCHITECTURES)
def test_help(name):
    """Name, with the depth; parameters, paper, arguments, and the weights that there are."""
    cls, row = network_class(name), ARCHITECTURES[name]
    text = getattr(HUBCONF, name).__doc__
    assert text.startswith(f'{name}: {cls.__name__} ')
    assert f'{row.params:,} parameters' in text
    assert row.paper in text
    assert f'{sum(row.layers)} {row.block} blocks' in text
    for argument in ('pretrained', 'num_classes', 'in_chans', 'shortcut_type', 'zero_init_last', 'device', 'dtype'):
        assert argument in text
    assert ('final_norm' in text) == (cls.__name__ == 'PreActResNet')
    assert all(repr(tag) in text for tag in tags(name))
    assert ('none yet' in text) == (not tags(name))


def test_local_load():
    model = torch.hub.load(str(ROOT), 'preact_resnet18', source='local', num_classes=7, shortcut_type='A')
    assert type(model).__name__ == 'PreActResNet'
    assert model(torch.randn(2, 3, 8, 8)).shape == (2, 7)
    assert model.pretrained_cfg['architecture'] == 'preact_resnet18'
    assert 'PadShortcut' in str(model)


@pytest.mark.parametrize('name', OURS)
def test_local_load_of_weights(name):
    architecture, _, tag = name.partition('.')
    for pretrained in (tag, True) if tags(architecture)[0] == tag else (tag,):
        model = torch.hub.load(str(ROOT), architecture, source='local', pretrained=pretrained, in_chans=3)
        state = load_file(find(name))
        assert all(torch.equal(tensor, state[key].to(tensor.dtype)) for key, tensor in model.state_dict().items())


@pytest.mark.parametrize('name', ['preact_resnet18', 'cifar_resnet20'])
def test_an_unknown_tag_lists_the_known(name):
    with pytest.raises(InputError, match="no weights 'cifar11'; it has ") as error:
        torch.hub.load(str(ROOT), name, source='local', pretrained='cifar11')
    assert all(repr(tag) in str(error.value) for tag in tags(name))


# From GitHub


@pytest.fixture
def site(tmp_path):
    """A folder of links to every installed package but this one, as where only the dependencies are installed."""
    folder = tmp_path / 'site'
    folder.mkdir()
    for path in map(Path, sys.path):
        if path.name in ('site-packages', 'dist-packages') and path.is_dir():
            for entry in path.iterdir():
                link = folder / entry.name
                if 'resnet_hub' not in entry.name and entry.suffix != '.pth' and not link.exists():
                    link.symlink_to(entry)
    return folder


@pytest.fixture
def archive(tmp_path):
    """The zip that `git archive` makes of the working tree, which stays as it is."""
    if not shutil.which('git') or not (ROOT / '.git').exists():
        pytest.skip('needs git and a clone')
    objects = tmp_path / 'objects'
    objects.mkdir()

    def git(*arguments, **env):
        done = subprocess.run(['git', *arguments], cwd=ROOT, env={**os.environ, **env}, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    scratch = {
        'GIT_INDEX_FILE': str(tmp_path / 'index'),
        'GIT_OBJECT_DIRECTORY': str(objects),
        'GIT_ALTERNATE_OBJECT_DIRECTORIES': str(ROOT / git('rev-parse', '--git-path', 'objects')),
    }
    git('add', '--all', '.', **scratch)
    path = tmp_path / 'main.zip'
    git('archive', '--prefix=org-repo-1a2b3c4/', f'--output={path}', git('write-tree', **scratch), **scratch)
    return path.read_bytes()


@pytest.fixture
def github(archive):
    """A server on loopback with what is asked of GitHub: three answers for torch.hub, and large weights.

    It notes the requests.
    """
    answers = {
        '/org/repo/tree/main/': b'<html>',
        '/repos/org/repo/branches': json.dumps([{'name': 'main', 'commit': {'sha': '1a2b3c4'}}]).encode(),
        '/org/repo/zipball/main': archive,
        **{f'/org/repo/raw/main/{row.file}': row.path.read_bytes() for row in LARGE},
    }

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            path = self.path.partition('?')[0]
            server.requests.append(path)
            self.send_response(200 if path in answers else 404)
            self.end_headers()
            self.wfile.write(answers.get(path, b''))

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler) as server:
        server.requests = []
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


CLIENT = """
import importlib.util
import json
import sys

port, site, ours, out = sys.argv[1], sys.argv[2], json.loads(sys.argv[3]), sys.argv[4]
sys.path.append(site)
assert importlib.util.find_spec('resnet_hub') is None
import http.client
import urllib.request
import torch

class ToLoopback(urllib.request.HTTPSHandler):
    def https_open(self, request):
        assert request.host in ('github.com', 'api.github.com'), request.full_url
        request.host = f'127.0.0.1:{port}'
        return self.do_open(http.client.HTTPConnection, request)

urllib.request.install_opener(urllib.request.build_opener(ToLoopback))
assert 'timm' not in sys.modules  # hubconf is what imports it, and registers by itself
names = torch.hub.list('org/repo', trust_repo=True)
text = torch.hub.help('org/repo', 'wide_resnet28_10', trust_repo=True)
model = torch.hub.load('org/repo', 'preact_resnet18', trust_repo=True, num_classes=7)
assert model.eval()(torch.zeros(1, 3, 8, 8)).shape == (1, 7)
import timm
assert timm.is_model('preact_resnet18')
assert sys.modules['resnet_hub'].__file__.startswith(torch.hub.get_dir())
for name in ours:
    architecture, _, tag = name.partition('.')
    model = torch.hub.load('org/repo', architecture, pretrained=tag, trust_repo=True)
    torch.save(model.state_dict(), f'{out}/{name}.pt')
print(json.dumps([names, text]))
"""


def test_from_github(github, site, archive, tmp_path):
    """list, help and load into an empty hub folder, where the package cannot be imported; no Hub is asked for weights."""
    files = {name: find(name) for name in OURS}
    assert len(archive) < 5e6, 'the archive has the large weights'
    done = subprocess.run(
        [sys.executable, '-I', '-S', '-c', CLIENT, str(github.server_port), str(site), json.dumps([*files]), tmp_path],
        cwd=tmp_path,
        env={
            **os.environ,
            'TORCH_HOME': str(tmp_path / 'hub'),
            'HF_HUB_OFFLINE': '1',
            'RESNET_HUB_CACHE': str(tmp_path / 'cache'),
        },
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert 'Traceback' not in done.stderr
    names, text = json.loads(done.stdout.splitlines()[-1])
    assert set(names) == ARCHITECTURES.keys()
    assert text == HUBCONF.wide_resnet28_10.__doc__
    zipball = [path for path in github.requests if 'zipball' in path]
    assert zipball == ['/org/repo/zipball/main']  # once; then it lies in the hub folder
    assert {'/org/repo/tree/main/', '/repos/org/repo/branches'} <= set(github.requests)
    for name, file in files.items():
        loaded, state = torch.load(tmp_path / f'{name}.pt', weights_only=True), load_file(file)
        assert all(torch.equal(loaded[key], state[key].to(loaded[key].dtype)) for key in state)
