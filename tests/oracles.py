"""The two papers' networks as functions of a state dict, written from their equations; nothing of resnet_hub in here."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

#: each block type of each family, with three and four stages, with and without a final norm
NETWORKS = (
    'cifar_resnet20',
    'cifar_resnet164',
    'cifar_resnet18',
    'cifar_resnet50',
    'preact_resnet20',
    'preact_resnet164',
    'preact_resnet18',
    'preact_resnet50',
    'wide_resnet16_2',
)


class Net(NamedTuple):
    """What a state dict does not tell."""

    family: str  #: 'v1' or 'v2'
    block: str  #: 'basic' or 'bottleneck'
    layers: tuple[int, ...]
    shortcut_type: str = 'B'
    final_norm: bool = False

    def activations(self) -> int:
        """ReLUs: V1 has one after the stem, V2 perhaps one at the end, and each block one per convolution."""
        per_block = 2 if self.block == 'basic' else 3
        return sum(self.layers) * per_block + (1 if self.family == 'v1' else self.final_norm)


def forward(net: Net, weights: Mapping[str, Tensor], x: Tensor) -> Tensor:
    """The logits of images, norms in inference mode."""

    def conv(name: str, x: Tensor, stride: int = 1) -> Tensor:
        kernel = weights[f'{name}.weight']
        return F.conv2d(x, kernel, stride=stride, padding=kernel.shape[-1] // 2)

    def norm(name: str, x: Tensor) -> Tensor:
        mean, var, gamma, beta = (
            weights[f'{name}.{part}'][:, None, None] for part in ('running_mean', 'running_var', 'weight', 'bias')
        )
        return gamma * (x - mean) / torch.sqrt(var + 1e-5) + beta

    def option_a(x: Tensor, stride: int, width: int) -> Tensor:
        x = x[:, :, ::stride, ::stride]
        before = (width - x.shape[1]) // 2
        padded = x.new_zeros(x.shape[0], width, *x.shape[2:])
        padded[:, before : before + x.shape[1]] = x
        return padded

    def shortcut(block: str, x: Tensor, activated: Tensor, stride: int, width: int) -> Tensor:
        if stride == 1 and x.shape[1] == width:
            return x
        if net.shortcut_type == 'A':
            return option_a(x, stride, width)
        if net.family == 'v1':
            return norm(f'{block}.downsample.1', conv(f'{block}.downsample.0', x, stride))
        return conv(f'{block}.downsample.0', activated, stride)

    # He et al. 2015: y = relu(F(x) + shortcut(x)), F = norm conv relu norm conv …; the last ReLU is the one outside.
    # He et al. 2016: y = F(x) + shortcut(x), F = conv relu norm conv relu norm …
    convs, strided = (2, 1) if net.block == 'basic' else (3, 2)
    x = conv('conv1', x)
    if net.family == 'v1':
        x = F.relu(norm('bn1', x))
    for stage, blocks in enumerate(net.layers, start=1):
        for i in range(blocks):
            block = f'layer{stage}.{i}'
            stride = 2 if stage > 1 and i == 0 else 1
            width = weights[f'{block}.conv{convs}.weight'].shape[0]
            branch = activated = x
            for k in range(1, convs + 1):
                step = stride if k == strided else 1
                if net.family == 'v1':
                    branch = norm(f'{block}.bn{k}', conv(f'{block}.conv{k}', branch, step))
                    branch = F.relu(branch) if k < convs else branch
                else:
                    branch = F.relu(norm(f'{block}.bn{k}', branch))
                    activated = branch if k == 1 else activated
                    branch = conv(f'{block}.conv{k}', branch, step)
            x = branch + shortcut(block, x, activated, stride, width)
            x = F.relu(x) if net.family == 'v1' else x
    if net.final_norm:
        x = F.relu(norm('norm', x))
    return x.mean((2, 3)) @ weights['fc.weight'].T + weights['fc.bias']


def randomise(model: nn.Module, seed: int = 0) -> nn.Module:
    """Random weights and random norm statistics, so that no norm is the identity, no branch zero; in evaluation mode.

    A model on the meta device gets its memory here, on the CPU, without ever being initialised.
    """
    if any(tensor.is_meta for tensor in model.parameters()):
        model = model.to_empty(device='cpu')
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if tensor.ndim > 1:
                bound = (3 * 2 / tensor[0].numel()) ** 0.5  # variance 2 / fan-in
                tensor.uniform_(-bound, bound, generator=random)
            elif name.endswith('num_batches_tracked'):
                tensor.fill_(1)
            elif name.endswith(('running_var', 'weight')):
                tensor.uniform_(0.5, 1.5, generator=random)
            else:
                tensor.uniform_(-0.5, 0.5, generator=random)
    return model.eval()


_PYTORCHCV = (
    (r'^features\.init_block\.(?:conv\.)?weight$', r'conv1.weight'),
    (r'^features\.init_block\.bn\.', r'bn1.'),
    (r'^features\.post_activ\.bn\.', r'norm.'),
    (r'^output\.', r'fc.'),
    (r'\.body\.conv(\d)\.conv\.', r'.conv\1.'),
    (r'\.body\.conv(\d)\.bn\.', r'.bn\1.'),
    (r'\.identity_conv\.(?:conv\.)?weight$', r'.downsample.0.weight'),
    (r'\.identity_conv\.bn\.', r'.downsample.1.'),
)


def from_pytorchcv(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """pytorchcv's keys to native names; its units count from 1."""

    def rename(key: str) -> str:
        for pattern, replacement in _PYTORCHCV:
            key = re.sub(pattern, replacement, key)
        return re.sub(r'^features\.stage(\d)\.unit(\d+)', lambda m: f'layer{m[1]}.{int(m[2]) - 1}', key)

    return {rename(key): tensor for key, tensor in state_dict.items()}
