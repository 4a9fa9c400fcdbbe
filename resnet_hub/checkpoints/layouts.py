"""The table of layouts: how well-known code bases name the tensors of a network. `convert --to` writes them.

Reading a checkpoint does not need this table, see `vocabulary`. To add a layout, add a row.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor

from resnet_hub.checkpoints.network import Network
from resnet_hub.utils.errors import InputError, did_you_mean


class Layout(NamedTuple):
    """The names of one code base, and the networks that it has names for.

    In a name, {s} is the number of the stage from 1, {t} the same from 2, {i} the number of the block in its stage from
    0, {u} the same from 1, and {k} the number of the layer in the branch from 1. In an nn.Sequential branch, {c} is the
    position of the convolution and {n} that of its norm.
    """

    block: str
    conv: str
    norm: str
    shortcut: tuple[str, ...]  #: convolution and norm (V1), or only the convolution (V2)
    stem: tuple[str, ...]  #: convolution and norm (V1), or only the convolution (V2)
    classifier: str
    final_norm: str = ''
    norm_first: tuple[bool, ...] = (False, True)  #: False for V1, True for V2
    stages: tuple[int, ...] = (3, 4)
    blocks: tuple[str, ...] = ('basic', 'bottleneck')
    shortcut_types: tuple[str, ...] = ('A', 'B')
    final_norms: tuple[bool, ...] = (False, True)
    wrapper: str = ''  #: prefix of every key
    container: str = ''  #: key of the state dict in the author's files


_V1, _V2 = (False,), (True,)
_KUANGLIU = Layout(
    'layer{s}.{i}', 'conv{k}', 'bn{k}', ('shortcut.0', 'shortcut.1'), ('conv1', 'bn1'), 'linear', final_norms=(False,)
)
_OSMR = Layout(
    'features.stage{s}.unit{u}',
    'body.conv{k}.conv',
    'body.conv{k}.bn',
    ('identity_conv.conv', 'identity_conv.bn'),
    ('features.init_block.conv', 'features.init_block.bn'),
    'output',
    norm_first=_V1,
    shortcut_types=('B',),
)
_OSMR_V2 = _OSMR._replace(
    shortcut=('identity_conv',),
    stem=('features.init_block',),
    final_norm='features.post_activ.bn',
    norm_first=_V2,
    final_norms=(True,),
)
LAYOUTS = {
    # timm and torchvision; resnet-hub
    'native': _KUANGLIU._replace(
        shortcut=('downsample.0', 'downsample.1'), classifier='fc', final_norm='norm', final_norms=(False, True)
    ),
    # akamaster/pytorch_resnet_cifar10
    'akamaster': _KUANGLIU._replace(
        norm_first=_V1,
        stages=(3,),
        blocks=('basic',),
        shortcut_types=('A',),
        wrapper='module.',
        container='state_dict',
    ),
    # kuangliu/pytorch-cifar, and code derived from it: robust training with a final norm, tutorials
    'kuangliu': _KUANGLIU._replace(container='net'),
    'kuangliu_norm': _KUANGLIU._replace(final_norm='bn', norm_first=_V2, final_norms=(True,)),
    'article': _KUANGLIU._replace(norm_first=_V1),
    # xternalz/WideResNet-pytorch
    'xternalz': Layout(
        'block{s}.layer.{i}',
        'conv{k}',
        'bn{k}',
        ('convShortcut',),
        ('conv1',),
        'fc',
        'bn1',
        norm_first=_V2,
        stages=(3,),
        blocks=('basic',),
        shortcut_types=('B',),
        final_norms=(True,),
        container='state_dict',
    ),
    # weiaicunzai/pytorch-cifar100
    'weiaicunzai': Layout(
        'conv{t}_x.{i}',
        'residual_function.{c}',
        'residual_function.{n}',
        ('shortcut.0', 'shortcut.1'),
        ('conv1.0', 'conv1.1'),
        'fc',
        norm_first=_V1,
        stages=(4,),
        shortcut_types=('B',),
    ),
    # osmr/pytorchcv: resnet*, preresnet*, wrn*
    'osmr': _OSMR,
    'osmr_preresnet': _OSMR_V2,
    'osmr_wrn': _OSMR_V2._replace(blocks=('basic',), stages=(3,)),
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
    """Return why a layout has no names for a network; '' if it has."""
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
    """Rename the keys of a native state dict to those of a layout.

    Raises:
        InputError: the table has no such layout, or the layout has no names for this network.
    """
    layout = find_layout(name)
    if reason := cannot_hold(layout, network):
        fitting = ', '.join(other for other, row in LAYOUTS.items() if not cannot_hold(row, network))
        raise InputError(f'layout {name} cannot hold this network, {reason}; use one of {fitting}')
    return {spell(layout, key): tensor for key, tensor in state_dict.items()}


def spell(layout: Layout, key: str) -> str:
    """Return the name of a layout for a native key ('layer1.0.conv1.weight')."""
    module, _, parameter = key.rpartition('.')
    parts = module.split('.')
    if parts[0].startswith('layer'):
        stage, index, leaf = int(parts[0][5:]), int(parts[1]), parts[2]
        if leaf == 'downsample':
            inner = layout.shortcut[int(parts[3])]
        else:
            k = int(leaf[-1])
            spelled = layout.conv if leaf.startswith('conv') else layout.norm
            inner = spelled.format(k=k, c=3 * k - 3, n=3 * k - 2)
        spelled = f'{layout.block.format(s=stage, t=stage + 1, i=index, u=index + 1)}.{inner}'
    else:
        stem = dict(zip(('conv1', 'bn1'), layout.stem, strict=False))
        spelled = {**stem, 'norm': layout.final_norm, 'fc': layout.classifier}[module]
    return f'{layout.wrapper}{spelled}.{parameter}'
