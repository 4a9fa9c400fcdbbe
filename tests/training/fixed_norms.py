"""An epoch with fixed statistics of the norms, as a function and as a program for torchrun."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from resnet_hub import InputError, Recipe, train
from resnet_hub.data.sources import load_images
from resnet_hub.training.trainer import Trainer
from resnet_hub.utils.distributed import is_first, process_group

RECIPE = Recipe(
    model='cifar_resnet8', dataset='cifar10', epochs=2, batch_size=32, warmup_epochs=0, lr=0.01, cutout=8, clip_grad=0.5
)


def train_with_fixed_norms(data):
    """The loss and the weights after an epoch."""
    trainer = Trainer(RECIPE, load_images('cifar10', 'train', data), bf16=False)
    for module in trainer.model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval().train = lambda mode, module=module: module
    trainer.itself = trainer  # as torch.compile does it: only the collector frees what refers to itself
    return {'loss': trainer.train_epoch(), 'model': trainer.model.state_dict()}


def main(data, target):
    with process_group('cpu'):
        with pytest.raises(InputError, match='batch_size must be a multiple of 2, the number of processes'):
            train(replace(RECIPE, batch_size=33), Path(target).parent / 'odd', data, device='cpu')
        result = train_with_fixed_norms(data)
        if is_first():
            torch.save(result, target)
        del result
    names = [Path(task, 'comm').read_text() for task in Path('/proc/self/task').glob('*')]
    assert not [name for name in names if 'gloo' in name], names  # they could abort the process at its end


if __name__ == '__main__':
    main(*sys.argv[1:])
