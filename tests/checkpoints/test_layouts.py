"""Which network a state dict is: every spelling of every architecture, mixed spellings, and what must be refused."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping
from functools import cache

import pytest
import torch
from torch import Tensor, nn

from resnet_hub.checkpoints.layouts import LAYOUTS, cannot_hold, spell, to_layout
from resnet_hub.checkpoints.network import FAMILIES, Network
from resnet_hub.checkpoints.recognise import recognise
from resnet_hub.models import CifarResNet, PreActResNet, network_class
from resnet_hub.tables.architectures import ARCHITECTURES
from resnet_hub.utils.errors import InputError
from tests.oracles import Net, forward, randomise

State = dict[str, Tensor]
V1_FAMILY, V2_FAMILY = FAMILIES


@cache
def shapes(name: str, shortcut_type: str = 'B', num_classes: int = 10, in_chans: int = 3) -> State:
    """The state dict of an architecture without memory: recognition needs no more."""
    cls, row = network_class(name), ARCHITECTURES[name]
    args = {'shortcut_type': shortcut_type, 'num_classes': num_classes, 'in_chans': in_chans}
    return cls(**row.model_args(), **args, device='meta').state_dict()


def shuffled(state_dict: Mapping[str, Tensor], seed: int = 0) -> State:
    keys = list(state_dict)
    random.Random(seed).shuffle(keys)
    return {key: state_dict[key] for key in keys}


def rename(state: State, layout: str) -> State:
    """A state dict as a layout spells it, whether or not the layout could hold the network."""
    result = {spell(LAYOUTS[layout], key): tensor for key, tensor in state.items()}
    assert len(result) == len(state)
    return result


def pairs() -> list[tuple[str, str, str]]:
    result = []
    for title, layout in LAYOUTS.items():
        for name, row in ARCHITECTURES.items():
            for shortcut_type in 'AB':
                final_norm = row.family.norm_first and row.model_args().get('final_norm', True)
                stem = row.args.get('stem_width', row.widths[0])
                network = Network(row.family, row.block, row.layers, row.widths, stem, 10, 3, shortcut_type, final_norm)
                if not cannot_hold(layout, network):
                    result.append((title, name, shortcut_type))
    return result


def test_there_are_as_many_pairs_as_the_tables_promise() -> None:
    counted = {title: sum(pair[0] == title for pair in pairs()) for title in LAYOUTS}
    assert counted['native'] == 2 * len(ARCHITECTURES)
    assert counted['xternalz'] == 17 and counted['weiaicunzai'] == 5 and min(counted.values()) > 0


@pytest.mark.parametrize('title', LAYOUTS)
def test_every_architecture_comes_back_from_every_layout_that_spells_it(title: str) -> None:
    for layout, name, shortcut_type in pairs():
        if layout != title:
            continue
        row = ARCHITECTURES[name]
        state = shapes(name, shortcut_type)
        written = rename(state, layout)
        found = recognise({'state_dict': shuffled(written)})
        args = {} if shortcut_type == 'B' else {'shortcut_type': 'A'}
        assert found.network.architecture() == (name, args)
        assert found.network.layers == row.layers and not found.dropped
        assert list(found.state_dict) == list(state)
        assert found.sources == {key: spell(LAYOUTS[layout], key) for key in state}


def test_the_way_to_a_layout_and_back_keeps_every_bit() -> None:
    state = randomise(CifarResNet('bottleneck', (1, 2, 1, 1), (4, 8, 16, 32))).state_dict()
    network = recognise(state).network
    for layout in ('native', 'kuangliu', 'article', 'weiaicunzai', 'osmr'):
        back = recognise(shuffled(to_layout(state, network, layout)))
        assert back.network == network
        assert list(back.state_dict) == list(state)
        assert all(torch.equal(back.state_dict[key], state[key]) for key in state)
    with pytest.raises(InputError, match=r'layout xternalz cannot hold this network.*use one of native, kuangliu'):
        to_layout(state, network, 'xternalz')
    with pytest.raises(InputError, match='unknown layout'):
        to_layout(state, network, 'nobody')


# ------------------------------------------------------------------------------- what no architecture of ours has


@pytest.mark.parametrize(
    'network',
    [
        Network(V1_FAMILY, 'basic', (4, 4, 4), (16, 32, 64), 16, 100, 1),
        Network(V1_FAMILY, 'basic', (1, 2, 3), (10, 20, 40), 12, 7, 3),
        Network(V1_FAMILY, 'bottleneck', (2, 2, 2, 2), (64, 128, 256, 512), 64, 10, 3, 'A'),
        Network(V1_FAMILY, 'bottleneck', (3, 3, 3), (16, 32, 64), 16, 10, 3),
        Network(V2_FAMILY, 'basic', (2, 2, 2, 2), (64, 128, 256, 512), 64, 10, 3, 'B', True),
        Network(V2_FAMILY, 'basic', (1, 1, 1), (48, 96, 192), 16, 200, 4, 'B', False),
        Network(V2_FAMILY, 'bottleneck', (3, 4, 6, 3), (32, 64, 128, 256), 64, 10, 3, 'A', True),
    ],
    ids=repr,
)
def test_other_depths_and_widths_are_said_in_the_arguments(network: Network) -> None:
    state = network.build(device='meta').state_dict()
    found = recognise(shuffled(state)).network
    assert found == network
    name, args = found.architecture()
    cls, row = network_class(name), ARCHITECTURES[name]
    heads = {'num_classes': network.num_classes, 'in_chans': network.in_chans}
    again = cls(**{**row.model_args(), **args}, **heads, device='meta').state_dict()
    assert {k: v.shape for k, v in again.items()} == {k: v.shape for k, v in state.items()}


def test_a_table_row_needs_no_arguments_and_the_nearest_one_carries_the_rest() -> None:
    assert Network(V2_FAMILY, 'basic', (4, 4, 4), (32, 64, 128), 16, 100, 3, 'B', True).architecture() == (
        'wide_resnet28_2',
        {},
    )
    name, args = Network(V1_FAMILY, 'basic', (4, 4, 4), (16, 32, 64), 16, 10, 3).architecture()
    assert name.startswith('cifar_resnet') and args == {'layers': (4, 4, 4)}


# --------------------------------------------------------------------------------------- containers and wrappers


@pytest.mark.parametrize('prefix', ['', 'module.', 'model.', 'module.module.', '_orig_mod.module.encoder.', 'student.'])
@pytest.mark.parametrize(
    'wrap',
    [
        lambda state: state,
        lambda state: {'net': state, 'acc': 93.1, 'epoch': 7},
        lambda state: {'a': {'b': {'state': state}}, 'optimizer': {'state': {}, 'param_groups': []}},
        lambda state: [state, 3],
    ],
    ids=['bare', 'net', 'nested', 'list'],
)
def test_containers_and_wrappers_come_off(prefix: str, wrap: Callable[[State], object]) -> None:
    state = rename(shapes('cifar_resnet8'), 'kuangliu')
    found = recognise(wrap({prefix + key: tensor for key, tensor in state.items()}))
    assert found.network.architecture() == ('cifar_resnet8', {})


def test_a_head_outside_of_the_backbone() -> None:
    state = {('' if key.startswith('fc') else 'backbone.') + key: t for key, t in shapes('cifar_resnet8').items()}
    assert recognise({'model.' + key: t for key, t in state.items()}).network.architecture()[0] == 'cifar_resnet8'


def test_a_second_name_of_the_same_tensors_is_no_second_network() -> None:
    """As in MadryLab/robustness, whose attacker holds the model too."""
    state, constants = CifarResNet('basic', (1, 1, 1), (4, 8, 16)).state_dict(), torch.full((3, 1, 1), 0.5)
    names = ('module.model', 'module.attacker.model')
    tree = {f'{name}.{key}': tensor for name in names for key, tensor in state.items()}
    tree |= {f'module.{name}.new_{what}': constants for name in ('n', 'attacker.n') for what in ('mean', 'std')}
    found = recognise({'model': tree})
    assert found.mean == (0.5, 0.5, 0.5) and len(found.dropped) == len(state)
    with pytest.raises(InputError, match='2 networks'):
        recognise({key: tensor.clone() for key, tensor in tree.items()})


def test_a_second_name_of_the_classifier_is_dropped() -> None:
    """As in mammoth, whose classifier has two names."""
    state = CifarResNet('basic', (1, 1, 1), (4, 8, 16)).state_dict()
    tree = {**state, **{f'classifier.{key[3:]}': tensor for key, tensor in state.items() if key.startswith('fc.')}}
    assert recognise(tree).dropped == dict.fromkeys(
        ['classifier.weight', 'classifier.bias'], 'a second name of another tensor'
    )
    with pytest.raises(InputError, match=r'fc\.weight and classifier\.weight take the same place'):
        recognise({key: tensor.clone() for key, tensor in tree.items()})


def test_szagoruykos_convolutions_have_no_weight_in_their_names() -> None:
    state = respell(
        shapes('wide_resnet16_2'),
        (r'layer(\d)\.(\d)', lambda m: f'group{int(m[1]) - 1}.block{m[2]}'),
        (r'(conv|bn)(\d)', lambda m: f'{m[1]}{int(m[2]) - 1}'),
        (r'downsample\.0', 'convdim'),
        (r'^norm', 'bn'),
        (r'(conv.*)\.weight', r'\1'),
    )
    assert recognise(state).network.architecture() == ('wide_resnet16_2', {})


def test_an_optimiser_that_remembers_tensors_is_no_network() -> None:
    momentum = {number: {'momentum_buffer': tensor} for number, tensor in enumerate(shapes('cifar_resnet8').values())}
    tree = {'model': shapes('cifar_resnet14'), 'optimizer': {'state': momentum, 'param_groups': [{'lr': 0.1}]}}
    assert recognise(tree).network.architecture()[0] == 'cifar_resnet14'


def test_of_several_networks_one_must_be_named() -> None:
    tree = {
        'state_dict': shapes('cifar_resnet8'),
        'ema': {'module.' + k: v for k, v in shapes('cifar_resnet14').items()},
    }
    with pytest.raises(InputError, match=r"2 networks, 'state_dict', 'ema.module': choose one with --key"):
        recognise(tree)
    assert recognise(tree, 'ema').network.architecture()[0] == 'cifar_resnet14'
    assert recognise(tree, 'state_dict').network.architecture()[0] == 'cifar_resnet8'
    with pytest.raises(InputError, match="no network 'net' in the file; give one of"):
        recognise(tree, 'net')
    side_by_side = {f'{name}.{k}': v for name in ('teacher', 'student') for k, v in shapes('cifar_resnet8').items()}
    with pytest.raises(InputError, match="'student', 'teacher'"):
        recognise(side_by_side)
    assert recognise(side_by_side, 'student').network.architecture()[0] == 'cifar_resnet8'


# ---------------------------------------------------------------------------------------------- mixed spellings


#: pattern, replacement, and what to add to the number in the pattern, if the replacement has a place for it
Rule = tuple[str, str] | tuple[str, str, int] | tuple[str, Callable[[re.Match[str]], str]]


def respell(state: State, *rules: Rule) -> State:
    """Keys rewritten by rules, each tensor once."""
    result = {}
    for key, tensor in state.items():
        for pattern, replacement, *offset in rules:
            number = (lambda m, r=replacement, o=offset[0]: r.format(int(m[1]) + o)) if offset else replacement
            key = re.sub(pattern, number, key)
        result[key] = tensor
    assert len(result) == len(state)
    return result


def in_list(template: str, first: int = 0) -> Rule:
    """The rule for blocks of three stages of three in one list."""
    return r'layer(\d)\.(\d)', lambda m: template.format(3 * int(m[1]) - 3 + int(m[2]) + first)


STAGE, BLOCK = r'layer(\d)', r'layer(\d)\.(\d)'
SPELLINGS: dict[str, list[Rule]] = {
    'shortcut and fc': [(r'downsample', 'shortcut')],
    'underscores': [(STAGE, r'stage_\1'), (r'(conv|bn)(\d)', r'\1_\2')],
    'another stem': [(r'^conv1', 'conv_1_3x3'), (r'^bn1', 'bn_1'), (r'^fc', 'classifier')],
    'stem as a sequence': [(r'^conv1', 'stem.0'), (r'^bn1', 'stem.1'), (r'^fc', 'head.fc')],
    'stem as a layer': [(r'^conv1', 'layer0.0'), (r'^bn1', 'layer0.1')],
    'stages in a list': [(STAGE, 'layers.{}', -1)],
    'stem as the first layer': [(STAGE, 'layer{}', 1), (r'^conv1', 'layer1.0'), (r'^bn1', 'layer1.1')],
    'from res2': [(STAGE, 'res{}', 1), (r'^conv1', 'stem.conv1'), (r'^bn1', 'stem.bn1')],
    'from conv2_0': [(r'layer(\d)\.(\d)', lambda m: f'conv{int(m[1]) + 1}_{m[2]}')],
    'a list with an identity': [(r'^conv1', 'layers.0'), (r'^bn1', 'layers.1'), (STAGE, 'layers.{}', 3)],
    'one list of everything': [(r'^conv1', 'layers.0'), (r'^bn1', 'layers.1'), (STAGE, 'layers.{}', 2)],
    'children of a network': [(r'^conv1', 'f.0'), (r'^bn1', 'f.1'), (STAGE, 'f.{}', 3), (r'^fc', '1')],
    'stages of blocks': [(r'layer(\d)\.', 'stages.{}.blocks.', -1)],
    'one list of blocks': [in_list('blocks.{}')],
    'numbered blocks': [in_list('block{}', 1)],
    'double numbers': [(BLOCK, r'layer\1_\2')],
    'sequences': [
        (r'(?<=\d\.)(conv|bn)(\d)', lambda m: f'left.{3 * int(m[2]) - 3 + (m[1] == "bn")}'),
        (r'downsample', 'shortcut'),
    ],
    'from zero': [(r'conv([12])', 'conv{}', -1), (r'bn([12])', 'bn{}', -1)],
    'letters': [(r'(?<=\d\.)(conv|bn)(\d)', lambda m: f'{m[1]}_{"ab"[int(m[2]) - 1]}')],
    'capitals': [(r'layer', 'Layer'), (r'conv', 'Conv'), (r'bn', 'BN'), (r'^fc', 'FC')],
    'norm': [(r'bn', 'norm')],
    'projection by name': [(r'downsample\.0', 'shortcut_conv'), (r'downsample\.1', 'shortcut_bn')],
    'skip': [(r'downsample\.0', 'skip.conv'), (r'downsample\.1', 'skip.norm')],
    'any name of a projection': [(r'downsample', 'match_dim')],
    'any names of a projection': [(r'downsample\.0', 'w_s'), (r'downsample\.1', 'after')],
    'any name of a stage': [(STAGE, r'ResidualGroup\1')],
    'any name outside of the blocks': [(r'^conv1', 'proj'), (r'^bn1', 'after'), (r'^fc', 'readout.probe')],
    'private': [
        (r'(^|\.)([a-z])', r'\1_\2'),
        (r'_(weight|bias|running|num)', r'\1'),
        (r'_layer(\d)', '_layers.{}', -1),
    ],
    'short': [(r'conv', 'c'), (r'bn', 'b')],
    'long': [(r'conv', 'conv2d_'), (r'bn', 'batchnorm2d_')],
    'lists': [(r'(?<=\d\.)(conv|bn)(\d)', lambda m: f'{m[1]}s.{int(m[2]) - 1}')],
    'sequences with dropout': [(r'(?<=\d\.)(conv|bn)(\d)', lambda m: f'net.{4 * int(m[2]) - 4 + (m[1] == "bn")}')],
}
#: of a network with norms first
V2_SPELLINGS: dict[str, list[Rule]] = {
    'any name of a projection': [(r'downsample\.0', 'match_dim')],
    'final norm': [(r'^norm', 'lastact.0')],
    'sequences': [(r'(?<=\d\.)(conv|bn)(\d)', lambda m: f'residual.{3 * int(m[2]) - 3 + 2 * (m[1] == "conv")}')],
    'sequences with dropout': [
        (r'(?<=\d\.)(conv|bn)(\d)', lambda m: f'body.{3 * int(m[2]) - 3 + (m[1] == "conv") * (1 + int(m[2]))}')
    ],
    'sequences with a norm before': [
        (r'(\.\d\.)bn1', r'\1norm_act.0_norm'),
        (r'(\.\d\.)conv1', r'\1block.0_conv'),
        (r'(\.\d\.)bn2', r'\1block.1_norm'),
        (r'(\.\d\.)conv2', r'\1block.4_conv'),
        (STAGE, r'f.\1_block.block'),
        (r'^conv1', 'f.0_convolution'),
        (r'^norm', 'f.4_normalization'),
        (r'^fc', 'f.8_classification'),
    ],
}


@pytest.mark.parametrize(
    ('name', 'rules'),
    [
        *(('cifar_resnet20', rules) for rules in SPELLINGS.values()),
        *(('preact_resnet20', r) for r in V2_SPELLINGS.values()),
    ],
    ids=[*SPELLINGS, *(f'norms first, {spelling}' for spelling in V2_SPELLINGS)],
)
def test_spellings_may_mix(name: str, rules: list[Rule]) -> None:
    state = shapes(name, num_classes=100)
    found = recognise(shuffled(respell(state, *rules)))
    assert found.network == recognise(state).network
    respelled = respell({key: key for key in state}, *rules)
    assert {ours: respelled[theirs] for ours, theirs in found.sources.items()} == {key: key for key in state}
    assert found.layout.startswith('mixed') or found.layout in LAYOUTS


#: modules as the authors' code has them, of a network of one block a stage
AUTHORS = {
    ('xternalz', PreActResNet): """
        conv1 bn1 fc
        block1.layer.0.bn1 block1.layer.0.conv1 block1.layer.0.bn2 block1.layer.0.conv2
        block2.layer.0.bn1 block2.layer.0.conv1 block2.layer.0.bn2 block2.layer.0.conv2 block2.layer.0.convShortcut
        block3.layer.0.bn1 block3.layer.0.conv1 block3.layer.0.bn2 block3.layer.0.conv2 block3.layer.0.convShortcut
    """,
    ('kuangliu_norm', PreActResNet): """
        conv1 bn linear
        layer1.0.bn1 layer1.0.conv1 layer1.0.bn2 layer1.0.conv2
        layer2.0.bn1 layer2.0.conv1 layer2.0.bn2 layer2.0.conv2 layer2.0.shortcut.0
        layer3.0.bn1 layer3.0.conv1 layer3.0.bn2 layer3.0.conv2 layer3.0.shortcut.0
    """,
    ('weiaicunzai', CifarResNet): """
        conv1.0 conv1.1 fc
        conv2_x.0.residual_function.0 conv2_x.0.residual_function.1
        conv2_x.0.residual_function.3 conv2_x.0.residual_function.4
        conv3_x.0.residual_function.0 conv3_x.0.residual_function.1
        conv3_x.0.residual_function.3 conv3_x.0.residual_function.4 conv3_x.0.shortcut.0 conv3_x.0.shortcut.1
        conv4_x.0.residual_function.0 conv4_x.0.residual_function.1
        conv4_x.0.residual_function.3 conv4_x.0.residual_function.4 conv4_x.0.shortcut.0 conv4_x.0.shortcut.1
    """,
}


@pytest.mark.parametrize(('layout', 'cls'), AUTHORS)
def test_keys_are_the_authors(layout: str, cls: type) -> None:
    state = cls('basic', (1, 1, 1), (16, 32, 64), device='meta').state_dict()
    written = {key.rpartition('.')[0] for key in rename(state, layout)}
    assert written == set(AUTHORS[layout, cls].split())


# ----------------------------------------------------------------------------------------------- what is refused


def meta(*shape: int) -> Tensor:
    return torch.empty(shape, device='meta')


def norm(name: str, width: int) -> State:
    return {f'{name}.{part}': meta(width) for part in ('weight', 'bias', 'running_mean', 'running_var')}


Change = Callable[[State], State]


def add(name: str, *shape: int) -> Change:
    return lambda state: {**state, name: meta(*shape)}


def linear(name: str, outputs: int, inputs: int) -> Change:
    return lambda state: {**state, f'{name}.weight': meta(outputs, inputs), f'{name}.bias': meta(outputs)}


def add_norm(name: str, width: int) -> Change:
    return lambda state: {**state, **norm(name, width)}


def drop(pattern: str) -> Change:
    return lambda state: {key: tensor for key, tensor in state.items() if not re.search(pattern, key)}


def spelled(*rules: Rule) -> Change:
    return lambda state: respell(state, *rules)


def in_each_block(name: str, *shape: int) -> Change:
    """Add a tensor to every block of a network of three stages of three; without a shape, one number for each channel."""
    blocks = [(stage, index) for stage in (1, 2, 3) for index in range(3)]
    return lambda state: {**state, **{f'layer{s}.{i}.{name}': meta(*(shape or [8 << s])) for s, i in blocks}}


def converted(name: str, dtype: torch.dtype) -> Change:
    return lambda state: {**state, name: state[name].to(dtype)}


V1, V2, WIDE = 'cifar_resnet20', 'preact_resnet20', 'cifar_resnet18'
BRANCH = r'(?<=\d\.)(conv|bn)(\d)'
#: what it is, the network that is changed, the changes one after the other, the message
OTHERS: list[tuple[str, str, list[Change], str]] = [
    ('7x7 stem', V1, [add('conv1.weight', 16, 3, 7, 7)], r'conv1\.weight .*ImageNet ResNet'),
    ('5x5 stem', V1, [add('conv1.weight', 16, 3, 5, 5)], r'conv1\.weight has shape \(16, 3, 5, 5\)'),
    ('deep stem', V1, [add('conv2.weight', 16, 16, 3, 3)], r'conv1\.weight and conv2\.weight'),
    ('no stem', V1, [drop('^conv1')], 'stem is missing'),
    ('no stem norm', V1, [drop('^bn1')], r'no tensor for bn1\.weight'),
    ('no classifier', V1, [drop('^fc')], 'classifier is missing'),
    ('no classifier bias', V1, [drop('fc.bias')], r'fc\.bias is missing'),
    ('two classifiers', V1, [linear('linear', 4, 64)], r'fc\.weight and linear\.weight'),
    ('other pooling', V1, [add('fc.weight', 10, 256)], r'fc\.weight has shape \(10, 256\), but \(10, 64\) .*pooling'),
    ('third convolution', V1, [in_each_block('conv3.weight', 16, 16, 1, 1)], r'\.conv3\.weight .* network of basic'),
    ('learnt slope', V1, [add('layer1.0.alpha1.alpha', 1)], r'layer1\.0\.alpha1\.alpha .*activation'),
    ('PReLU', V1, [add('layer1.0.act1.weight', 16)], r'layer1\.0\.act1\.weight .*activation'),
    ('adder', V1, [spelled((r'(layer.*conv\d)\.weight', r'\1.adder'))], r'layer1\.0\.conv1\.adder .*AdderNet'),
    ('quantiser', V1, [add('layer1.0.conv1.weight_scale', 1)], r'weight_scale .*quantised'),
    ('SE, linear', V1, [linear('layer1.0.se.fc1', 4, 16)], r'layer1\.0\.se\.fc1\.weight .*attention'),
    ('SE, convolution', V1, [add('layer1.0.se.conv1.weight', 4, 16, 1, 1)], r'layer1\.0\.se\.conv1'),
    ('group norm', V1, [drop('running|tracked')], r'bn1\.running_mean is missing.*group, layer or instance norm'),
    ('no mean', V1, [drop(r'layer2\.1\.bn1\.running_mean')], r'layer2\.1\.bn1\.running_mean is missing'),
    ('grouped', V1, [add('layer2.1.conv2.weight', 32, 4, 3, 3)], r'layer2\.1\.conv2.*ResNeXt'),
    ('pruned', V1, [add('layer2.1.conv1.weight', 20, 32, 3, 3)], r'layer2\.1\.'),
    ('missing block', V1, [drop(r'layer2\.1')], r'no tensor for layer2\.1\.conv1'),
    ('missing stage', V1, [drop('layer2')], r'no tensor for layer2\.0\.conv1'),
    ('absurd number', V1, [spelled((r'layer2\.1\.', 'layer2.123456789.'))], r'no tensor for layer2\.1\.conv1'),
    ('missing first block', V1, [drop(r'layer1\.0')], r'no tensor for layer1\.0\.conv1'),
    ('missing first blocks', V1, [drop(r'layer\d\.[01]')], 'the first block of a stage is missing'),
    (
        'missing start of a list',
        V1,
        [spelled(in_list('blocks.{}')), drop(r's\.[012]\.')],
        'block 1 is missing before 3',
    ),
    ('missing start of osmr', WIDE, [lambda s: rename(s, 'osmr'), drop('stage1')], 'stage 1 is missing before 2'),
    ('missing first stage', WIDE, [drop('layer1')], 'stage 1 is missing before 2'),
    ('two stages', V1, [drop('layer3')], '2 stages'),
    ('missing projection', V1, [drop(r'layer2\.0\.downsample')], r'no tensor for layer2\.0\.downsample\.0'),
    (
        'needless projection',
        V1,
        [add('layer1.0.downsample.0.weight', 16, 16, 1, 1), add_norm('layer1.0.downsample.1', 16)],
        r'layer1\.0\.downsample\.[01]\.weight .*no place',
    ),
    (
        'pooled projection',
        V1,
        [spelled((r'downsample\.(\d)', 'downsample.{}', 1))],
        r'sample\.2\.weight .*average pooling',
    ),
    ('projection without norm', V1, [drop(r'downsample\.1')], r'downsample\.1'),
    ('final norm of V1', V1, [add_norm('bn2', 64)], r'bn1\.weight and bn2\.weight take the same place'),
    ('stem norm of V2', V2, [drop('^norm'), add_norm('bn1', 16)], r'bn1\.weight has shape \(16,\)'),
    ('both norms of V2', V2, [add_norm('bn1', 16)], 'norm.weight and bn1.weight take the same place'),
    ('projection norm of V2', V2, [add_norm('layer2.0.downsample.1', 32)], r'layer2\.0\.downsample\.1'),
    ('bias in V2', V2, [in_each_block('conv2.bias')], r'conv2\.bias .*a bias that cannot be folded into a norm'),
    ('one bias', V1, [add('layer1.0.conv1.bias', 16)], r'conv1\.bias is missing, but layer1\.0\.conv1\.bias'),
    (
        'duplicate',
        V1,
        [add('layer1.0.conv_1.weight', 16, 16, 3, 3)],
        r'conv1\.weight and layer1\.0\.conv_1\.weight take',
    ),
    ('no module', V1, [spelled((r'^conv1\.', ''))], r'weight of shape .*no place in any network of ours'),
    ('unknown tensor', V1, [add('temperature')], 'temperature .*no place in any network of ours'),
    ('wrong numbers', V1, [spelled((r'layer1\.0\.conv1', 'layer1.0.conv3'))], r'no tensor for layer1\.0\.conv1'),
    (
        'ReLU before the sum',
        V1,
        [spelled((BRANCH, lambda m: f'conv{m[2]}.{m[1] == "bn":d}'))],
        r'layer1\.0\.conv1\.0\.weight shows .* a ReLU before the sum',
    ),
    (
        'one block with pooling',
        V1,
        [
            spelled(
                (BRANCH, lambda m: f'left.{3 * int(m[2]) - 3 + (m[1] == "bn")}'),
                (r'(layer2\.0\.left)\.([34])', lambda m: f'{m[1]}.{int(m[2]) + 1}'),
            )
        ],
        r'layer2\.0\.left\.4\.weight .*no place',
    ),
    (
        'norm before a projection',
        V2,
        [spelled((r'downsample\.0', 'skip.1')), add_norm('layer2.0.skip.0', 16)],
        r'layer2\.0\.skip\.1\.weight .*no place',
    ),
    ('gates', V1, [in_each_block('gate.weight', 16, 16, 1, 1)], r'layer\d\.0\.gate\.weight .*gates'),
    (
        'sequence without activation',
        V1,
        [spelled((BRANCH, lambda m: f'left.{2 * int(m[2]) - 2 + (m[1] == "bn")}'))],
        r'layer1\.0\.left\.2\.weight .*no place',
    ),
    ('chain', V1, [drop(''), linear('features.0', 64, 3)], 'VGG'),
    ('transformer', V1, [drop(''), add('blocks.0.attn.qkv.weight', 9, 3)], 'transformer'),
    ('of transformers', V1, [drop(''), add('embedder.convolution.weight', 9, 3, 7, 7)], "transformers' ResNet"),
    ('nothing', V1, [drop('')], 'no tensors in the file'),
    ('integers', V1, [converted('fc.weight', torch.int32)], r'fc\.weight is torch\.int32'),
    ('complex', V1, [converted('fc.weight', torch.complex64)], r'fc\.weight is torch\.complex64'),
    ('no width', V1, [linear('fc', 0, 64)], r'no channels'),
]


@pytest.mark.parametrize(('name', 'changes', 'message'), [row[1:] for row in OTHERS], ids=[row[0] for row in OTHERS])
def test_another_network_is_refused_by_a_tensor_of_it(name: str, changes: list[Change], message: str) -> None:
    state = shapes(name)
    for change in changes:
        state = change(state)
    with pytest.raises(InputError, match=message) as caught:
        recognise(state)
    assert '\n' not in str(caught.value) and len(str(caught.value)) < 500


def test_a_preactivation_network_with_stem_norm_is_refused() -> None:
    """weiaicunzai's: pre.0 (convolution, with a bias) pre.1 (norm), stage*, residual.{0,2,3,5}, biases."""
    state = {'pre.0.weight': meta(64, 3, 3, 3), 'pre.0.bias': meta(64), **norm('pre.1', 64)}
    for stage, width in enumerate((64, 128, 256, 512), start=1):
        for i in range(2):
            before = width // 2 if i == 0 and stage > 1 else width
            block = f'stage{stage}.{i}.residual'
            state |= {**norm(f'{block}.0', before), f'{block}.2.weight': meta(width, before, 3, 3)}
            state |= {**norm(f'{block}.3', width), f'{block}.5.weight': meta(width, width, 3, 3)}
            state |= {f'{block}.2.bias': meta(width), f'{block}.5.bias': meta(width)}
            if before != width:
                state[f'stage{stage}.{i}.shortcut.weight'] = meta(width, before, 1, 1)
    state |= {'linear.weight': meta(100, 512), 'linear.bias': meta(100)}
    with pytest.raises(InputError, match="weiaicunzai's pre-activation code"):
        recognise(state)


def test_what_profilers_and_pruners_leave_is_dropped_by_name() -> None:
    state = {
        'total_ops': meta(1),
        'layer1.0.total_params': meta(1),
        'n_averaged': meta(),
        'criterion.weight': meta(10),
        **shapes(V1),
    }
    found = recognise({'model': state})
    counters = {'total_ops', 'layer1.0.total_params', 'n_averaged', 'criterion.weight'}
    assert set(found.dropped) == {f'model.{name}' for name in counters}
    assert found.network == recognise(shapes(V1)).network


def test_the_stage_that_trades_declares_and_never_runs_is_dropped() -> None:
    state = rename(shapes('wide_resnet16_2'), 'xternalz')
    spare = {f'sub_block1{key[6:]}': tensor for key, tensor in state.items() if key.startswith('block1.')}
    found = recognise({f'module.{key}': tensor for key, tensor in (state | spare).items()})
    assert found.network.architecture() == ('wide_resnet16_2', {}) and len(found.dropped) == len(spare)


# --------------------------------------------------------------------------------------- the same function


def small(cls: type, **kwargs: object) -> nn.Module:
    return randomise(cls('basic', (1, 2, 1), (8, 16, 32), **kwargs)).double()


def test_biases_before_norms_are_folded_into_their_means() -> None:
    state = dict(small(CifarResNet).state_dict())
    x = torch.randn(2, 3, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    convs = [key for key, tensor in state.items() if tensor.ndim == 4]
    biases = {key: torch.linspace(-1, 1, state[key].shape[0], dtype=torch.float64) for key in convs}
    found = recognise({**state, **{key.replace('weight', 'bias'): bias for key, bias in biases.items()}})
    # the oracle knows no biases: let the norm after each convolution read x + b through its mean
    expected = dict(state)
    for key, bias in biases.items():
        mean = key.replace('conv', 'bn').replace('downsample.0', 'downsample.1').replace('weight', 'running_mean')
        expected[mean] = state[mean] - bias
    net = Net('v1', 'basic', (1, 2, 1))
    assert any('biases' in note for note in found.notes)
    error = (forward(net, found.state_dict, x) - forward(net, expected, x)).abs().max()
    assert error < 1e-9 * forward(net, expected, x).abs().max()
    model = nn.Conv2d(3, 8, 3, padding=1).double()
    model.load_state_dict({'weight': state['conv1.weight'], 'bias': biases['conv1.weight']})
    stem = nn.BatchNorm2d(8).double().eval()
    stem.load_state_dict({key[4:]: tensor for key, tensor in state.items() if key.startswith('bn1.')})
    bare = (model(x) - biases['conv1.weight'][:, None, None]) - found.state_dict['bn1.running_mean'][:, None, None]
    scale = state['bn1.weight'] / torch.sqrt(state['bn1.running_var'] + 1e-5)
    torch.testing.assert_close(stem(model(x)), bare * scale[:, None, None] + state['bn1.bias'][:, None, None])


def test_biases_within_a_preactivation_branch_are_folded_too() -> None:
    state = dict(small(PreActResNet).state_dict())
    biases = {
        k.replace('weight', 'bias'): torch.ones(len(v)).double()
        for k, v in state.items()
        if re.search(r'layer.*conv1.weight', k)
    }
    found = recognise({**state, **biases})
    assert torch.allclose(found.state_dict['layer2.1.bn2.running_mean'], state['layer2.1.bn2.running_mean'] - 1)
    assert torch.equal(found.state_dict['layer2.1.bn1.running_mean'], state['layer2.1.bn1.running_mean'])


def test_masks_of_torch_are_applied_and_others_must_change_nothing() -> None:
    state = dict(small(CifarResNet).state_dict())
    weight = state.pop('layer1.0.conv1.weight')
    mask = (weight > 0).double()
    found = recognise({**state, 'layer1.0.conv1.weight_orig': weight, 'layer1.0.conv1.weight_mask': mask})
    assert torch.equal(found.state_dict['layer1.0.conv1.weight'], weight * mask)
    kept = recognise({**state, 'layer1.0.conv1.weight': weight * mask, 'layer1.0.conv1.mask': mask})
    assert torch.equal(kept.state_dict['layer1.0.conv1.weight'], weight * mask)
    assert list(kept.dropped) == ['layer1.0.conv1.mask']
    with pytest.raises(InputError, match='masks weights that are not zero'):
        recognise({**state, 'layer1.0.conv1.weight': weight, 'layer1.0.conv1.mask': mask})
    with pytest.raises(InputError, match='must be a mask of zeros and ones'):
        recognise({**state, 'layer1.0.conv1.weight_orig': weight, 'layer1.0.conv1.weight_mask': mask * 0.5})


def test_a_classifier_written_as_a_convolution() -> None:
    state = dict(small(CifarResNet).state_dict())
    found = recognise({**state, 'fc.weight': state['fc.weight'][:, :, None, None]})
    assert torch.equal(found.state_dict['fc.weight'], state['fc.weight'])


def test_a_network_that_normalises_its_input_brings_the_constants() -> None:
    state = {f'1.{key}': tensor for key, tensor in shapes(V1).items()}
    mean, std = torch.tensor([0.49, 0.48, 0.45]), torch.tensor([0.25, 0.24, 0.26])
    found = recognise({**state, '0.mean': mean.view(1, 3, 1, 1), '0.std': std.view(1, 3, 1, 1)})
    assert found.mean == pytest.approx((0.49, 0.48, 0.45)) and found.std == pytest.approx((0.25, 0.24, 0.26))
    with pytest.raises(InputError, match=r'0\.mean'):
        recognise({**state, '0.mean': mean})
    with pytest.raises(InputError, match=r'not the mean and std of pixels from 0 to 1'):
        recognise({**state, '0.mean': 255 * mean, '0.std': 255 * std})
