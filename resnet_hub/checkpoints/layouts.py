"""The table of layouts: how well-known code bases spell the keys of a whole network. `convert --to` writes them.

Reading does not need a layout: see `vocabulary`. A new layout is one more row.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor

from resnet_hub.checkpoints.network import Network
from resnet_hub.utils.errors import InputError, did_you_mean


class Layout(NamedTuple):
    """How one code base spells a network, and which networks it can spell.

    In a spelling {s} numbers the stages from 1 and {t} from 2, {i} the blocks of a stage from 0 and {u} from 1.
    """

    block: str
    convs: tuple[str, str, str]
    norms: tuple[str, str, str]
    shortcut: tuple[str, ...]  #: convolution and norm (V1), or the convolution alone (V2)
    stem: tuple[str, ...]  #: convolution and norm (V1), or the convolution alone (V2)
    classifier: str
    final_norm: str = ''
    norm_first: tuple[bool, ...] = (False, True)  #: V1, V2
    stages: tuple[int, ...] = (3, 4)
    blocks: tuple[str, ...] = ('basic', 'bottleneck')
    shortcut_types: tuple[str, ...] = ('A', 'B')
    final_norms: tuple[bool, ...] = (False, True)
    wrapper: str = ''  #: before every key
    container: str = ''  #: the key under which the author's files hold the state dict


_CONVS, _NORMS = ('conv1', 'conv2', 'conv3'), ('bn1', 'bn2', 'bn3')
_V1, _V2 = (False,), (True,)
_KUANGLIU = Layout(
    # kuangliu/pytorch-cifar
    block='layer{s}.{i}',
    convs=_CONVS,
    norms=_NORMS,
    shortcut=('shortcut.0', 'shortcut.1'),
    stem=('conv1', 'bn1'),
    classifier='linear',
    final_norms=(False,),
    container='net',
)
_OSMR = Layout(
    # osmr/pytorchcv, resnet*
    block='features.stage{s}.unit{u}',
    convs=('body.conv1.conv', 'body.conv2.conv', 'body.conv3.conv'),
    norms=('body.conv1.bn', 'body.conv2.bn', 'body.conv3.bn'),
    shortcut=('identity_conv.conv', 'identity_conv.bn'),
    stem=('features.init_block.conv', 'features.init_block.bn'),
    classifier='output',
    norm_first=_V1,
    shortcut_types=('B',),
)
_OSMR_V2 = _OSMR._replace(
    # osmr/pytorchcv, preresnet*
    shortcut=('identity_conv',),
    stem=('features.init_block',),
    final_norm='features.post_activ.bn',
    norm_first=_V2,
    final_norms=(True,),
)

LAYOUTS = {
    'native': Layout(
        # timm and torchvision; resnet-hub
        block='layer{s}.{i}',
        convs=_CONVS,
        norms=_NORMS,
        shortcut=('downsample.0', 'downsample.1'),
        stem=('conv1', 'bn1'),
        classifier='fc',
        final_norm='norm',
    ),
    'akamaster': _KUANGLIU._replace(
        # akamaster/pytorch_resnet_cifar10
        norm_first=_V1,
        stages=(3,),
        blocks=('basic',),
        shortcut_types=('A',),
        wrapper='module.',
        container='state_dict',
    ),
    'kuangliu': _KUANGLIU,
    'kuangliu_norm': _KUANGLIU._replace(
        # robust training, after kuangliu/pytorch-cifar
        final_norm='bn',
        norm_first=_V2,
        final_norms=(True,),
        container='',
    ),
    'article': _KUANGLIU._replace(norm_first=_V1, container=''),  # tutorials, after kuangliu/pytorch-cifar
    'xternalz': Layout(
        # xternalz/WideResNet-pytorch
        block='block{s}.layer.{i}',
        convs=_CONVS,
        norms=_NORMS,
        shortcut=('convShortcut',),
        stem=('conv1',),
        classifier='fc',
        final_norm='bn1',
        norm_first=_V2,
        stages=(3,),
        blocks=('basic',),
        shortcut_types=('B',),
        final_norms=(True,),
        container='state_dict',
    ),
    'weiaicunzai': Layout(
        # weiaicunzai/pytorch-cifar100
        block='conv{t}_x.{i}',
        convs=('residual_function.0', 'residual_function.3', 'residual_function.6'),
        norms=('residual_function.1', 'residual_function.4', 'residual_function.7'),
        shortcut=('shortcut.0', 'shortcut.1'),
        stem=('conv1.0', 'conv1.1'),
        classifier='fc',
        norm_first=_V1,
        stages=(4,),
        shortcut_types=('B',),
    ),
    'osmr': _OSMR,
    'osmr_preresnet': _OSMR_V2,
    'osmr_wrn': _OSMR_V2._replace(blocks=('basic',), stages=(3,)),  # osmr/pytorchcv, wrn*
}


def find_layout(name: str) -> Layout:
    """Return the row of a layout.

    Raises:
        InputError: the table has no such layout.
    """
    if name not in LAYOUTS:
        raise InputError(f'unknown layout {name!r}: use one of {", ".join(LAYOUTS)}{did_you_mean(name, LAYOUTS)}')
    return LAYOUTS[name]


def cannot_hold(layout: Layout, network: Network) -> str:
    """Return what keeps a layout from spelling a network; '' if it can."""
    norm_first, final_norm = network.family.norm_first, network.final_norm
    limits: list[tuple[Any, tuple[Any, ...], str]] = [
        (norm_first, layout.norm_first, 'pre-activation:'),
        (len(network.layers), layout.stages, 'stages:'),
        (network.block, layout.blocks, 'blocks:'),
        (network.shortcut_type, layout.shortcut_types, 'shortcut_type'),
        (final_norm, layout.final_norms if norm_first else (False,), 'final_norm'),
    ]
    for value, allowed, what in limits:
        if value not in allowed:
            return f'it has {what} {" or ".join(map(str, allowed))} only, not {value}'
    return ''


def to_layout(state_dict: Mapping[str, Tensor], network: Network, name: str) -> dict[str, Tensor]:
    """Return a native state dict under the keys of a layout.

    Raises:
        InputError: the table has no such layout, or the layout cannot spell this network.
    """
    layout = find_layout(name)
    if reason := cannot_hold(layout, network):
        fitting = ', '.join(other for other, row in LAYOUTS.items() if not cannot_hold(row, network))
        raise InputError(f'layout {name} cannot hold this network, {reason}; use one of {fitting}')
    return {spell(layout, key): tensor for key, tensor in state_dict.items()}


def spell(layout: Layout, key: str) -> str:
    """Return a native key ('layer1.0.conv1.weight') as a layout spells it."""
    module, _, parameter = key.rpartition('.')
    parts = module.split('.')
    if parts[0].startswith('layer'):
        stage, index = int(parts[0][5:]), int(parts[1])
        if parts[2] == 'downsample':
            inner = layout.shortcut[int(parts[3])]
        else:
            inner = (layout.convs if parts[2].startswith('conv') else layout.norms)[int(parts[2][-1]) - 1]
        spelled = f'{layout.block.format(s=stage, t=stage + 1, i=index, u=index + 1)}.{inner}'
    elif module in ('conv1', 'bn1'):
        spelled = layout.stem[module == 'bn1']
    else:
        spelled = {'norm': layout.final_norm, 'fc': layout.classifier}[module]
    return f'{layout.wrapper}{spelled}.{parameter}'
