"""Publishing: what is sent, when nothing is, and what never leaves this machine."""
# ruff: noqa: F811 - fixtures

import json
import re
import subprocess
import sys
from dataclasses import asdict

import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file, save_file

from resnet_hub.hub.card_check import MARK
from resnet_hub.hub.onnx import prepare_onnx
from resnet_hub.hub.package import prepare
from resnet_hub.hub.upload import push_folders, push_to_hub, repo_ids
from resnet_hub.training.recipe import Recipe
from resnet_hub.utils.errors import InputError, MissingExtraError
from tests.conftest import ROOT
from tests.hub.fixtures import RESULT, TOKEN, clients, hub, network, server, write_network  # noqa: F401


def sent(hub, repo='me/net'):
    """The commits of a repository beside its first."""
    state = hub.load(repo)
    return [commit for commit in state['commits'].values() if commit['parent']] if state else []


def edit(path, **changes):
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, **changes} if isinstance(content, dict) else [{**content[0], **changes}]))


def test_one_commit_with_everything_and_then_nothing(hub, clients, network):
    done = clients.command('upload', network, 'me/net', '--message', 'My net', '--description', 'About "it":\n---\n')
    assert done.code == 0 and ': sent, ' in done.out, done
    files = hub.files('me/net')
    extras = {'evaluation.json', 'recipe.toml', 'history.csv', 'curves.png'}
    assert files.keys() == {'.gitattributes', 'model.safetensors', 'config.json', 'README.md'} | extras
    assert [commit['title'] for commit in sent(hub)] == ['My net'] and not hub.load('me/net')['private']
    for name in files.keys() - {'.gitattributes', 'README.md', 'evaluation.json'}:
        assert files[name] == (network / name).read_bytes()
    assert json.loads(files['evaluation.json']) == [{**RESULT, 'model': 'hf-hub:me/net'}]
    assert b'/home/somebody' not in b''.join(files.values())
    assert 'About "it":' in files['README.md'].decode()

    before = len(hub.requests)
    again = clients.command('upload', network, 'me/net', '--description', 'About "it":\n---\n')
    assert again.code == 0 and ': unchanged, ' in again.out
    assert all(request.startswith('GET') for request in hub.requests[before:]) and len(sent(hub)) == 1


def test_what_changed_is_sent_and_what_is_gone_is_removed(hub, clients, network):
    hub.plant('me/net', {'notes.txt': b'of a person', 'evaluation.json': b'[]', 'curves.png': b'old'})
    for name in ('evaluation.json', 'curves.png'):
        (network / name).unlink()
    assert clients.command('upload', network, 'me/net').code == 0
    files = hub.files('me/net')
    assert files['notes.txt'] == b'of a person' and not {'evaluation.json', 'curves.png'} & files.keys()
    assert 'model-index' not in files['README.md'].decode()
    (network / 'evaluation.json').write_text(json.dumps([RESULT]))
    assert clients.command('upload', network, 'me/net').code == 0
    assert len(sent(hub)) == 3 and 'model-index' in hub.files('me/net')['README.md'].decode()
    changed = [request for request in hub.requests if request.startswith('PUT')]
    assert len(changed) == 1, 'the weights went again'


def test_pull_request(hub, clients, network):
    hub.create('other/net')
    for result in ('sent', 'unchanged'):
        done = clients.command('upload', network, 'other/net', '--create-pr')
        assert done.code == 0 and f': {result}, ' in done.out, done
    assert list(hub.load('other/net')['refs']) == ['refs/heads/main', 'refs/pr/1']
    assert 'config.json' in hub.files('other/net', 'refs/pr/1') and 'config.json' not in hub.files('other/net')
    done = clients.command('upload', network, 'me/none', '--create-pr')
    assert done.code == 1 and 'no such repository' in done.err and hub.load('me/none') is None


def test_branch(hub, clients, network):
    for result in ('sent', 'unchanged'):
        done = clients.command('upload', network, 'me/net', '--revision', 'v1.0')
        assert done.code == 0 and f': {result}, ' in done.out, done
    assert 'config.json' in hub.files('me/net', 'v1.0') and 'config.json' not in hub.files('me/net')


def test_create_pr_and_revision_contradict(hub, clients, network):
    for target, more in (('me/net', ()), ('me', ()), ('me/net', ('--dry-run',))):
        done = clients.command('upload', network, target, '--create-pr', '--revision', 'v1', *more)
        assert done.code == 2 and 'leave out --revision' in done.err and len(done.err.splitlines()) == 1
    assert not hub.requests


def test_private(hub, clients, network):
    assert clients.command('upload', network, 'me/net', '--private').code == 0
    assert hub.load('me/net')['private'] is True
    hub.create('me/public')
    done = clients.command('upload', network, 'me/public', '--private')
    assert done.code == 2 and 'exists and is public' in done.err and not sent(hub, 'me/public')


def test_dry_run_shows_the_very_files_and_card(hub, clients, network):
    done = clients.command('upload', network, 'me/net', '--dry-run')
    assert done.code == 0 and not hub.requests
    assert clients.command('upload', network, 'me/net').code == 0
    files = hub.files('me/net')
    assert done.out.endswith(files['README.md'].decode() + '\n')
    shown = dict(re.findall(r'^(\S+) +(\d+)  [0-9a-f]{64}$', done.out, re.MULTILINE))
    assert shown == {name: str(len(data)) for name, data in files.items() if name != '.gitattributes'}


def test_many_folders(hub, clients, network, tmp_path):
    write_network(tmp_path / 'second', 'preact_resnet20')
    broken = write_network(tmp_path / 'broken')
    (broken / 'model.safetensors').unlink()
    hub.plant('me/second', prepare(tmp_path / 'second', 'me/second').files)
    folders = [network, broken, tmp_path / 'second']
    done = clients.command('upload', *folders, 'me')
    assert done.code == 1 and not done.err
    lines = {line.split()[1]: line for line in done.out.splitlines()[1:]}
    assert ' sent ' in lines['me/net'] and ' unchanged ' in lines['me/second']
    assert ' failed ' in lines['me/broken'] and 'has no model.safetensors' in lines['me/broken']
    assert sent(hub) and hub.load('me/broken') is None
    broken.rename(tmp_path / 'elsewhere')
    assert clients.command('upload', network, tmp_path / 'second', 'me').code == 0
    assert clients.command('upload', network, tmp_path / 'second', 'me/net').code == 2
    (tmp_path / 'x' / 'net').mkdir(parents=True)
    with pytest.raises(InputError, match='several folders have the same name'):
        repo_ids([network, tmp_path / 'x' / 'net'], 'me')
    with pytest.raises(InputError, match='leave out --revision'):
        push_folders([network], 'me', create_pr=True, revision='v1')


def test_a_commit_of_somebody_else_on_the_way(hub, clients, network):
    """The Hub refuses what was decided on an older state; it is decided anew on the new one."""
    hub.create('me/net')

    def interfere(number):
        if 'preupload' in hub.requests[-1] and 'notes.txt' not in hub.files('me/net'):
            hub.plant('me/net', {'notes.txt': b'of a person', 'config.json': b'{}'})

    hub.after = interfere
    assert clients.command('upload', network, 'me/net').code == 0
    files = hub.files('me/net')
    assert files['notes.txt'] == b'of a person' and files['config.json'] == (network / 'config.json').read_bytes()
    assert sum('/commit/' in request for request in hub.requests) == 2 and len(sent(hub)) == 2


def test_no_token_no_access(hub, clients, network):
    code = f"import os; del os.environ['HF_TOKEN']; result = main(['upload', {str(network)!r}, 'me/net'])"
    done = clients.run(code)
    assert done.code == 1 and 'hf auth login' in done.err and not hub.requests
    hub.create('other/net')
    done = clients.command('upload', network, 'other/net')
    assert done.code == 1 and 'write access' in done.err and not sent(hub, 'other/net')
    hub.create('other/gated', gated=True)
    done = clients.command('upload', network, 'other/new')
    assert done.code == 1 and 'write access' in done.err and hub.load('other/new') is None
    hub.tokens.clear()
    done = clients.command('upload', network, 'me/net')
    assert done.code == 1 and 'token is missing or not valid' in done.err and len(done.err.splitlines()) == 1


def test_a_token_of_the_call(hub, clients, network):
    code = f"""
import os
del os.environ['HF_TOKEN']
import resnet_hub.hub.upload as u
print(u.push_to_hub({str(network)!r}, 'me/net', token={'_'.join(['hf', 'aVerySecretToken'])!r}))
"""
    done = clients.run(code)
    assert done.code == 0 and "result='sent'" in done.out, done.err


BROKEN = {
    'no folder': (lambda f: [p.unlink() for p in f.iterdir()], 'has no config.json; `resnet-hub convert`'),
    'no weights': (lambda f: (f / 'model.safetensors').unlink(), 'has no model.safetensors; `resnet-hub convert`'),
    'broken json': (lambda f: (f / 'config.json').write_text('{'), 'config.json of .* cannot be read'),
    'a list': (lambda f: (f / 'config.json').write_text('[]'), 'config.json of .* cannot be read'),
    'not ours': (lambda f: edit(f / 'config.json', architecture='resnet50'), "holds 'resnet50', which is not"),
    'bare config': (lambda f: (f / 'config.json').write_text('{"architecture": "cifar_resnet8"}'), 'lacks num_classes'),
    'other weights': (lambda f: edit(f / 'config.json', sha256='0' * 64), 'does not have the digest that config.json'),
    'other network': (
        lambda f: edit(f / 'config.json', architecture='cifar_resnet20', sha256=digest_of(f)),
        'must belong to the same network',
    ),
    'NaN': (lambda f: spoil(f, float('nan')), 'computes NaN or infinity'),
    'no list': (lambda f: (f / 'evaluation.json').write_text('{"a": 1}'), 'is not what `resnet-hub evaluate --json`'),
    'missing figure': (lambda f: (f / 'evaluation.json').write_text('[{"top1": 1}]'), 'is not what `resnet-hub eval'),
    'other classes': (lambda f: edit(f / 'evaluation.json', dataset='cifar100'), 'does not fit'),
    'bf16': (lambda f: edit(f / 'evaluation.json', precision='bf16'), 'was measured in another precision'),
    'no data set': (lambda f: edit(f / 'evaluation.json', dataset='"x": [\n---\n'), 'does not fit'),
    'two models': (
        lambda f: (f / 'evaluation.json').write_text(json.dumps([RESULT, {**RESULT, 'model': 'b', 'split': 'train'}])),
        'has figures of several models',
    ),
    'twice': (
        lambda f: (f / 'evaluation.json').write_text(json.dumps([RESULT, {**RESULT, 'top1': 99.0}])),
        'has figures of several models',
    ),
    'no object': (lambda f: edit(f / 'config.json', source='net.pth'), 'source in .*config.json is not a JSON object'),
    'null': (lambda f: edit(f / 'config.json', model_args=None), 'model_args in .*config.json is not a JSON object'),
    'card of Latin letters': (lambda f: (f / 'README.md').write_bytes(b'---\n\xe4'), 'README.md is not UTF-8'),
    'NaN figure': (lambda f: edit(f / 'evaluation.json', nll=float('nan')), 'does not fit'),
    'above 100': (lambda f: edit(f / 'evaluation.json', top1=101), 'does not fit'),
    'text figure': (lambda f: edit(f / 'evaluation.json', top1='99'), 'does not fit'),
}


def digest_of(folder):
    from resnet_hub.utils.files import digest

    return digest(folder / 'model.safetensors')


def spoil(folder, value):
    state = load_file(folder / 'model.safetensors')
    state['fc.bias'][0] = value
    save_file(state, folder / 'model.safetensors', {'format': 'pt'})
    edit(folder / 'config.json', sha256=digest_of(folder))


@pytest.mark.parametrize('name', BROKEN)
def test_nothing_unfit_is_sent(name, network, monkeypatch):
    spoil_it, message = BROKEN[name]
    spoil_it(network)
    monkeypatch.setattr('resnet_hub.hub.upload.HfApi', None)  # whoever would use it fails
    with pytest.raises(InputError, match=message) as caught:
        push_to_hub(network, 'me/net', token=TOKEN)
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize('name', ['net', 'a/b/c', '../net', 'me/', 'me/ne t', 'me/net--1', '-me/net', 'me/..', ''])
def test_names_that_are_no_repository(name, network):
    with pytest.raises(InputError, match=r'OWNER/NAME'):
        push_to_hub(network, name, token=TOKEN)


def test_ones_own_card_is_kept(network):
    card = prepare(network, 'me/net').card
    (network / 'README.md').write_text(card)
    assert prepare(network, 'me/other').card != card, 'a card of ours is written anew'
    mine = card.replace(MARK, 'My own words.')
    (network / 'README.md').write_text(mine)
    assert prepare(network, 'me/net').card == mine
    (network / 'README.md').write_text(mine.replace('license: unknown', 'license: mit'))
    assert prepare(network, 'me/net', license='MIT').card == (network / 'README.md').read_text()
    for options in ({'license': 'apache-2.0'}, {'description': 'Words.'}):
        with pytest.raises(InputError, match='is a card of your own: write license and description into it'):
            prepare(network, 'me/net', **options)
    (network / 'README.md').write_text('# Notes of a conversion, without metadata')
    assert prepare(network, 'me/net').card == card


def test_a_card_that_was_edited_on_the_hub_stays(hub, clients, network):
    assert clients.command('upload', network, 'me/net').code == 0
    card = hub.files('me/net')['README.md'].decode()
    edited = card.replace(MARK, 'Words of a person.').replace('\n', '\r\n').encode()
    hub.plant('me/net', {'README.md': edited})
    done = clients.command('upload', network, 'me/net')
    assert done.code == 0 and ': unchanged, ' in done.out, done
    (network / 'history.csv').write_text('epoch\n')
    assert clients.command('upload', network, 'me/net').code == 0
    files = hub.files('me/net')
    assert files['history.csv'] == b'epoch\n' and files['README.md'] == edited
    for more, message in (
        (('--license', 'mit'), 'README.md in me/net is a card of your own: write license'),
        ((), r'README.md in me/net says 91.25 of cifar10, .*evaluation.json says 91.5'),
    ):
        edit(network / 'evaluation.json', top1=91.25 if more else 91.5)
        before = len(hub.load('me/net')['commits'])
        done = clients.command('upload', network, 'me/net', *more)
        assert done.code == 2 and re.search(message, done.err) and len(done.err.splitlines()) == 1, done.err
        assert len(hub.load('me/net')['commits']) == before
    (network / 'README.md').write_text(card.replace('91.25', '91.5').replace(MARK, 'An own card in the folder.'))
    assert clients.command('upload', network, 'me/net').code == 0
    assert b'An own card in the folder.' in hub.files('me/net')['README.md']


def test_an_upload_without_options_keeps_license_and_description(hub, clients, network):
    options = ('--license', 'mit', '--description', 'About it.')
    assert clients.command('upload', network, 'me/net', *options).code == 0
    first = hub.files('me/net')['README.md'].decode()
    done = clients.command('upload', network, 'me/net')
    assert done.code == 0 and ': unchanged, ' in done.out and 'license: mit\n' in first and '\nAbout it.\n' in first
    assert clients.command('upload', network, 'me/net', '--license', 'Apache-2.0').code == 0
    assert hub.files('me/net')['README.md'].decode() == first.replace('license: mit', 'license: apache-2.0')
    hub.plant('me/new', {'README.md': b'---\nlicense: bsd-3-clause\n---\n'})  # as the page that creates one writes it
    assert clients.command('upload', network, 'me/new').code == 0
    card = hub.files('me/new')['README.md'].decode()
    assert 'license: bsd-3-clause\n' in card and card.endswith(f'{MARK}\n')


@pytest.mark.parametrize(
    ('license', 'known'), [('MIT', True), ('apache-2.0', True), ('other', True), ('apache2', False)]
)
def test_a_license_that_spdx_does_not_know_is_warned_about(license, known, network, caplog):
    assert f'license: {license.lower()}\n' in prepare(network, 'me/net', license=license).card
    assert (f"SPDX knows no license '{license}'" in caplog.text) is not known


def test_figures_on_images_that_no_table_knows_are_in_the_card(network):
    (network / 'evaluation.json').write_text(json.dumps([{**RESULT, 'dataset': 'my_images', 'images': 40}, RESULT]))
    card = prepare(network, 'me/net').card
    assert '| my_images | test | 40 | 91.25 |' in card and '| cifar10 | test | 10,000 | 91.25 |' in card
    written = ModelCard(card).data.eval_results
    assert {result.dataset_name for result in written} == {'cifar10'}, 'the Hub knows no other'


def test_javascript_without_the_packages_for_onnx(network, monkeypatch):
    monkeypatch.setitem(sys.modules, 'onnx', None)
    monkeypatch.delitem(sys.modules, 'resnet_hub.exporting.onnx', raising=False)
    with pytest.raises(MissingExtraError, match=r'the package onnx is not installed; install it by pip install'):
        prepare_onnx(prepare(network, 'me/net'))


def test_what_a_conversion_measured_is_in_the_card(network):
    (network / 'evaluation.json').unlink()
    measured = {key: RESULT[key] for key in ('dataset', 'top1', 'top5', 'nll', 'images')}
    edit(network / 'config.json', measured=measured)
    package = prepare(network, 'me/net')
    assert json.loads(package.files['evaluation.json']) == [{'model': 'hf-hub:me/net', 'split': 'test', **measured}]
    assert '| cifar10 | test | 10,000 | 91.25 |' in package.card


def test_a_teacher_of_this_machine_loses_its_folder(network):
    recipe = Recipe.from_file(network / 'recipe.toml', teacher='local-dir:/home/me/größe/t/')
    (network / 'recipe.toml').write_text(recipe.to_toml())
    edit(network / 'config.json', recipe=asdict(recipe))
    files = prepare(network, 'me/net').files
    assert b'/home/me' not in b''.join(files.values())
    for name in ('recipe.toml', 'config.json', 'README.md'):
        assert b'"local-dir:t"' in files[name]


def test_the_config_is_one_that_every_door_reads(tmp_path):
    """timm's own export keeps class count and names where transformers does not find them."""
    import timm

    torch.manual_seed(0)
    model = timm.create_model('cifar_resnet20', pretrained=True)
    timm.models.save_for_hf(model, tmp_path / 'net', safe_serialization=True)
    package = prepare(tmp_path / 'net', 'me/net')
    config = json.loads(package.files['config.json'])
    assert 'num_classes' not in config['model_args'] and config['num_classes'] == 10
    assert config['label_names'][3] == 'cat' and 'label_names' not in config['pretrained_cfg']
    assert config['sha256'] == digest_of(tmp_path / 'net') and config['dtype'] == 'float32'


@pytest.mark.parametrize('script', ['convert.py', 'upload.py', 'download.py'])
def test_from_a_plain_clone(script, tmp_path):
    """Without site, and so without the installed package: what it finds is beside the script."""
    libraries = [path for path in sys.path if path not in ('', str(ROOT))]
    code = f'import sys; sys.path[:0] = {libraries!r}; import runpy; sys.argv[1:] = ["--help"]'
    code += f'; runpy.run_path({str(ROOT / "scripts" / script)!r}, run_name="__main__")'
    done = subprocess.run([sys.executable, '-S', '-c', code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0 and f'resnet-hub {script.removesuffix(".py")}' in done.stdout, done.stderr
