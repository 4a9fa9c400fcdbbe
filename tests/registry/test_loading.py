"""Which failures are explained in one line, and which are bugs that keep their traceback."""

import json

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from resnet_hub.models import CifarResNet
from resnet_hub.registry.loading import as_model, load_model
from resnet_hub.utils.errors import InputError, ResnetHubError
from resnet_hub.weights.folder import make_config, write_folder


@pytest.fixture
def folder(tmp_path):
    """A model folder without the digest of its weights, so that they can be changed."""
    config = make_config('cifar_resnet8', mean=(0.5,) * 3, std=(0.3,) * 3, num_classes=10)
    write_folder(tmp_path / 'net', timm.create_model('cifar_resnet8').state_dict(), config)
    (tmp_path / 'net' / 'config.json').write_text(json.dumps(config))
    return tmp_path / 'net'


def change_config(folder, **fields):
    path = folder / 'config.json'
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def change_weights(folder, change):
    state = load_file(folder / 'model.safetensors')
    change(state)
    save_file(state, folder / 'model.safetensors')


@pytest.mark.parametrize(
    ('fields', 'message'),
    [
        ({'architecture': 'cifar_resnet9'}, 'Unknown model'),
        ({'architecture': 3}, '.'),
        ({'model_args': {'depth': 9}}, "TypeError: .*unexpected keyword argument 'depth'"),
        ({'model_args': {'block': 'dense'}}, "block must be one of 'basic', 'bottleneck', not 'dense'"),
        ({'model_args': {'norm_layer': 'nonorm'}}, "KeyError: 'nonorm'"),
        ({'model_args': [1]}, '.'),
    ],
)
def test_a_config_that_makes_no_network(folder, fields, message):
    change_config(folder, **fields)
    with pytest.raises(InputError, match=f'local-dir:.*{message}') as error:
        load_model(f'local-dir:{folder}', 'cpu')
    assert error.value.__cause__ is not None
    assert '\n' not in str(error.value)


def test_a_config_without_an_architecture(folder):
    (folder / 'config.json').write_text('{"model_type": "bert"}')
    with pytest.raises(InputError, match=r'its config\.json names no architecture'):
        load_model(f'local-dir:{folder}', 'cpu')
    (folder / 'config.json').write_text('{"model_type"')
    with pytest.raises(InputError, match='local-dir:'):
        load_model(f'local-dir:{folder}', 'cpu')
    with pytest.raises(InputError, match='local-dir:'):
        load_model(f'local-dir:{folder}/nowhere', 'cpu')


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda state: state.pop('bn1.weight'), 'Missing key.*bn1.weight'),
        (lambda state: state.update(extra=torch.zeros(1)), 'Unexpected key.*extra'),
        (lambda state: state.update({'fc.bias': torch.zeros(11)}), 'size mismatch for fc.bias'),
    ],
)
def test_weights_that_do_not_fit(folder, change, message):
    change_weights(folder, change)
    with pytest.raises(ResnetHubError, match=message) as error:
        load_model(f'local-dir:{folder}', 'cpu')
    assert not isinstance(error.value, InputError)


def test_weights_that_are_cut_off(folder):
    path = folder / 'model.safetensors'
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(ResnetHubError, match='local-dir:'):
        load_model(f'local-dir:{folder}', 'cpu')


@pytest.mark.parametrize('error', [KeyError('fc'), TypeError('a bug'), IndexError('a bug'), AttributeError('a bug')])
@pytest.mark.parametrize('source', ['folder', 'name'])
def test_a_bug_of_ours_keeps_its_kind(folder, error, source, monkeypatch):
    def broken(*args, **kwargs):
        raise error

    monkeypatch.setattr(CifarResNet, 'load_state_dict', broken)
    with pytest.raises(type(error)) as caught:
        load_model(f'local-dir:{folder}' if source == 'folder' else 'cifar_resnet20.cifar10', 'cpu')
    assert caught.value is error


def test_a_network_or_a_name():
    model = nn.Identity()
    assert as_model(model) is model
    assert as_model('cifar_resnet20.cifar10', 'cpu').num_classes == 10
    for wrong in (3, None, [model]):
        with pytest.raises(InputError, match=f'or its name, not {type(wrong).__name__}'):
            as_model(wrong)
    with pytest.raises(InputError, match='must be the name of a model, not Identity'):
        load_model(model)
