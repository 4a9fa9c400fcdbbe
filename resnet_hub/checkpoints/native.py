"""Tensors under our names, proven to fill their network."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from resnet_hub.checkpoints.network import Network
from resnet_hub.checkpoints.read import read
from resnet_hub.checkpoints.recognise import recognise
from resnet_hub.models import ResidualNet
from resnet_hub.utils.errors import InputError


def native_state_dict(path: Path, architecture: str, model_args: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors of a checkpoint file under our names, proven to fill a network that is known beforehand.

    Raises:
        InputError: the file cannot be read, or holds another network than `architecture` with `model_args`.
    """
    found = recognise(read(path).tree, attested=True)
    if found.network.architecture() != (architecture, dict(model_args)):
        raise InputError(f'{path.name} holds {found.network.architecture()}, not {(architecture, dict(model_args))}')
    state_dict = separate(found.state_dict)
    prove(found.network, state_dict)
    return state_dict


def prove(network: Network, state_dict: Mapping[str, Tensor]) -> ResidualNet:
    """The network, strictly loaded: built without memory, so that every tensor has its place, every place its tensor."""
    model = network.build(device='meta')
    model.load_state_dict(dict(state_dict), strict=True)
    return model


def separate(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors that share no memory, as safetensors wants them."""
    seen: set[int] = set()
    result = {}
    for key, tensor in state_dict.items():
        if tensor.is_meta:
            raise InputError(f'{key} has no data in the file, only a shape: save it from a network in memory')
        tensor = tensor.detach()
        whole = tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
        fresh = tensor.untyped_storage().data_ptr() not in seen
        seen.add(tensor.untyped_storage().data_ptr())
        result[key] = tensor.contiguous() if whole and fresh else tensor.clone(memory_format=torch.contiguous_format)
    return result
