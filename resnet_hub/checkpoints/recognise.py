"""Keys and shapes to a network: which one a state dict belongs to, and its tensors under our names.

Nothing here trusts a name that shapes can contradict: from a few shapes follows the network, the network says what
every tensor must look like, and each tensor is used exactly once, or named as dropped, or the file is refused.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from resnet_hub.checkpoints.candidates import FLOATS, apply_masks, check_tensor, choose, take_constants
from resnet_hub.checkpoints.network import Network
from resnet_hub.checkpoints.places import COUNTER, Module, Places, group
from resnet_hub.checkpoints.refusal import INCOMPLETE, OTHER, refuse, refuse_shape, show
from resnet_hub.checkpoints.witness import Testimony, hear
from resnet_hub.models import PreActResNet


@dataclass(frozen=True)
class Recognised:
    """A network, its tensors under our names, and how that came about."""

    network: Network
    state_dict: dict[str, Tensor]
    layout: str  #: how the source spells it, in words
    dropped: dict[str, str] = field(default_factory=dict)  #: source tensors that were left out, and why
    assumptions: list[str] = field(default_factory=list)
    counters: bool = True  #: whether the source has the norms' counters of batches
    mean: tuple[float, ...] = ()  #: of the input, where the file holds a layer that normalises it
    std: tuple[float, ...] = ()


def recognise(tree: Any, key: str | None = None, attested: bool = False) -> Recognised:
    """Find the network in what a file holds, and its tensors under our names.

    Args:
        tree: nested mappings with tensors in them.
        key: the network to take where there are several: its containers and prefix, as the refusal lists them.
        attested: the network is known from elsewhere, so that the statistics need not testify to it.

    Raises:
        InputError: no network of ours, several without a key, or a tensor that does not fit.
    """
    candidate, dropped = choose(tree, key)
    for name, tensor in candidate.tensors.items():
        check_tensor(name, tensor)
    tensors, masks, notes = apply_masks(candidate.tensors)
    tensors, mean, std = take_constants(tensors, candidate.prefix)
    places = Places.of(group(tensors), candidate.prefix)
    network = places.network()
    state_dict, folded = _assemble(network, places)
    layout = places.layout(network)
    told = Testimony() if attested else hear(network, state_dict)
    shown = _judge(network, told, known=attested or bool(layout))
    return Recognised(
        network=network,
        state_dict=state_dict,
        layout=(layout or places.spelling(network)) + (f' under {show(candidate.name)}' if candidate.name else ''),
        dropped={**dropped, **masks},
        assumptions=[*notes, *folded, *shown],
        counters=any(key.endswith(COUNTER) for key in tensors),
        mean=mean,
        std=std,
    )


def _assemble(network: Network, places: Places) -> tuple[dict[str, Tensor], list[str]]:
    """Every tensor of the target out of exactly one of the source, shapes compared; and what was folded."""
    try:
        target = network.build(device='meta').state_dict()
    except ValueError as error:
        refuse(f'no such network: {error}; {OTHER}')
    roles = places.roles(network)
    wanted = {key.rpartition('.')[0] for key in target}
    for name, module in roles.items():
        if name not in wanted:
            what = 'a projection where neither width nor stride changes' if 'downsample' in name else name
            refuse(f'{show(module.name)} ({what}) has no place in a network of {network.block} blocks; {OTHER}')
    state_dict = {}
    for key in target:
        name, _, parameter = key.rpartition('.')
        if name not in roles:
            refuse(
                f'the file has no tensor for {key} of shape {tuple(target[key].shape)}, which such a network needs; '
                f'the file is incomplete or of another network'
            )
        state_dict[key] = _take(roles[name], parameter, target[key])
    return _fold(state_dict, roles, network)


def _take(module: Module, parameter: str, target: Tensor) -> Tensor:
    if parameter == COUNTER:
        counter = module.tensors.get(parameter, torch.tensor(0))
        if counter.numel() != 1:
            refuse_shape(module.key(parameter), counter.shape, 'one number')
        return counter.reshape(()).to(torch.int64)
    tensor = module.tensors.get(parameter)
    if tensor is None:
        refuse(f'{module.key(parameter)} is missing: {INCOMPLETE}')
    if parameter == 'weight' and module.kind == 'conv' and target.ndim == 2 and tensor.shape[2:] == (1, 1):
        tensor = tensor.flatten(1)  # a classifier written as a 1×1 convolution
    if tensor.dtype not in FLOATS:
        refuse(f'{module.key(parameter)} is {tensor.dtype}, where floating-point numbers were expected')
    if tensor.shape != target.shape:
        refuse_shape(module.key(parameter), tensor.shape, str(tuple(target.shape)), grouped=target.ndim == 4)
    return tensor


def _fold(
    state_dict: dict[str, Tensor], roles: dict[str, Module], network: Network
) -> tuple[dict[str, Tensor], list[str]]:
    """A convolution's bias in front of a norm only shifts what the norm subtracts: norm(x + b) has the mean m - b."""
    convs = {name: module for name, module in roles.items() if module.kind == 'conv' and name != 'fc'}
    kinds: dict[str, dict[bool, str]] = defaultdict(dict)  # by place, so that a single lost bias is noticed
    for name, module in convs.items():
        kinds['stem' if '.' not in name else name.split('.', 2)[2]][('bias' in module.tensors)] = module.key('bias')
    for both in kinds.values():
        if len(both) == 2:
            refuse(f'{show(both[False])} is missing, but {show(both[True])} is there: {INCOMPLETE}')
    biased = {name: module for name, module in convs.items() if 'bias' in module.tensors}
    for name, module in biased.items():
        norm = network.following_norm(name)
        if norm is None:
            refuse(
                f'{module.key("bias")}: a bias on what bypasses the norms is another network (a wide residual net whose '
                f'projections read the raw input has one); {OTHER}'
            )
        key = f'{norm}.running_mean'
        mean, bias = state_dict[key], module.tensors['bias']
        if bias.shape != mean.shape or bias.dtype not in FLOATS:
            refuse_shape(module.key('bias'), bias.shape, str(tuple(mean.shape)))
        state_dict[key] = (mean.double() - bias.double()).to(mean.dtype)
        check_tensor(key, state_dict[key])
    return state_dict, [f'{len(biased)} biases of convolutions are part of the running means now'] if biased else []


_PADDINGS = {
    'end': 'shortcuts padded at the end of the channels',
    'front': 'shortcuts padded at the front of the channels',
    'none': 'a plain net, without shortcuts',
}


def _judge(network: Network, told: Testimony, known: bool) -> list[str]:
    """What leaves no trace in keys and shapes: as the norms' statistics show it, else by one rule each.

    Raises:
        InputError: the statistics show another network; or they are silent where copies of the code differ, and
            neither the spelling is one of the table's, whose code is `known`, nor the file.
    """
    witness = "as the norms' statistics show"
    strides = ', '.join(['1'] + ['2'] * (len(network.layers) - 1))
    if told.activation not in ('', 'ReLU'):
        refuse(f'{witness.capitalize()}, this network was trained with {told.activation}, not ReLU: {OTHER}')
    if told.stem == 'pooled':
        refuse(f'{witness.capitalize()}, something (max pooling?) stands between the stem and the blocks: {OTHER}')
    notes = [
        f'ReLU{f", {witness}" if told.activation else ""}',
        f'no pooling after the stem{f", {witness}" if told.stem else ""}',
        f'a stem padded by 1; branches added unscaled; average pooling; stages of strides {strides}; norms of eps 1e-5',
    ]
    if network.block == 'bottleneck':
        notes.append('the stride of a bottleneck in its 3×3 convolution')
    if network.shortcut_type == 'A':
        if told.shortcut in _PADDINGS:
            refuse(f'{witness.capitalize()}, this is {_PADDINGS[told.shortcut]}, not option A: {OTHER}')
        rule, verdict = 'without tensors, shortcuts are of option A, zero channels on both sides alike', told.shortcut
    elif network.cls is PreActResNet:
        if told.projection == 'raw':
            refuse(f'{witness.capitalize()}, the projections read the raw input, not the activated one: {OTHER}')
        rule, verdict = 'projections read the activated input', told.projection
    else:
        return notes
    if not verdict and not known:
        refuse(f'neither the statistics nor a known spelling of the keys tell whether {rule}: {OTHER}')
    return [*notes, f'{rule}, {witness}' if verdict else rule]
