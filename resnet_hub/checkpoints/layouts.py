"""The table of layouts: how well-known code bases name the tensors of a network. `convert --to` writes them.

Reading a checkpoint does not need this table, see `vocabulary`. To add a layout, add a row.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor

from resnet_hub.checkpoints.network import Network
from resnet_hub.utils.errors import InputError, did_you_mean


class Layout(NamedTuple):
    """The names of one code base, and the networks that it has names for.

    In a name, {s} is the number of the stage from 1, {t} the same from 2, {i} the number of the block in its stage from
    0, {u} the same from 1, and {k} the number of the layer in the branch from 1. In an nn.Sequential branch, {c} is the
    position of the convolution and {n} that of its norm. A space separates the name of a convolution from that of the
    norm after it. In V2, stem and shortcut have no norm.
    """

    block: str
    branch: str
    shortcut: str
    stem: str
    classifier: str
    final_norm: str = ''
    only: Mapping[str, Any] = {}  #: the only value that a property of the network can have; for names see `cannot_hold`
    wrapper: str = ''  #: prefix of every key
    container: str = ''  #: key of the state dict in the author's files


_V1, _V2 = {'norm_first': False}, {'norm_first': True, 'final_norm': True}
_THIN = {'stages': 3, 'block': 'basic'}
_B = {'shortcut_type': 'B'}
_KUANGLIU = Layout('layer{s}.{i}', 'conv{k} bn{k}', 'shortcut.0 shortcut.1', 'conv1 bn1', 'linear')
_OSMR = Layout(
    'features.stage{s}.unit{u}',
    'body.conv{k}.conv body.conv{k}.bn',
    'identity_conv.conv identity_conv.bn',
    'features.init_block.conv features.init_block.bn',
    'output',
    only=_V1 | _B,
)
_OSMR_V2 = _OSMR._replace(
    shortcut='identity_conv', stem='features.init_block', final_norm='features.post_activ.bn', only=_V2 | _B
)
LAYOUTS = {
    # timm and torchvision; resnet-hub
    'native': _KUANGLIU._replace(shortcut='downsample.0 downsample.1', classifier='fc', final_norm='norm'),
    # akamaster/pytorch_resnet_cifar10
    'akamaster': _KUANGLIU._replace(
        only=_V1 | _THIN | {'shortcut_type': 'A'}, wrapper='module.', container='state_dict'
    ),
    # kuangliu/pytorch-cifar, and code derived from it: robust training with a final norm, tutorials
    'kuangliu': _KUANGLIU._replace(container='net'),
    'kuangliu_norm': _KUANGLIU._replace(final_norm='bn', only=_V2),
    'article': _KUANGLIU._replace(only=_V1),
    # xternalz/WideResNet-pytorch
    'xternalz': Layout(
        'block{s}.layer.{i}', 'conv{k} bn{k}', 'convShortcut', 'conv1', 'fc', 'bn1', _V2 | _THIN | _B, '', 'state_dict'
    ),
    # weiaicunzai/pytorch-cifar100
    'weiaicunzai': Layout(
        'conv{t}_x.{i}',
        'residual_function.{c} residual_function.{n}',
        'shortcut.0 shortcut.1',
        'conv1.0 conv1.1',
        'fc',
        only=_V1 | _B | {'stages': 4},
    ),
    # osmr/pytorchcv: resnet*, preresnet*, wrn*
    'osmr': _OSMR,
    'osmr_preresnet': _OSMR_V2,
    'osmr_wrn': _OSMR_V2._replace(only=_V2 | _B | _THIN),
}


def find_layout(name: str) -> Layout:
    """Return the row of a layout.

    Raises:
        InputError: the table has no such layout.
    """
    if name not in LAYOUTS:
        hint = did_you_mean(name, LAYOUTS) or f': use one of {", ".join(LAYOUTS)}'
        raise InputError(f'unknown layout {name!r}{hint}')
    return LAYOUTS[name]


def cannot_hold(layout: Layout, network: Network) -> str:
    """Return why a layout has no names for a network; '' if it has."""
    properties = {
        'norm_first': network.family.norm_first,
        'stages': len(network.layers),
        'block': network.block,
        'shortcut_type': network.shortcut_type,
        'final_norm': network.final_norm,
    }
    limits = layout.only if layout.final_norm else {**layout.only, 'final_norm': False}
    for name, value in limits.items():
        if properties[name] != value:
            return f'whose {name} is {properties[name]} instead of {value}'
    return ''


def to_layout(state_dict: Mapping[str, Tensor], network: Network, name: str) -> dict[str, Tensor]:
    """Rename the keys of a native state dict to those of a layout.

    Raises:
        InputError: the table has no such layout, or the layout has no names for this network.
    """
    layout = find_layout(name)
    if reason := cannot_hold(layout, network):
        fitting = ', '.join(other for other, row in LAYOUTS.items() if not cannot_hold(row, network))
        raise InputError(f'layout {name} cannot hold this network, {reason}: use one of {fitting}')
    return {spell(layout, key): tensor for key, tensor in state_dict.items()}


def spell(layout: Layout, key: str) -> str:
    """Return the name of a layout for a native key ('layer1.0.conv1.weight')."""
    module, _, parameter = key.rpartition('.')
    if found := re.fullmatch(r'layer(\d+)\.(\d+)\.(conv|bn|downsample\.)(\d)', module):
        stage, index, k = int(found[1]), int(found[2]), int(found[4])
        conv, norm = layout.branch.split()
        template = layout.shortcut.split()[k] if found[3] == 'downsample.' else {'conv': conv, 'bn': norm}[found[3]]
        name = f'{layout.block}.{template}'.format(
            s=stage, t=stage + 1, i=index, u=index + 1, k=k, c=3 * k - 3, n=3 * k - 2
        )
    else:
        stem = dict(zip(('conv1', 'bn1'), layout.stem.split(), strict=False))
        name = {**stem, 'norm': layout.final_norm, 'fc': layout.classifier}[module]
    return f'{layout.wrapper}{name}.{parameter}'
