"""Assumptions and their evidence: what the running statistics of BatchNorm show, and what they must not say."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resnet_hub.checkpoints.recognise import recognise
from resnet_hub.conversion.assumptions import Assumption, list_assumptions, refuse_contradicted
from resnet_hub.conversion.convert import convert_checkpoint
from resnet_hub.models import CifarResNet, PreActResNet, network_class
from resnet_hub.models.base import PadShortcut
from resnet_hub.tables.architectures import ARCHITECTURES
from resnet_hub.utils.errors import InputError
from tests.oracles import randomise

State = dict[str, Tensor]


def assumptions(state: State) -> dict[str, Assumption]:
    return {item.name: item for item in list_assumptions(recognise(state))}


def trained(model: nn.Module, change: Callable[[nn.Module], None] | None = None) -> State:
    """A network whose norms have seen images: their running statistics are those of its own features."""
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
            nn.init.uniform_(module.weight, 0.3, 1.2, generator=generator)
            nn.init.normal_(module.bias, 0, 0.3, generator=generator)
        if change:
            change(module)
    with torch.no_grad():
        model.train()(torch.randn(128, 3, 32, 32, generator=generator))
    return model.eval().state_dict()


def pad_at_end(module: nn.Module) -> None:
    if isinstance(module, PadShortcut):
        module.pad = (0, 0, 0, 0, 0, module.pad[4] + module.pad[5])


def no_shortcut(module: nn.Module) -> None:
    if hasattr(module, 'downsample'):
        module.downsample = nn.Module()
        module.downsample.forward = lambda x: 0  # type: ignore[method-assign]


def raw_projection(module: nn.Module) -> None:
    if hasattr(module, 'projects'):
        module.projects = False


def max_pooling(module: nn.Module) -> None:
    if isinstance(module, CifarResNet):
        module.act1 = nn.Sequential(module.act1, nn.MaxPool2d(3, 2, 1))


def dead_norm(module: nn.Module) -> None:
    if hasattr(module, 'projects') and not module.projects:
        module.conv1.weight.detach().zero_()


def no_sum_activation(module: nn.Module) -> None:
    if hasattr(module, 'downsample'):
        module.act2 = nn.Identity()


def activation_before_the_sum(module: nn.Module) -> None:
    if hasattr(module, 'downsample'):
        module.act2, module.drop_path = nn.Identity(), nn.ReLU()


class Leaky(nn.LeakyReLU):
    def __init__(self, inplace: bool = False) -> None:
        super().__init__(0.1, inplace)


A, DEEP = {'shortcut_type': 'A'}, 'preact_resnet164'
#: architecture, arguments, how its code differs, the assumption, its outcome, the evidence
CASES = [
    ('cifar_resnet20', A, None, 'option-a', 'shown', 'centre'),
    ('cifar_resnet20', A, pad_at_end, 'option-a', 'contradicted', 'padded at the end'),
    ('cifar_resnet20', A, no_shortcut, 'option-a', 'contradicted', 'a plain net'),
    ('cifar_resnet20', {}, None, 'bare-stem', 'shown', 'the bare stem'),
    ('cifar_resnet20', {}, max_pooling, 'bare-stem', 'contradicted', r'something \(max pooling\?\) stands between'),
    ('cifar_resnet20', {}, None, 'activated-sums', 'shown', 'activated'),
    ('cifar_resnet20', {}, no_sum_activation, 'activated-sums', 'contradicted', 'nothing follows the sums'),
    ('cifar_resnet20', {}, activation_before_the_sum, 'activated-sums', 'contradicted', 'end of the branches'),
    ('preact_resnet20', {}, dead_norm, 'activated-projections', 'shown', 'activated'),
    ('preact_resnet20', A, None, 'option-a', 'shown', 'centre'),
    ('preact_resnet20', A, pad_at_end, 'option-a', 'contradicted', 'padded at the end'),
    ('preact_resnet20', A, no_shortcut, 'option-a', 'contradicted', 'a plain net'),
    ('preact_resnet20', {}, None, 'activated-projections', 'shown', 'activated'),
    ('preact_resnet20', {}, raw_projection, 'activated-projections', 'contradicted', 'read the raw input'),
    ('wide_resnet16_2', {}, None, 'activated-projections', 'shown', 'activated'),
    ('wide_resnet16_2', {}, raw_projection, 'activated-projections', 'contradicted', 'read the raw input'),
    (DEEP, {}, None, 'activated-projections', 'shown', 'activated'),
    (DEEP, {}, raw_projection, 'activated-projections', 'contradicted', 'read the raw input'),
    (DEEP, {'act_layer': Leaky}, None, 'relu', 'contradicted', r'leaky ReLU \(0.1\), not ReLU'),
    ('wide_resnet16_2', {'act_layer': Leaky}, None, 'relu', 'contradicted', r'leaky ReLU \(0.1\), not ReLU'),
    ('cifar_resnet20', {'act_layer': Leaky}, None, 'relu', 'contradicted', r'leaky ReLU \(0.1\), not ReLU'),
    ('cifar_resnet20', {'act_layer': 'silu'}, None, 'relu', 'contradicted', 'not ReLU'),
    ('preact_resnet20', {'act_layer': 'silu'}, None, 'relu', 'contradicted', 'SiLU, not ReLU'),
    (DEEP, {}, None, 'relu', 'shown', 'ReLU'),
]


@pytest.mark.parametrize(('name', 'args', 'change', 'assumption', 'outcome', 'evidence'), CASES)
def test_what_keys_cannot_show_the_statistics_do(
    name: str,
    args: dict[str, object],
    change: Callable[[nn.Module], None] | None,
    assumption: str,
    outcome: str,
    evidence: str,
) -> None:
    cls, row = network_class(name), ARCHITECTURES[name]
    torch.manual_seed(0)
    layers = {'layers': (3, 3, 3)} if name == DEEP else {}
    found = recognise(trained(cls(**{**row.model_args(), **layers, **args}, zero_init_last=False), change))
    items = {item.name: item for item in list_assumptions(found)}
    assert items[assumption].outcome == outcome and re.search(evidence, items[assumption].evidence), items
    if outcome == 'contradicted':
        with pytest.raises(InputError, match=f'{evidence}.*--assume {assumption}'):
            refuse_contradicted([*items.values()])
        refuse_contradicted([*items.values()], assume=[item.name for item in items.values()])
    published = list_assumptions(found, 'cifar_resnet20.cifar10')
    assert {item.outcome for item in published} == {'shown'}, 'the code of published weights is known'


@pytest.mark.parametrize(
    ('name', 'args'),
    [
        ('preact_resnet20', {}),
        ('wide_resnet16_2', {}),
        ('cifar_resnet20', A),
        ('cifar_resnet20', {}),
        ('preact_resnet20', A),
    ],
)
def test_young_statistics_contradict_nothing(name: str, args: dict[str, object]) -> None:
    torch.manual_seed(0)
    model = timm.create_model(name, zero_init_last=False, **args)
    optimizer = torch.optim.SGD(model.parameters(), 0.02, momentum=0.9)
    for step in range(8):
        loss = F.cross_entropy(model.train()(torch.randn(16, 3, 32, 32)), torch.randint(0, 10, (16,)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step in (0, 1, 3, 7):
            assert 'contradicted' not in {item.outcome for item in assumptions(model.state_dict()).values()}, step


BATCH = {'conv': 'conv', 'bn': 'batchnorm'}


def test_names_show_code_that_is_known() -> None:
    deepmind = {
        re.sub(r'\.(conv|bn)(\d)', lambda m: f'.{BATCH[m[1]]}_{int(m[2]) - 1}', key): tensor
        for key, tensor in timm.create_model('wide_resnet16_2').state_dict().items()
    }
    ends = {
        re.sub(r'(conv|bn)(\d)', lambda m: f'{m[1]}_{"ab"[int(m[2]) - 1]}', key) if 'layer' in key else key: tensor
        for key, tensor in timm.create_model('cifar_resnet20', **A).state_dict().items()
    }
    assert 'padded only at the end' in assumptions(deepmind)['usual-layers'].evidence
    assert 'padded at the end of the channels: the names are' in assumptions(ends)['option-a'].evidence
    for state in (deepmind, ends):
        with pytest.raises(InputError, match='the names are those of'):
            refuse_contradicted([*assumptions(state).values()])


def test_weights_that_were_pruned_afterwards_contradict_nothing() -> None:
    torch.manual_seed(0)
    for args in ({}, A):
        state = trained(timm.create_model('cifar_resnet20', zero_init_last=False, **args))
        for key, tensor in state.items():
            if re.search(r'layer.*conv\d\.weight', key):
                tensor[::5] = 0
        assert 'contradicted' not in {item.outcome for item in assumptions(state).values()}


def test_random_and_new_statistics_show_nothing() -> None:
    for cls in (CifarResNet, PreActResNet):
        for shortcut_type in 'AB':
            narrow = [cls('basic', (1, 1, 1), (4, 8, 12), shortcut_type=shortcut_type) for _ in range(8)]
            wider = cls('basic', (1, 2, 1), (8, 16, 32), shortcut_type=shortcut_type)
            # the fewer numbers, the more easily they fit by chance
            for seed, model in enumerate((wider, *narrow)):
                items = assumptions(randomise(model, seed).state_dict())
                assert {item.outcome for item in items.values()} == {'unknown'}
            new = cls('basic', (1, 1, 1), (8, 16, 32), shortcut_type=shortcut_type)
            assert {item.outcome for item in assumptions(new.state_dict()).values()} == {'unknown'}


def test_assume_overrides_what_the_statistics_show(tmp_path: Path) -> None:
    torch.manual_seed(0)
    source, output = tmp_path / 'net.pth', tmp_path / 'out'
    torch.save(trained(timm.create_model('preact_resnet20', zero_init_last=False), raw_projection), source)
    with pytest.raises(InputError, match='projections read the raw input'):
        convert_checkpoint(source, output)
    with pytest.raises(InputError, match=r"unknown assumption 'raw'.*activated-projections"):
        convert_checkpoint(source, output, assume=['raw'])
    result = convert_checkpoint(source, output, assume=['activated-projections'])
    outcomes = {item.name: item.outcome for item in result.assumptions}
    assert outcomes['activated-projections'] == 'contradicted' and outcomes['relu'] == 'shown'
