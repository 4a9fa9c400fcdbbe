"""The table of weights, our own files, and the way of others' from their address into the cache."""

import functools
import hashlib
import http.client
import http.server
import json
import struct
import threading
import urllib.request
import zipfile
from io import BytesIO

import pytest
import timm
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from resnet_hub.checkpoints.recognise import recognise
from resnet_hub.conversion.assumptions import list_assumptions
from resnet_hub.data.sources import load_images
from resnet_hub.hub.package import prepare
from resnet_hub.inference.evaluate import evaluate
from resnet_hub.tables import weights as catalog
from resnet_hub.tables.architectures import ARCHITECTURES
from resnet_hub.tables.datasets import DATASETS
from resnet_hub.tables.weights import OWNER, RESNET_HUB, WEIGHTS, Weights, recipe_file, tags
from resnet_hub.training.recipe import Recipe
from resnet_hub.utils.errors import ResnetHubError
from resnet_hub.weights import cache as cache_module
from resnet_hub.weights.cache import cached_file, check_digest, find
from resnet_hub.weights.fetch import fetch
from tests.conftest import ROOT, needed

OURS = [name for name, row in WEIGHTS.items() if row.publisher is RESNET_HUB]
OTHERS = [name for name in WEIGHTS if name not in OURS]
#: no row is below; a figure that is a share, an error or of another data set would be
LOWEST = {'cifar10': 89, 'cifar100': 59, 'svhn': 96}


@pytest.mark.parametrize('name', WEIGHTS)
def test_every_row(name):
    row, (architecture, _, tag) = WEIGHTS[name], name.partition('.')
    algorithm, _, digest = row.digest.partition(':')
    assert architecture in ARCHITECTURES and row.dataset in DATASETS
    assert (row.name, row.architecture, row.tag) == (name, architecture, tag)
    if name in OURS:
        assert tag in (row.dataset, f'{row.dataset}_mix', f'{row.dataset}_distilled')
    else:
        assert tag == f'{row.publisher.name}_{row.dataset}'
    assert (algorithm, len(digest)) in {('sha256', 64), ('sha256', 8), ('sha1', 40)} and int(digest, 16) >= 0
    assert LOWEST[row.dataset] < row.top1 < 100
    assert all(0 < value < 1 for triple in row.normalisation for value in triple)
    assert row.publisher.license and row.publisher.copyright
    if name in OURS:
        assert len(digest) == 64 and row.top5 and row.nll and row.seed is not None
        assert row.in_package == (row.url is None) and row.path.is_file()
    else:
        assert row.url.startswith(f'{row.publisher.page}/')


@pytest.mark.parametrize('architecture', dict.fromkeys(name.partition('.')[0] for name in WEIGHTS))
def test_the_default_is_an_ordinary_net_for_cifar10(architecture):
    """So that create_model(name) is one network, with weights or without."""
    row = WEIGHTS[f'{architecture}.{tags(architecture)[0]}']
    assert row.dataset == 'cifar10' and not row.model_args
    assert row.publisher.name == 'resnet-hub' or not any(f'{architecture}.{tag}' in OURS for tag in tags(architecture))


def test_ours_are_the_default_but_not_of_another_data_set(monkeypatch):
    row = Weights('cifar_resnet272.cifar100', 'cifar100', RESNET_HUB, 'sha256:00', 'weights/a', top1=80.0)
    monkeypatch.setitem(WEIGHTS, row.name, row)
    assert tags('cifar_resnet272')[0] == 'osmr_cifar10'
    plain = row._replace(name='cifar_resnet272.cifar10', dataset='cifar10')
    mix = plain._replace(name='cifar_resnet272.cifar10_mix', top1=80.1)
    monkeypatch.setattr(catalog, 'WEIGHTS', {r.name: r for r in (row, plain, mix, *WEIGHTS.values())})
    expected = ['cifar10_mix', 'cifar10', 'osmr_cifar10', 'cifar100', 'osmr_cifar100', 'osmr_svhn']
    assert tags('cifar_resnet272') == expected


def test_the_table_is_as_it_would_be_written(tmp_path):
    """So that publishing a network changes the lines of that network alone."""
    catalog.write_table(tmp_path / 'weights.csv', reversed(WEIGHTS.values()))
    assert (tmp_path / 'weights.csv').read_bytes() == catalog.TABLE.read_bytes()
    strange = Weights(
        'wide_resnet28_10.a_svhn', 'svhn', RESNET_HUB, 'sha1:1', 'weights/a', 91.5, ece=0.5, auroc=88.1, seed=0,
        further_top1=(91.25, 91.0), model_args={'shortcut_type': 'A', 'final_norm': False}, mean=(0.5, 0.25, 0.125),
    )  # fmt: skip
    catalog.write_table(tmp_path / 'weights.csv', [strange])
    assert catalog.read_table(tmp_path / 'weights.csv') == {strange.name: strange}


def test_osmrs_addresses_and_digests_are_those_that_pytorchcv_has():
    from pytorchcv.models.common.model_store import get_model_name_suffix_data

    families = {'cifar': 'resnet', 'preact': 'preresnet', 'wide': 'wrn'}
    names = [name for name in OTHERS if '.osmr_' in name]
    assert len(names) > 40
    for name in names:
        row, (architecture, _, tag) = WEIGHTS[name], name.partition('.')
        family, number = architecture.split('_resnet')
        bottleneck = 'bn' if ARCHITECTURES[architecture].block == 'bottleneck' and number != '1001' else ''
        theirs = f'{families[family]}{number}{bottleneck}_{tag.removeprefix("osmr_")}'
        error, sha1, release = get_model_name_suffix_data(theirs)
        assert row.digest == f'sha1:{sha1}' and row.top1 == pytest.approx(100 - int(error) / 100)
        assert row.url.endswith(f'/releases/download/{release}/{theirs}-{error}-{sha1[:8]}.pth.zip')


@pytest.mark.parametrize('name', OURS)
def test_our_file_is_the_one_that_was_measured(name):
    """Its digest is the row's; half precision but for norms; no metadata but the format; in the package if small.

    Larger ones are whole folders beside it, as `resnet-hub upload` would send them.
    """
    path = find(name)
    assert path == WEIGHTS[name].path
    check_digest(WEIGHTS[name], path)
    assert path.stat().st_size < 600e3 or ARCHITECTURES[name.partition('.')[0]].params > 290_000
    assert (path.stat().st_size <= 2e6) == WEIGHTS[name].in_package
    if not WEIGHTS[name].in_package:
        assert path.parent == ROOT / 'weights' / name
        files = {path.name: path.read_bytes() for path in path.parent.iterdir()}
        assert files == prepare(path.parent, f'{OWNER}/{name}').files
        assert Recipe.from_file(path.with_name('recipe.toml')) == Recipe.from_file(recipe_file(name))
    with open(path, 'rb') as file:
        header = json.loads(file.read(struct.unpack('<Q', file.read(8))[0]))
    assert header['__metadata__'] == {'format': 'pt'}
    with safe_open(path, 'pt') as weights:
        for key in weights.keys():  # noqa: SIM118
            tensor = weights.get_tensor(key)
            assert tensor.isfinite().all()
            wanted = torch.float16 if tensor.ndim > 1 else torch.int64 if 'num_batches' in key else torch.float32
            assert tensor.dtype == wanted
    recipe = Recipe.from_file(recipe_file(name))
    assert recipe.holdout == 0 and recipe.seed == WEIGHTS[name].seed
    assert (recipe.model, recipe.dataset) == (WEIGHTS[name].architecture, WEIGHTS[name].dataset)


@pytest.mark.parametrize('name', OURS)
def test_their_statistics_testify_to_what_they_are(name):
    """Trained networks are recognised from their tensors; a projection of V2 reads what it was trained to read."""
    architecture = ARCHITECTURES[name.partition('.')[0]]
    found = recognise(load_file(find(name)))
    assert (found.network.family, found.network.layers) == (architecture.family, architecture.layers)
    shown = {item.name for item in list_assumptions(found) if item.outcome == 'shown'}
    assert ('activated-projections' if architecture.family.norm_first else 'bare-stem') in shown


@functools.cache
def images_of(dataset, folder):
    return load_images(dataset, 'test', folder)


def assert_near(metrics, top1):
    """Of some of the images: within four standard errors of what it is on all of them, in %."""
    assert abs(metrics.top1 - top1) < 4 * (top1 * (100 - top1) / metrics.images) ** 0.5


@pytest.mark.parametrize('name', OURS)
def test_our_figures_are_reproduced(name, data_root):
    """Exactly, of the most used one; the others roughly, on 500 images."""
    row, count = WEIGHTS[name], 10_000 if name == 'cifar_resnet20.cifar10' else 500
    model = timm.create_model(name, pretrained=True)
    metrics = evaluate(model, images_of(row.dataset, needed(data_root / row.dataset))[:count], *row.normalisation)
    if count == 10_000:
        assert (metrics.top1, metrics.top5, metrics.images) == (row.top1, row.top5, count)
        assert metrics.nll == pytest.approx(row.nll, abs=2e-4)
        assert metrics.ece == pytest.approx(row.ece, abs=0.02)
    assert_near(metrics, row.top1)


# ------------------------------------------------------------------------------------ others', over HTTP on loopback


class GitHub(dict):
    """Addresses to bytes, answered by a server on loopback in the place of github.com."""

    def __init__(self):
        self.requests: list[str] = []
        self.cut_off: set[str] = set()  #: addresses whose answer ends halfway
        self.silent: set[str] = set()  #: addresses that are not answered
        self.garbled = False
        self.done = threading.Event()
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                url = f'https://github.com{self.path}'
                outer.requests.append(url)
                if url in outer.silent:
                    outer.done.wait(5)
                if outer.garbled:
                    self.wfile.write(b'no HTTP\r\n\r\n')
                    return
                body = outer.get(url)
                self.send_response(404 if body is None else 200)
                self.send_header('Content-Length', str(len(body or b'') * (2 if url in outer.cut_off else 1)))
                self.end_headers()
                self.wfile.write(body or b'')

            def log_message(self, *_):
                pass

        class ToLoopback(urllib.request.HTTPSHandler):
            def https_open(self, request):
                request.host = f'127.0.0.1:{outer.server.server_port}'
                return self.do_open(http.client.HTTPConnection, request)

        self.server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
        self.opener = urllib.request.build_opener(ToLoopback)


@pytest.fixture
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv('RESNET_HUB_CACHE', str(tmp_path / 'cache'))
    return tmp_path / 'cache'


@pytest.fixture
def github(cache):
    hub = GitHub()
    threading.Thread(target=hub.server.serve_forever, daemon=True).start()
    urllib.request.install_opener(hub.opener)
    yield hub
    urllib.request.install_opener(None)
    hub.done.set()
    hub.server.shutdown()
    hub.server.server_close()


REAL = {
    'cifar_resnet20.chenyaofo_cifar10': 'cifar10_resnet20-4118986f.pt',
    'cifar_resnet32.akamaster_cifar10': 'resnet32-d509ac18.th',
    'cifar_resnet44.akamaster_cifar10': 'resnet44-014dd654.th',
}


@pytest.mark.parametrize(('name', 'file'), REAL.items(), ids=REAL)
def test_real_files_from_their_addresses(name, file, github, cache, data_root, published):
    """Downloaded once, converted, cached, loaded; and they recognise what their publishers say they do."""
    github[WEIGHTS[name].url] = (published / file).read_bytes()
    model = timm.create_model(name, pretrained=True)
    assert github.requests == [WEIGHTS[name].url]
    assert [path.name for path in cache.iterdir()] == [cached_file(name).name]
    timm.create_model(name, pretrained=True, num_classes=7)
    assert len(github.requests) == 1, 'downloaded again'
    cfg = model.pretrained_cfg
    metrics = evaluate(model, images_of('cifar10', data_root / 'cifar10')[:500], cfg['mean'], cfg['std'])
    assert_near(metrics, WEIGHTS[name].top1)


def test_a_new_version_of_the_conversion_reads_the_checkpoint_again(github, cache, published, monkeypatch):
    name = 'cifar_resnet20.chenyaofo_cifar10'
    github[WEIGHTS[name].url] = (published / REAL[name]).read_bytes()
    first = fetch(name)
    assert fetch(name) == first and len(github.requests) == 1
    monkeypatch.setattr(cache_module, 'CONVERSION', 99)
    second = fetch(name)
    assert second != first and second.read_bytes() == first.read_bytes() and len(github.requests) == 2


def test_a_silent_publisher_is_not_waited_for_long(github, monkeypatch):
    """A server that takes the request and never answers; and one that is not there: one request, one line."""
    monkeypatch.setattr('resnet_hub.utils.http.TIMEOUT', 0.2)
    name = 'cifar_resnet20.chenyaofo_cifar10'
    github.silent.add(WEIGHTS[name].url)
    with pytest.raises(ResnetHubError, match=r'cannot be fetched: .*timed out') as caught:
        fetch(name)
    assert len(github.requests) == 1 and '\n' not in str(caught.value)
    github.silent.clear()
    github.garbled = True
    with pytest.raises(ResnetHubError, match=r'cannot be fetched: '):
        fetch(name)


@pytest.mark.parametrize('damage', ['flipped', 'cut', 'cut off', 'missing', 'another'])
def test_damaged_files_leave_the_cache_empty(damage, github, cache, published):
    name = 'cifar_resnet20.chenyaofo_cifar10'
    url, data = WEIGHTS[name].url, (published / REAL[name]).read_bytes()
    flipped = bytearray(data)
    flipped[len(data) // 2] ^= 1
    other = (published / 'mhaq_resnet20.th').read_bytes()
    if damage != 'missing':
        github[url] = {'flipped': bytes(flipped), 'cut': data[:-1000], 'cut off': data[:-1000], 'another': other}[
            damage
        ]
    if damage == 'cut off':
        github.cut_off.add(url)
    with pytest.raises(ResnetHubError, match=r'not 4118986f|cannot be fetched') as caught:
        timm.create_model(name, pretrained=True)
    assert '\n' not in str(caught.value) and url in str(caught.value)
    assert not cache.exists() or not list(cache.iterdir())
    github[url] = data
    github.cut_off.clear()
    assert fetch(name).is_file(), 'and the next try succeeds'


def test_the_inner_file_of_a_zip(github, monkeypatch, published):
    """osmr's releases are zips of one file, whose SHA-1 is the row's; a real file stands in for his."""
    name = 'cifar_resnet20.osmr_cifar10'
    data = (published / 'cifar10_resnet20-4118986f.pt').read_bytes()
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, 'w') as archive:
        archive.writestr('resnet20.pth', data)
    github[WEIGHTS[name].url] = buffer.getvalue()
    with pytest.raises(ResnetHubError, match=r'has sha1 \w+, not 9b0024ac'):
        fetch(name)
    monkeypatch.setitem(WEIGHTS, name, WEIGHTS[name]._replace(digest=f'sha1:{hashlib.sha1(data).hexdigest()}'))
    assert fetch(name).is_file()


def test_a_users_own_file_goes_past_the_row(github, tmp_path):
    """No request is made; the tag still says which network it is (option A)."""
    from safetensors.torch import save_file

    name = 'cifar_resnet20.akamaster_cifar10'
    mine = timm.create_model(name)
    save_file(mine.state_dict(), tmp_path / 'mine.safetensors')
    overlay = {'file': str(tmp_path / 'mine.safetensors')}
    model = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay)
    assert not github.requests and torch.equal(model.conv1.weight, mine.conv1.weight)
