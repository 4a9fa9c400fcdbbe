"""Find the network from the shapes of its tensors, build it, and load every tensor into it."""

from __future__ import annotations

import re
from collections import defaultdict
from typing import NoReturn

import torch
from torch import Tensor, nn

from resnet_hub.checkpoints.network import Network
from resnet_hub.checkpoints.passes import FLOATS
from resnet_hub.checkpoints.refusal import INCOMPLETE, OTHER, refuse, refuse_shape, refuse_tensor, show
from resnet_hub.checkpoints.rename import Renamed
from resnet_hub.models import ResidualNet

_BLOCKS = {(3, 3): 'basic', (1, 1): 'bottleneck'}  #: by the kernel of the first convolution


def find_network(renamed: Renamed) -> Network:
    """Return the network that a few shapes show. `load_strictly` then compares every shape with it.

    Raises:
        InputError: a tensor is missing without which the network is unknown.
    """
    tensors = renamed.tensors
    blocks: dict[int, set[int]] = defaultdict(set)
    for key in tensors:
        if found := re.match(r'layer(\d+)\.(\d+)\.', key):
            blocks[int(found[1])].add(int(found[2]))
    stages = range(1, 1 + max(blocks))
    if len(stages) not in (3, 4):
        refuse(f'{len(stages)} stages of residual blocks, where three or four were expected; {OTHER}')
    for stage in stages:  # before anything is built, because a number in a damaged file may be huge
        for index in range(max(1, len(blocks[stage]))):
            _get(renamed, f'layer{stage}.{index}.conv1.weight')
    firsts = [tensors[f'layer{stage}.0.conv1.weight'] for stage in stages]
    kernel = tuple(firsts[0].shape[2:])
    if kernel not in _BLOCKS:
        refuse_shape(renamed.sources['layer1.0.conv1.weight'], firsts[0].shape, (*firsts[0].shape[:2], 3, 3))
    stem = _get(renamed, 'conv1.weight', 'no convolution before the blocks: the stem is missing')
    classifier = _get(renamed, 'fc.weight', 'the classifier is missing, so that this is a feature extractor')
    network = Network(
        family=renamed.family,
        block=_BLOCKS[kernel],
        layers=tuple(len(blocks[stage]) for stage in stages),
        widths=tuple(first.shape[0] for first in firsts),
        stem_width=stem.shape[0],
        num_classes=classifier.shape[0],
        in_chans=stem.shape[1],
        shortcut_type='B' if any('.downsample.' in key for key in tensors) else 'A',
        final_norm='norm.weight' in tensors,
    )
    if min(network.stem_width, network.num_classes, network.in_chans, *network.widths) < 1:
        refuse(f'{renamed.sources["conv1.weight"]} or a layer after it has no channels: the file is damaged')
    return network


def load_strictly(network: Network, renamed: Renamed) -> ResidualNet:
    """Build a network on the meta device, and assign it the tensors. Each parameter and buffer needs exactly one.

    Raises:
        InputError: a tensor is unexpected, is missing, or has a wrong shape or dtype.
    """
    try:
        model = network.build(device='meta').eval()
    except ValueError as error:
        refuse(f'no such network: {error}; {OTHER}')
    target, tensors = model.state_dict(), {}
    for key, tensor in renamed.tensors.items():
        source = renamed.sources[key]
        if key not in target:
            refuse_tensor(source, tensor.shape, f'a network of {network.block} blocks of this family')
        tensors[key] = tensor = _as_target(key, tensor)
        if target[key].is_floating_point() and tensor.dtype not in FLOATS:
            refuse(f'{show(source)} is {tensor.dtype}, where floating-point numbers were expected')
        if tensor.shape != target[key].shape:
            refuse_shape(source, tensor.shape, target[key].shape)
    # num_batches_tracked may be missing, as in files of PyTorch before 0.4.1; torch then sets it to 0
    missing = nn.Module.load_state_dict(model, tensors, strict=False, assign=True).missing_keys
    for key in missing:
        _refuse_missing(renamed, key, target[key])
    return model


def _as_target(key: str, tensor: Tensor) -> Tensor:
    if key.endswith('num_batches_tracked') and tensor.numel() == 1:
        return tensor.reshape(()).to(torch.int64)
    if key == 'fc.weight' and tensor.shape[2:] == (1, 1):  # a classifier written as a 1×1 convolution
        return tensor.flatten(1)
    return tensor


def _get(renamed: Renamed, key: str, problem: str = '') -> Tensor:
    if key not in renamed.tensors:
        problem = problem or f'the file has no tensor for {key}, which such a network needs'
        refuse(f'{problem}; the file is incomplete or of another network')
    return renamed.tensors[key]


def _refuse_missing(renamed: Renamed, key: str, target: Tensor) -> NoReturn:
    module, _, parameter = key.rpartition('.')
    if key == 'fc.bias':
        refuse(
            f'{renamed.sources["fc.weight"].removesuffix("weight")}bias is missing: a classifier without bias may also '
            'compare directions (cosine), which the file does not show; add a bias of zeros if it is linear'
        )
    there = next((source for name, source in renamed.sources.items() if name.startswith(f'{module}.')), None)
    if there:
        what = ' (is it a group, layer or instance norm?)' if parameter.startswith('running') else ''
        refuse(f'{there.rpartition(".")[0]}.{parameter} is missing, which belongs to {there}{what}: {INCOMPLETE}')
    refuse(
        f'the file has no tensor for {key} of shape {tuple(target.shape)}, which such a network needs; the file is '
        'incomplete or of another network'
    )
