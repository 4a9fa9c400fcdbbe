"""Find the state dict of the network in a file, which may also hold containers, optimisers and other networks."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, NoReturn

import torch
from torch import Tensor

from resnet_hub.checkpoints.refusal import OTHER, find_hint, refuse, show
from resnet_hub.checkpoints.vocabulary import IGNORED, parse_block


class StateDict(NamedTuple):
    """The tensors of one network in a file."""

    name: str  #: containers and prefix, joined by dots; `--key` selects by this name
    prefix: str  #: the beginning of all keys, before the names of the residual blocks
    tensors: dict[str, Tensor]


def find_state_dict(tree: Any, key: str | None = None) -> tuple[StateDict, dict[str, str]]:
    """Find the only network of a file, or the one that `key` names.

    Args:
        tree: nested containers with tensors in them.
        key: the name of the network; needed if there are several.

    Returns:
        The network, and the tensors that do not belong to it: their names, and why they are left out.

    Raises:
        InputError: the file holds no residual network, several but `key` is None, or none of this name.
    """
    mappings: list[tuple[str, dict[str, Tensor]]] = []
    beside = {}
    for path, tensors in mappings_of(tree):
        ignored = {name: why for name in tensors for row, why in IGNORED.items() if re.fullmatch(row, name)}
        beside.update({f'{path}.{name}'.lstrip('.'): why for name, why in ignored.items()})
        mappings.append((path, {name: tensor for name, tensor in tensors.items() if name not in ignored}))
    networks = [network for path, mapping in mappings for network in _networks(path, mapping)]
    listed = ', '.join(repr(show(item.name)) for item in networks[:9])
    if key is not None:
        exact = [item for item in networks if item.name == key]
        networks = exact or [item for item in networks if f'.{item.name}.'.startswith(f'.{key}.')]
        if not networks:
            refuse(f'no network {key!r} in the file; give one of: {listed or "none"}')
        listed = ', '.join(repr(show(item.name)) for item in networks[:9])
    if not networks:
        _refuse_unknown([name for _, mapping in mappings for name in mapping])
    if len(networks) > 1:
        refuse(f'the file holds {len(networks)} networks, {listed}: choose one with --key')
    inside = {id(tensor) for tensor in networks[0].tensors.values()}
    for path, mapping in mappings:
        names = [name for name, tensor in mapping.items() if id(tensor) not in inside]
        beside.update({f'{path}.{name}'.lstrip('.'): 'outside of the network' for name in names})
    return networks[0], beside


def mappings_of(tree: Any) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Yield every mapping with tensors under string keys, and the dotted path to it. Optimisers are left out."""
    seen: set[int] = set()
    stack: list[tuple[str, Any]] = [('', tree)]
    while stack:
        path, node = stack.pop()
        if id(node) in seen or not isinstance(node, (Mapping, list, tuple)):
            continue
        seen.add(id(node))
        if isinstance(node, Mapping) and 'param_groups' in node:
            continue
        items = list(node.items() if isinstance(node, Mapping) else enumerate(node))
        tensors = {_complete(k): v.detach() for k, v in items if isinstance(k, str) and isinstance(v, Tensor)}
        if tensors:
            yield path, tensors
        stack.extend((f'{path}.{k}'.lstrip('.'), v) for k, v in reversed(items) if isinstance(k, (str, int)))


def _complete(key: str) -> str:
    """Return the key of a tensor. szagoruyko's functions name a convolution without ".weight"."""
    return f'{key}.weight' if re.fullmatch(r'(?:.*\.)?conv(?:\d|dim)', key) else key


def _networks(path: str, tensors: dict[str, Tensor]) -> Iterator[StateDict]:
    """Yield the networks of one mapping: one for every prefix that is followed by the names of residual blocks.

    A prefix under which all tensors are those of another prefix is only a second name of the same network.
    """
    places = [parse_block(key.rpartition('.')[0]) for key, tensor in tensors.items() if tensor.ndim == 4]
    prefixes = sorted({place.prefix for place in places if place}, key=lambda prefix: (len(prefix), prefix))
    owned: dict[str, dict[str, Tensor]] = {}
    known: set[tuple[Any, ...]] = set()
    for prefix in prefixes:
        longer = tuple(other for other in prefixes if len(other) > len(prefix))
        own = {key: t for key, t in tensors.items() if key.startswith(prefix) and not key.startswith(longer)}
        identities = {_identity(key, tensor) for key, tensor in own.items()}
        if identities <= known:
            tensors = {key: t for key, t in tensors.items() if key not in own}
        else:
            owned[prefix] = own
            known |= identities
    for prefix, own in owned.items():  # if there is only one, all tensors belong to it
        yield StateDict('.'.join(filter(None, (path, prefix.rstrip('.')))), prefix, own if len(owned) > 1 else tensors)


def _identity(key: str, tensor: Tensor) -> tuple[Any, ...]:
    address = tensor.data_ptr() if tensor.layout == torch.strided else 0
    return address or key, tensor.shape  # without an address, only the name tells tensors apart


def _refuse_unknown(names: list[str]) -> NoReturn:
    if not names:
        refuse('no tensors in the file: give a checkpoint with a state dict in it')
    found = next(filter(find_hint, names), '')
    shown = f', and {show(found)} shows {find_hint(found)}' if found else f' ({", ".join(map(show, names[:3]))} …)'
    refuse(f'no residual blocks among the {len(names)} tensors{shown}: {OTHER}')
