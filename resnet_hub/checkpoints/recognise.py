"""Recognise the network in a file and give its tensors native names: find the state dict, rename, build.

Names are checked by shapes. A few shapes show the network, and the network determines the shape of every tensor. Each
tensor is used exactly once or listed as dropped. Otherwise the file is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from resnet_hub.checkpoints.build import find_network, load_strictly
from resnet_hub.checkpoints.contents import find_state_dict
from resnet_hub.checkpoints.layouts import LAYOUTS, cannot_hold, spell
from resnet_hub.checkpoints.network import Network
from resnet_hub.checkpoints.passes import apply_masks, check_tensor, fold_biases, take_input_constants
from resnet_hub.checkpoints.read import read
from resnet_hub.checkpoints.refusal import show
from resnet_hub.checkpoints.rename import Renamed, rename
from resnet_hub.models import ResidualNet
from resnet_hub.utils.errors import InputError


@dataclass(frozen=True)
class Recognised:
    """The network of a file with its weights, and how it was read."""

    network: Network
    model: ResidualNet  #: the network with the file's tensors as parameters, in evaluation mode
    state_dict: dict[str, Tensor]  #: the tensors under native names
    sources: dict[str, str]  #: for each native name, the key in the file
    layout: str  #: the layout of the file, or examples of its keys
    dropped: dict[str, str]  #: tensors of the file that were left out, and why
    notes: list[str]  #: what was done besides renaming
    mean: tuple[float, ...] = ()  #: mean in a layer of the file that normalises the input; () if there is none
    std: tuple[float, ...] = ()  #: standard deviation in this layer

    @property
    def counters(self) -> bool:
        """Return whether the file has num_batches_tracked, the norms' counters of batches."""
        return any(key.endswith('num_batches_tracked') for key in self.sources)


def recognise(tree: Any, key: str | None = None) -> Recognised:
    """Find the network in the content of a file, and give its tensors native names.

    Args:
        tree: nested mappings with tensors in them.
        key: which network to take if there are several: its name, as the error message lists the names.

    Raises:
        InputError: there is no network of ours, there are several and `key` is None, or a tensor does not fit.
    """
    found, dropped = find_state_dict(tree, key)
    for name, tensor in found.tensors.items():
        check_tensor(name, tensor)
    tensors, masks, notes = apply_masks(found.tensors)
    tensors, mean, std = take_input_constants(tensors)
    renamed = rename(tensors)
    network = find_network(renamed)
    renamed, folded = fold_biases(renamed, network)
    model = load_strictly(network, renamed)
    return Recognised(
        network=network,
        model=model,
        state_dict=dict(model.state_dict()),
        sources=renamed.sources,
        layout=_spelling(renamed, network, found.prefix) + (f' under {show(found.name)}' if found.name else ''),
        dropped={**dropped, **masks, **dict.fromkeys(renamed.second_names, 'a second name of another tensor')},
        notes=[*notes, *folded],
        mean=mean,
        std=std,
    )


def _spelling(renamed: Renamed, network: Network, prefix: str) -> str:
    """Return the name of the layout that all keys of the file follow, or some examples of its keys."""
    sources = {ours: f'.{theirs}' for ours, theirs in renamed.sources.items()}
    for name, layout in LAYOUTS.items():
        if not cannot_hold(layout, network) and all(
            theirs.endswith(f'.{spell(layout, ours)}') for ours, theirs in sources.items()
        ):
            return name
    examples = ('conv1.weight', 'layer2.0.conv1.weight', 'layer2.0.downsample.0.weight', 'fc.weight')
    keys = [renamed.sources[key].removeprefix(prefix).removesuffix('.weight') for key in examples if key in sources]
    return f'mixed ({", ".join(map(show, keys))})'


def native_state_dict(path: Path, architecture: str, model_args: Mapping[str, Any]) -> dict[str, Tensor]:
    """Read a checkpoint file of a known network, and return its tensors under native names.

    Raises:
        InputError: the file cannot be read, or holds another network than `architecture` with `model_args`.
    """
    found = recognise(read(path).tree)
    if found.network.architecture() != (architecture, dict(model_args)):
        raise InputError(f'{path.name} holds {found.network.architecture()}, not {(architecture, dict(model_args))}')
    return separate(found.state_dict)


def separate(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors that share no memory, because safetensors needs this. Only tensors that share memory are copied."""
    seen: set[int] = set()
    result = {}
    for key, tensor in state_dict.items():
        if tensor.is_meta:
            raise InputError(f'{key} has no data in the file, only a shape: save it from a network in memory')
        storage = tensor.untyped_storage()
        alone = storage.nbytes() == tensor.numel() * tensor.element_size() and storage.data_ptr() not in seen
        seen.add(storage.data_ptr())
        result[key] = tensor.contiguous() if alone else tensor.clone(memory_format=torch.contiguous_format)
    return result
