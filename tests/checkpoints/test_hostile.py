"""Files that would run code, broken files, and any mutation of a good one: one line each, and never another network."""

from __future__ import annotations

import builtins
import io
import json
import os
import pickle
import random
import re
import struct
import subprocess
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save
from torch import Tensor, nn

from resnet_hub.checkpoints import read as read_module
from resnet_hub.checkpoints.read import read
from resnet_hub.checkpoints.recognise import recognise
from resnet_hub.conversion.convert import convert_checkpoint
from resnet_hub.models import CifarResNet, PreActResNet
from resnet_hub.utils.errors import InputError
from resnet_hub.weights import folder as folder_module
from tests.oracles import randomise

State = dict[str, Tensor]
Mutation = Callable[[State, str, str], None]


def tiny(cls: type = CifarResNet, **kwargs: Any) -> nn.Module:
    return randomise(cls('basic', (1, 1, 1), (4, 8, 12), **kwargs))


@pytest.fixture(scope='module')
def state() -> State:
    return dict(tiny().state_dict())


def refused(path: Path, output: Path, message: str | None = None) -> str:
    """The one line that refuses a file; nothing may have been written."""
    before = sorted(output.parent.iterdir())
    with pytest.raises(InputError, match=message) as caught:
        convert_checkpoint(path, output, dataset='cifar10')
    line = str(caught.value)
    assert '\n' not in line and 20 < len(line) < 700, line
    assert sorted(output.parent.iterdir()) == before
    return line


# ------------------------------------------------------------------------------------------------ code in pickles


class Gadget:
    """Pickles as a call: unpickling runs it."""

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        self.call = function, args

    def __reduce__(self) -> Any:
        return self.call


class Toucher:
    """A class that acts when it is called."""

    def __init__(self, target: str) -> None:
        Path(target).touch()


#: functions of the file that a gadget would create, and their arguments
GADGETS: dict[str, Callable[[Path], Gadget]] = {
    'a class': lambda target: Gadget(Toucher, str(target)),
    'os.system': lambda target: Gadget(os.system, f'touch {target}'),
    'eval': lambda target: Gadget(builtins.eval, f'open({str(target)!r}, "w").close()'),
    'exec': lambda target: Gadget(builtins.exec, f'open({str(target)!r}, "w").close()'),
    'os.mkdir': lambda target: Gadget(os.mkdir, str(target)),
    'subprocess': lambda target: Gadget(subprocess.check_call, ['touch', str(target)]),
    'Path.touch': lambda target: Gadget(Path.touch, target),
}
NESTINGS: dict[str, Callable[[Any, State], Any]] = {
    'alone': lambda gadget, state: gadget,
    'beside the weights': lambda gadget, state: {'state_dict': state, 'args': gadget},
    'in a list in a dict': lambda gadget, state: {'net': state, 'log': [{'deep': (1, [gadget])}]},
    'as a tensor': lambda gadget, state: {**state, 'fc.bias': gadget},
    'as a key': lambda gadget, state: {'state_dict': state, 'extra': OrderedDict([('a', gadget)])},
}


@pytest.mark.parametrize('form', ['torch zip', 'torch legacy', 'pickle 2', 'pickle 4', 'zip of a pth'])
@pytest.mark.parametrize('nesting', NESTINGS)
@pytest.mark.parametrize('name', GADGETS)
def test_no_pickle_runs(name: str, nesting: str, form: str, state: State, tmp_path: Path) -> None:
    target = tmp_path / 'fired'
    content = NESTINGS[nesting](GADGETS[name](target), state)
    source = tmp_path / 'evil.pth'
    if form.startswith('pickle'):
        source.write_bytes(pickle.dumps(content, protocol=int(form[-1])))
    else:
        torch.save(content, source, _use_new_zipfile_serialization=form != 'torch legacy')
    plain = source.read_bytes()
    if form == 'zip of a pth':
        with zipfile.ZipFile(tmp_path / 'evil.zip', 'w') as archive:
            archive.write(source, 'evil.pth')
        source = tmp_path / 'evil.zip'
    line = refused(source, tmp_path / 'net')
    assert not target.exists(), f'{name} ran'
    assert 'nothing was run' in line or 'would run code' in line
    pickle.loads(plain) if form.startswith('pickle') else torch.load(io.BytesIO(plain), weights_only=False)
    assert target.exists(), 'the gadget fires where pickles are run'


class Net(nn.Linear):
    """A class of the owner's."""


class Options(dict[str, Any]):
    """A dictionary with attributes, as EasyDict, yacs and OmegaConf have them."""

    def __init__(self, **items: Any) -> None:
        super().__init__(**items)
        self.frozen = True


class Meter:
    """An object whose attributes are tensors and other objects."""

    def __init__(self) -> None:
        self.total, self.options = torch.ones(3, 3), Options()


@pytest.mark.parametrize('zipped', [True, False])
def test_whole_pickled_modules_and_scripts_are_refused_with_the_line_to_run(zipped: bool, tmp_path: Path) -> None:
    torch.save(Net(2, 2), tmp_path / 'module.pth', _use_new_zipfile_serialization=zipped)
    line = refused(tmp_path / 'module.pth', tmp_path / 'net')
    assert 'test_hostile.Net' in line and "torch.load('module.pth', weights_only=False).state_dict()" in line
    beside = {'net': Net(2, 2), 'acc': torch.tensor(93.0), 'args': Options(lr=0.1)}
    torch.save(beside, tmp_path / 'module.pth', _use_new_zipfile_serialization=zipped)
    assert 'it needs tests.checkpoints.test_hostile.Net' in refused(tmp_path / 'module.pth', tmp_path / 'net')
    torch.jit.script(nn.Linear(2, 2)).save(tmp_path / 'script.pt')
    assert "torch.jit.load('script.pt').state_dict()" in refused(tmp_path / 'script.pt', tmp_path / 'net')


def test_values_beside_the_weights_are_read(state: State, tmp_path: Path) -> None:
    import argparse
    import datetime
    from collections import defaultdict, deque

    import numpy as np

    beside = {
        'args': argparse.Namespace(lr=0.1, out=Path('/tmp/x')),
        'best': np.float64(93.1),
        'history': np.arange(3.0),
        'counts': defaultdict(list, a=[1]),
        'last': deque([0.5, 0.4], maxlen=20),
        'stages': frozenset({1, 2}),
        'when': datetime.datetime(2020, 1, 1),
    }
    for zipped in (True, False):
        torch.save({'model': state, **beside}, tmp_path / 'net.pth', _use_new_zipfile_serialization=zipped)
        found = recognise(read(tmp_path / 'net.pth').tree)
        assert all(torch.equal(found.state_dict[key], state[key]) for key in state)


@pytest.mark.parametrize('zipped', [True, False])
def test_objects_of_unknown_classes_beside_the_weights_are_read_as_dicts(
    zipped: bool, state: State, tmp_path: Path
) -> None:
    beside = {'args': Options(lr=0.1, model=Options(name='resnet')), 'meter': Meter(), 'kind': Meter}
    torch.save({'net': state, **beside}, tmp_path / 'net.pth', _use_new_zipfile_serialization=zipped)
    source = read(tmp_path / 'net.pth')
    assert source.tree['args'] == {'lr': 0.1, 'model': {'name': 'resnet'}}
    assert source.classes == tuple(f'tests.checkpoints.test_hostile.{name}' for name in ('Options', 'Meter'))
    found = recognise(source.tree)
    assert all(torch.equal(found.state_dict[key], state[key]) for key in state)
    converted = convert_checkpoint(tmp_path / 'net.pth', tmp_path / 'net', dataset='cifar10')
    assert converted.notes[0] == 'objects of tests.checkpoints.test_hostile.Options are read as plain dicts'


# ------------------------------------------------------------------------------------------------------ broken files


@pytest.mark.parametrize(
    ('data', 'message'),
    [
        (b'', r'is empty \(0 bytes\)'),
        (b'version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n', 'git lfs pull'),
        (b'<!DOCTYPE html><html></html>', 'a web page'),
        (b'hello, world\n' * 9, 'is damaged, or not a PyTorch'),
        (bytes(5000), 'is damaged, or not a PyTorch'),
        (pickle.dumps({'a': b'1'}, protocol=4), 'protocol 3 or newer'),
        (b'\x1f\x8b' + bytes(50), 'gunzip'),
        (b'\x89HDF\r\n\x1a\n', 'Keras'),
        (b'PK\x03\x04' + bytes(40), 'is a damaged zip'),
        (b'\x80', 'is damaged, or not a PyTorch'),
    ],
    ids=lambda value: repr(value[:9]) if isinstance(value, bytes) else None,
)
def test_files_that_are_no_checkpoint(data: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / 'net').write_bytes(data)
    refused(tmp_path / 'net', tmp_path / 'out', message)


def test_paths_that_are_no_file(tmp_path: Path) -> None:
    refused(tmp_path, tmp_path / 'net', 'is a directory')
    refused(tmp_path / 'none', tmp_path / 'net', 'cannot read .*No such file')
    os.mkfifo(tmp_path / 'pipe')
    refused(tmp_path / 'pipe', tmp_path / 'net', 'no regular file')


def test_a_file_that_grows_while_it_is_read(state: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / 'net.safetensors'
    source.write_bytes(save(state))

    def growing(path: Path, name: str) -> Any:
        with open(path, 'ab') as other:
            other.write(b'more')
        return path, name

    monkeypatch.setattr(read_module, 'unpack', growing)
    refused(source, tmp_path / 'net', 'changes while it is read')


@pytest.mark.parametrize('form', ['safetensors', 'zip', 'legacy'])
def test_truncated_anywhere(form: str, state: State, tmp_path: Path) -> None:
    source = tmp_path / 'net.bin'
    if form == 'safetensors':
        source.write_bytes(save(state))
    else:
        torch.save(state, source, _use_new_zipfile_serialization=form == 'zip')
    data = source.read_bytes()
    for size in (1, 7, 8, 9, 100, len(data) // 2, len(data) - 8, len(data) - 1):
        source.write_bytes(data[:size])
        refused(source, tmp_path / 'net')


def test_safetensors_headers_that_lie(state: State, tmp_path: Path) -> None:
    good = save(state)
    (length,) = struct.unpack('<Q', good[:8])
    header = json.loads(good[8 : 8 + length])

    def with_header(text: str) -> bytes:
        return struct.pack('<Q', len(text)) + text.encode() + good[8 + length :]

    entry = json.dumps(header['fc.bias'])
    twice = json.dumps(header)[:-1] + f', "fc.bias": {entry}}}'
    beyond = {**header, 'fc.bias': {**header['fc.bias'], 'data_offsets': [0, 1 << 40]}}
    cases = [
        (struct.pack('<Q', 1 << 60) + good[8:], 'is a damaged safetensors file .*header too large'),
        (struct.pack('<Q', len(good)) + good[8:], 'is a damaged safetensors file .*invalid header length'),
        (with_header(twice), "'fc.bias' twice"),
        (with_header(json.dumps(beyond)), 'is a damaged safetensors'),
        (good[:9] + b'x' + good[10:], 'is a damaged safetensors'),
    ]
    for data, message in cases:
        (tmp_path / 'net').write_bytes(data)
        refused(tmp_path / 'net', tmp_path / 'out', message)


def test_a_zip_that_claims_too_much(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / 'bomb.zip', 'w', zipfile.ZIP_DEFLATED) as archive:
        archive.writestr('net.pth', bytes(50 << 20))
    refused(tmp_path / 'bomb.zip', tmp_path / 'net', 'claims 52428800 bytes')
    for record in ('data.pkl', 'data/0'):  # in the place of what torch writes
        with zipfile.ZipFile(tmp_path / 'bomb.pth', 'w', zipfile.ZIP_DEFLATED) as archive:
            for name in ('data.pkl', 'data/0'):
                archive.writestr(f'archive/{name}', bytes(50 << 20 if name == record else 1))
        refused(tmp_path / 'bomb.pth', tmp_path / 'net', f'archive/{record} claims 52428800 bytes')
    with zipfile.ZipFile(tmp_path / 'two.zip', 'w') as archive:
        archive.writestr('a.pth', b'1')
        archive.writestr('b.pth', b'2')
    refused(tmp_path / 'two.zip', tmp_path / 'net', 'must hold one checkpoint')


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'fc.bias': torch.full((10,), float('nan'))}, r'fc\.bias has NaN'),
        ({'bn1.weight': torch.full((4,), float('inf'))}, r'bn1\.weight has infinite'),
        ({'bn1.running_var': torch.full((4,), -1.0)}, r'bn1\.running_var has negative'),
        ({'fc.weight': torch.zeros(1).expand(10, 12)}, r'fc\.weight has shape \(10, 12\) but fewer numbers'),
        ({'fc.weight': torch.zeros(10, 12).to_sparse()}, r'fc\.weight is a torch\.sparse'),
        ({'fc.weight': torch.zeros(10, 12, dtype=torch.float8_e4m3fn)}, r'float8'),
        ({'fc.weight': torch.zeros(10, 12, device='meta')}, r'fc\.weight has no data'),
        ({'wei\nrd\x1b[31m': torch.zeros(3)}, 'no place in any network'),
        ({'x' * 5000: torch.zeros(3)}, 'no place in any network'),
    ],
    ids=lambda value: None if isinstance(value, str) else next(iter(value))[:20],
)
@pytest.mark.filterwarnings('ignore')
def test_tensors_that_are_no_weights(change: State, message: str, state: State, tmp_path: Path) -> None:
    torch.save({**state, **change}, tmp_path / 'net.pth')
    refused(tmp_path / 'net.pth', tmp_path / 'out', message)


@pytest.mark.filterwarnings('ignore:torch.quantize_per_tensor')
def test_quantised_tensors(state: State, tmp_path: Path) -> None:
    quantised = torch.quantize_per_tensor(torch.zeros(10, 12), 0.1, 0, torch.qint8)
    torch.save({**state, 'fc.weight': quantised}, tmp_path / 'net.pth')
    refused(tmp_path / 'net.pth', tmp_path / 'out', r'fc\.weight is a quantised tensor')


def test_a_container_that_holds_itself(state: State, tmp_path: Path) -> None:
    loop: dict[str, Any] = {'model': state}
    loop['again'] = [loop, {'loop': loop}]
    torch.save(loop, tmp_path / 'net.pth')
    assert recognise(read(tmp_path / 'net.pth').tree).network.layers == (1, 1, 1)


# ------------------------------------------------------------------------------------------------------ the output


def test_an_interruption_leaves_nothing_and_keeps_what_was_there(
    state: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / 'net.safetensors').write_bytes(save(state))
    convert_checkpoint(tmp_path / 'net.safetensors', tmp_path / 'out', dataset='cifar10')
    before = {path.name: path.read_bytes() for path in (tmp_path / 'out').iterdir()}
    assert set(before) == {'model.safetensors', 'config.json', 'README.md'}

    def interrupted(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(folder_module.json, 'dumps', interrupted)
    for name in ('out', 'other'):
        with pytest.raises(KeyboardInterrupt):
            convert_checkpoint(tmp_path / 'net.safetensors', tmp_path / name, dataset='cifar10', force=True)
    assert {path.name: path.read_bytes() for path in (tmp_path / 'out').iterdir()} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ['net.safetensors', 'out']


def test_force_replaces_a_model_folder_and_nothing_else(state: State, tmp_path: Path) -> None:
    (tmp_path / 'net.safetensors').write_bytes(save(state))
    (tmp_path / 'home').mkdir()
    (tmp_path / 'home' / 'thesis.tex').write_text('years of work')
    with pytest.raises(InputError, match='exists already'):
        convert_checkpoint(tmp_path / 'net.safetensors', tmp_path / 'home', dataset='cifar10')
    with pytest.raises(InputError, match='never replaced'):
        convert_checkpoint(tmp_path / 'net.safetensors', tmp_path / 'home', dataset='cifar10', force=True)
    assert (tmp_path / 'home' / 'thesis.tex').read_text() == 'years of work'


# ------------------------------------------------------------------------------------------------ any mutation


SOURCES: dict[str, Callable[[], nn.Module]] = {
    'V1 B': lambda: tiny(),
    'V1 A': lambda: tiny(shortcut_type='A'),
    'V2 B': lambda: tiny(PreActResNet),
    'V2 A': lambda: tiny(PreActResNet, shortcut_type='A', final_norm=False),
}


def change_digit(state: State, key: str, other: str) -> None:
    digits = [match.start() for match in re.finditer(r'\d', key)]
    if digits:
        place = digits[len(other) % len(digits)]
        state[key[:place] + str((int(key[place]) + 1) % 4) + key[place + 1 :]] = state.pop(key)


def misspell(state: State, key: str, other: str) -> None:
    place = len(other) % len(key)
    state[key[:place] + 'q' + key[place + 1 :]] = state.pop(key)


def add_bias(state: State, key: str, other: str) -> None:
    owner = key.rpartition('.')[0]
    if f'{owner}.weight' in state:
        state[f'{owner}.bias'] = torch.ones(state[f'{owner}.weight'].shape[:1])


def on_value(change: Callable[[Tensor], Any]) -> Mutation:
    return lambda state, key, other: state.update({key: change(state[key])})


MUTATIONS: dict[str, Mutation] = {
    'drop': lambda s, key, other: s.__delitem__(key),
    'swap': lambda s, key, other: s.update({key: s[other], other: s[key]}),
    'copy': lambda s, key, other: s.update({key: s[other]}),
    'change a digit': change_digit,
    'misspell': misspell,
    'wrap': lambda s, key, other: s.update({f'module.{key}': s.pop(key)}),
    'add': lambda s, key, other: s.update({f'{key.rpartition(".")[0]}.bias2': torch.ones(4)}),
    'add a bias': add_bias,
    'nest': lambda s, key, other: s.update({key: {key: s[key]}}),  # type: ignore[dict-item]
    'flatten': on_value(Tensor.flatten),
    'narrow': on_value(lambda t: t[:-1] if t.ndim else torch.ones(1)),
    'transpose': on_value(lambda t: t.transpose(0, -1).contiguous() if t.ndim else t),
    'widen': on_value(lambda t: torch.cat([t, t]) if t.ndim else t),
    'half': on_value(Tensor.half),
    'double': on_value(Tensor.double),
    'integer': on_value(Tensor.int),
    'infinite': on_value(lambda t: torch.full_like(t, float('inf')) if t.is_floating_point() else t),
}
HEADERS = ['safetensors', 'zip', 'legacy']
#: RESNET_HUB_MUTATIONS=10000 takes an hour; the default a minute
MUTATED = int(os.environ.get('RESNET_HUB_MUTATIONS', '300'))
QUICK = settings(deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))


def outcome(path: Path) -> nn.Module | str:
    """The network that we read, or the line that refuses the file."""
    try:
        found = recognise(read(path).tree)
    except InputError as error:
        assert '\n' not in str(error)
        return str(error)
    network = found.network.build()
    network.load_state_dict(found.state_dict)
    return network.eval()


def tolerated(key: str, tensor: Tensor, source: nn.Module) -> str:
    """What vocabulary covers, undone: a wrapper, capitals, the names of stages, stem, projections, and a norm's number."""
    key = re.sub(r'^[a-z_]*(\d\.\d\.)', r'layer\1', key.lower().removeprefix('module.'))
    block = re.match(r'layer\d\.\d\.', key)
    if tensor.ndim == 4 and key.endswith('.weight') and not block:
        return 'fc.weight' if tensor.shape[2:] == (1, 1) else 'conv1.weight'
    if tensor.ndim == 4 and key.endswith('.weight') and block and not re.match(r'conv\d', key[block.end() :]):
        return f'{block[0]}downsample.0.weight'
    head = 'norm' if isinstance(source, PreActResNet) else 'bn1'
    return re.sub(r'^(?:bn|norm)\d?\.(?=\w+$)', f'{head}.', re.sub(r'^fc\d\.', 'fc.', key))


def assert_same_function_or_refused(path: Path, source: nn.Module) -> bool:
    """Whether we read the file; if so, our network must compute what its source does with the same file."""
    network = outcome(path)
    if isinstance(network, str):
        return False
    content = read(path).tree
    if not any(isinstance(value, Tensor) for value in content.values()):  # in a container, whose name may be mutated
        (content,) = content.values()
    content = {key: tensor for key, tensor in content.items() if isinstance(tensor, Tensor)}
    strict = {tolerated(key, tensor, source): tensor for key, tensor in content.items()}
    assert len(strict) == len(content)
    for name, module in source.named_modules():
        if isinstance(module, nn.Conv2d) and f'{name}.bias' in strict:  # its owner's convolution has one
            module.bias = nn.Parameter(torch.zeros(module.out_channels))
    if network.in_chans != 3:  # its owner's network has as many
        source.conv1 = nn.Conv2d(network.in_chans, source.conv1.out_channels, 3, padding=1, bias='conv1.bias' in strict)
    source.fc = nn.Linear(source.num_features, network.num_classes)
    source.load_state_dict(strict, strict=True)
    x = torch.randn(2, network.in_chans, 16, 16, generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        torch.testing.assert_close(network(x), source.eval()(x), rtol=1e-4, atol=1e-4)
    return True


@settings(QUICK, max_examples=MUTATED)
@given(
    kind=st.sampled_from(list(SOURCES)),
    mutations=st.lists(st.tuples(st.sampled_from(list(MUTATIONS)), st.randoms(use_true_random=False)), max_size=3),
    contained=st.booleans(),
)
def test_mutated_tensors_are_refused_or_read_as_the_source_would(
    kind: str,
    mutations: list[tuple[str, random.Random]],
    contained: bool,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    source = SOURCES[kind]()
    state = dict(source.state_dict())
    for mutation, choice in mutations:
        keys = [key for key, tensor in state.items() if isinstance(tensor, Tensor)]
        MUTATIONS[mutation](state, choice.choice(keys), choice.choice(keys))
    path = tmp_path_factory.getbasetemp() / 'mutated.pth'
    torch.save({'state_dict': state} if contained else state, path)
    read_it = assert_same_function_or_refused(path, source)
    assert read_it or mutations, 'an unchanged file is read'


@settings(QUICK, max_examples=MUTATED)
@given(
    form=st.sampled_from(HEADERS),
    kind=st.sampled_from(list(SOURCES)),
    places=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 7)), min_size=1, max_size=3),
)
def test_flipped_bits_of_headers_are_refused_or_read_as_the_source_would(
    form: str, kind: str, places: list[tuple[float, int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    source = SOURCES[kind]()
    data = bytearray(file_of(form, kind))
    header = _header(form, data)
    for place, bit in places:
        data[header[int(place * len(header))]] ^= 1 << bit
    path = tmp_path_factory.getbasetemp() / 'flipped.bin'
    path.write_bytes(data)
    assert_same_function_or_refused(path, source)


@pytest.mark.parametrize(
    ('field', 'bit'), [(10, 8), (24, 8), (42, 8), (38, 16)], ids=['packing', 'size', 'place', 'folder']
)
def test_a_zip_whose_directory_lies_about_a_record(field: int, bit: int, tmp_path: Path) -> None:
    """torch itself believes the directory, and would read other bytes, or none."""
    data = bytearray(file_of('zip', 'V2 B'))
    with zipfile.ZipFile(io.BytesIO(bytes(data))) as archive:
        record = next(item for item in archive.infolist() if item.filename.endswith('/data/5'))
    entry = bytes(data).rindex(b'PK\x01\x02', 0, bytes(data).rindex(record.filename.encode()))
    data[entry + field] ^= bit
    (tmp_path / 'net.pth').write_bytes(data)
    assert isinstance(outcome(tmp_path / 'net.pth'), str)


def file_of(form: str, kind: str) -> bytes:
    state = dict(SOURCES[kind]().state_dict())
    if form == 'safetensors':
        return save(state)
    buffer = io.BytesIO()
    torch.save({'state_dict': state}, buffer, _use_new_zipfile_serialization=form == 'zip')
    return buffer.getvalue()


def _header(form: str, data: bytes | bytearray) -> list[int]:
    """The bytes that are not numbers of tensors: safetensors' header, the pickle, the zip's directory."""
    if form == 'safetensors':
        return list(range(8 + struct.unpack('<Q', data[:8])[0]))
    if form == 'legacy':
        return list(range(bytes(data).index(b'fc.bias') + 300))
    with zipfile.ZipFile(io.BytesIO(bytes(data))) as archive:
        pickled = archive.getinfo('archive/data.pkl')
        first = archive.infolist()[1].header_offset
        return [*range(pickled.header_offset, first), *range(archive.start_dir, len(data))]
