"""Fetching: whole, verified, of a network of ours, and nowhere but where it should be."""
# ruff: noqa: F811 - fixtures

import io
import json

import pytest
import timm
import torch

from resnet_hub.hub.download import download
from resnet_hub.utils.errors import InputError
from tests.hub.fixtures import clients, hub, network, server, write_network  # noqa: F401


@pytest.fixture
def planted(hub, tmp_path):
    """me/net: a network on the Hub; its files."""
    folder = write_network(tmp_path / 'source')
    files = {name: (folder / name).read_bytes() for name in ('model.safetensors', 'config.json')}
    files |= {'README.md': b'# A net', 'sub/notes.txt': b'deeper'}
    hub.plant('me/net', files)
    return hub.files('me/net')


def read(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob('*') if p.is_file()}


def test_whole_and_again(hub, clients, planted, tmp_path):
    output = tmp_path / 'deep' / 'out'
    for _ in range(2):
        done = clients.command('download', 'me/net', '-o', output)
        assert done.code == 0 and f'local-dir:{output}' in done.out, done
        assert read(output) == planted and not any(path.is_symlink() for path in output.rglob('*'))
    assert sum('GET /cdn/' in request for request in hub.requests) == 1
    assert [path.name for path in output.parent.iterdir()] == ['out']
    done = clients.command('download', 'me/net')
    assert done.code == 0 and str(clients.cache) in done.out


def test_revisions(hub, clients, planted, tmp_path):
    first = hub.head('me/net')
    other = write_network(tmp_path / 'other', seed=1)
    hub.plant('me/net', {name: (other / name).read_bytes() for name in ('model.safetensors', 'config.json')})
    for output, revision in (('a', ('--revision', first)), ('b', ()), ('c', ('--revision', 'main'))):
        assert clients.command('download', 'me/net', '-o', tmp_path / output, *revision).code == 0
        assert read(tmp_path / output) == hub.files('me/net', first if output == 'a' else 'main')
    done = clients.command('download', 'me/net', '-o', tmp_path / 'd', '--revision', 'v9')
    assert done.code == 1 and 'me/net@v9: there is no such revision' in done.err


def test_offline(hub, clients, planted, tmp_path):
    done = clients.command('download', 'me/net', '-o', tmp_path / 'a', offline=True)
    assert done.code == 1 and 'HF_HUB_OFFLINE' in done.err and not hub.requests
    assert clients.command('download', 'me/net').code == 0
    hub.requests.clear()
    assert clients.command('download', 'me/net', '-o', tmp_path / 'b', offline=True).code == 0
    assert read(tmp_path / 'b') == planted and not hub.requests
    (blob,) = (path for path in clients.cache.rglob('blobs/*') if path.stat().st_size > 100_000)
    blob.write_bytes(blob.read_bytes()[:-1] + b'!')
    done = clients.command('download', 'me/net', '-o', tmp_path / 'c', offline=True)
    assert (
        done.code == 2
        and 'model.safetensors does not have the digest that config.json gives' in done.err
        and not (tmp_path / 'c').exists()
    )


def test_damage_in_the_cache_is_mended(hub, clients, planted, tmp_path):
    """What an earlier download without a check left there, or a disk."""
    assert clients.command('download', 'me/net').code == 0
    for blob in clients.cache.rglob('blobs/*'):
        blob.write_bytes(blob.read_bytes()[:-1] + b'!')
    assert clients.command('download', 'me/net', '-o', tmp_path / 'out').code == 0
    assert read(tmp_path / 'out') == planted


def test_access(hub, clients, planted, tmp_path):
    hub.create('other/secret', private=True)
    hub.create('other/gated', gated=True)
    hub.plant('other/gated', planted)
    for repo, message in (
        ('me/nothing', 'no such repository, or a private one'),
        ('other/secret', 'no such repository, or a private one'),
        ('other/gated', 'access is restricted; ask for it'),
    ):
        done = clients.command('download', repo, '-o', tmp_path / 'out')
        assert done.code == 1 and f'{repo}: {message}' in done.err and len(done.err.splitlines()) == 1
    state = hub.load('other/gated')
    hub.save('other/gated', {**state, 'allowed': ['me']})
    assert clients.command('download', 'other/gated', '-o', tmp_path / 'out').code == 0
    hub.tokens.clear()
    done = clients.command('download', 'me/net', '-o', tmp_path / 'new')
    assert done.code == 1 and 'hf auth login' in done.err


HOSTILE = [
    '../evil',
    '/evil',
    'sub/../../evil',
    '..\\evil',
    'C:\\evil',
    'C:evil',
    '\\\\host\\evil',
    'a\\b',
    'a\nb',
    '..',
]


@pytest.mark.parametrize('name', HOSTILE)
def test_names_never_lead_out(name, hub, clients, planted, tmp_path):
    hub.plant('me/net', {name: b'evil'})
    before = {path for path in tmp_path.rglob('*') if 'hub' not in path.parts and 'cache' not in path.parts}
    done = clients.command('download', 'me/net', '-o', tmp_path / 'out')
    assert done.code == 2 and 'which may lead out of its folder' in done.err and len(done.err.splitlines()) == 1
    assert not [path for path in clients.cache.rglob('*') if 'evil' in path.name]
    after = {path for path in tmp_path.rglob('*') if 'hub' not in path.parts and 'cache' not in path.parts}
    assert after == before and not list(tmp_path.parent.glob('evil'))


def test_links_stay_text(hub, clients, planted, tmp_path):
    """What git keeps as a symbolic link arrives as the text of its target; and none is followed on this side."""
    hub.plant('me/net', {'link': b'../../secret'})
    (tmp_path / 'secret').write_bytes(b'mine')
    assert clients.command('download', 'me/net', '-o', tmp_path / 'out').code == 0
    assert not (tmp_path / 'out' / 'link').is_symlink() and (tmp_path / 'out' / 'link').read_bytes() == b'../../secret'
    trap = tmp_path / 'trap'
    trap.mkdir()
    (trap / 'README.md').symlink_to(tmp_path / 'secret')
    assert clients.command('download', 'me/net', '-o', trap).code == 2
    assert (tmp_path / 'secret').read_bytes() == b'mine'


def test_an_output_that_is_taken(hub, clients, planted, tmp_path):
    (tmp_path / 'empty').mkdir()
    code = f"import os; os.chdir({str(tmp_path / 'empty')!r}); result = main(['download', 'me/net', '-o', '.'])"
    assert clients.run(code).code == 0
    assert read(tmp_path / 'empty') == planted
    (tmp_path / 'empty' / 'evaluation.json').write_text('[]')
    assert clients.command('download', 'me/net', '-o', tmp_path / 'empty').code == 0, 'more files do no harm'
    (tmp_path / 'empty' / 'config.json').write_text('{}')
    (tmp_path / 'other').mkdir()
    (tmp_path / 'other' / 'mine.txt').write_text('mine')
    (tmp_path / 'file').write_text('mine')
    for name, message in (
        ('empty', 'differs in config.json'),
        ('other', 'no model folder'),
        ('file', 'no model folder'),
    ):
        done = clients.command('download', 'me/net', '-o', tmp_path / name)
        assert done.code == 2 and message in done.err and 'give another -o' in done.err


class Evil:
    def __reduce__(self):
        import os

        return os.system, ('touch evil',)


def pickled(content):
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


UNFIT = {
    'not ours': ({'config.json': b'{"architecture": "resnet50"}'}, "holds 'resnet50', which is not an architecture of"),
    'transformers': ({'config.json': b'{"model_type": "bert", "architectures": ["B"]}'}, "holds ['B'], which is not"),
    'bare config': ({'config.json': b'{"architecture": "cifar_resnet8"}'}, 'config.json of me/net lacks num_classes'),
    'broken config': ({'config.json': b'{'}, 'config.json of me/net cannot be read'),
    'no config': ({'config.json': None, 'model.safetensors': None}, 'has no config.json: it is not a model'),
    'no weights': ({'model.safetensors': None}, 'has no model.safetensors; ask its owner'),
    'pickle': (
        {'model.safetensors': None, 'pytorch_model.bin': pickled({'a': torch.zeros(2)})},
        '`resnet-hub convert hf-hub:me/net -o DIR` makes safetensors of it',
    ),
    'pickle alone': (
        {'model.safetensors': None, 'config.json': None, 'net.pth': pickled({'a': torch.zeros(2)})},
        'offers only a pickle, net.pth',
    ),
    'optimiser beside': (
        {
            'model.safetensors': None,
            'optimizer.pt': pickled({'a': torch.zeros(2)}),
            'pytorch_model.bin': pickled({'a': torch.zeros(2)}),
        },
        'offers only a pickle, pytorch_model.bin',
    ),
    'weights without config': ({'config.json': None, 'net.pth': b'x'}, 'has no config.json: it is not a model'),
    'deep config': ({'config.json': b'[' * 100_000}, 'config.json of me/net cannot be read'),
    'evil pickle': ({'model.safetensors': None, 'pytorch_model.bin': pickled(Evil())}, 'would run code'),
    'no safetensors': ({'model.safetensors': b'what is this'}, 'does not have the digest that config.json gives'),
}


@pytest.mark.parametrize('name', UNFIT)
def test_what_is_no_network_of_ours(name, hub, clients, planted, tmp_path):
    changes, message = UNFIT[name]
    state = hub.load('me/net')
    files = {k: hub.entry(v, lfs=not k.endswith('.json')) if v else None for k, v in changes.items()}
    hub.commit(state, 'refs/heads/main', state['refs']['refs/heads/main'], 'changed', files)
    hub.save('me/net', state)
    done = clients.command('download', 'me/net', '-o', tmp_path / 'out')
    assert done.code == 2 and message in done.err and len(done.err.splitlines()) == 1, done
    assert not (tmp_path / 'out').exists() and not list(tmp_path.rglob('evil'))
    fetched = any('GET /cdn/' in request for request in hub.requests)
    assert fetched == ('pickle' in name or 'safetensors' in name or 'optimiser' in name), (
        'weights were fetched for nothing'
    )


@pytest.mark.parametrize('change', [{'architecture': 'cifar_resnet20'}, {'model_args': {'layers': 'x'}}])
def test_weights_of_another_network(change, hub, clients, planted, tmp_path):
    config = json.loads(planted['config.json'])
    hub.plant('me/net', {'config.json': json.dumps({**config, **change}).encode()})
    done = clients.command('download', 'me/net', '-o', tmp_path / 'out')
    assert done.code == 2 and 'the weights do not fit its network' in done.err and len(done.err.splitlines()) == 1
    assert not (tmp_path / 'out').exists()


def test_a_pickle_on_the_hub_is_converted(hub, clients, server, tmp_path):
    """What `download` refuses, `convert hf-hub:` reads, without running it; and an evil one it refuses as well."""
    torch.manual_seed(0)
    state = timm.create_model('cifar_resnet8').state_dict()
    hub.plant('me/old', {'net.pth': pickled({'net': state, 'acc': 90.0})})
    done = clients.command('convert', 'hf-hub:me/old', '-o', tmp_path / 'out', '--dataset', 'cifar10')
    assert done.code == 0, done
    converted = timm.create_model(f'local-dir:{tmp_path / "out"}', pretrained=True).state_dict()
    assert all(torch.equal(converted[key], state[key]) for key in state)
    hub.plant('me/evil', {'net.pth': pickled({'net': Evil()})})
    done = clients.command('convert', 'hf-hub:me/evil', '-o', tmp_path / 'evil', '--dataset', 'cifar10')
    assert done.code == 2 and 'would run code' in done.err and len(done.err.splitlines()) == 1, done
    assert not list(tmp_path.rglob('evil'))


def test_from_python(clients, planted, tmp_path):
    code = f"""
from resnet_hub.hub.download import download
cached = download('me/net', cache_dir={str(tmp_path / 'own')!r})
assert str(cached).startswith({str(tmp_path / 'own')!r})
assert download('me/net', {str(tmp_path / 'out')!r}).name == 'out'
"""
    done = clients.run(code)
    assert done.code == 0, done.err
    for name in ('net', '../net', 'me/../net'):
        with pytest.raises(InputError, match='OWNER/NAME'):
            download(name)
