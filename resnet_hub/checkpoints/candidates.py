"""Which tensors of a file are the network: the state dict among containers, optimisers, averages and other networks."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple, NoReturn

import torch
from torch import Tensor

from resnet_hub.checkpoints import layouts
from resnet_hub.checkpoints.layouts import parse_block, relative
from resnet_hub.checkpoints.refusal import OTHER, refuse, refuse_tensor, show

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


class Candidate(NamedTuple):
    """A network's tensors within a file."""

    name: str  #: containers and prefix, dotted
    prefix: str  #: within the mapping, before the blocks' keys
    tensors: dict[str, Tensor]  #: everything in the mapping that is not another network's


def choose(tree: Any, key: str | None) -> tuple[Candidate, dict[str, str]]:
    """The one network of a file, or the one that `key` names; and what lies beside it."""
    mappings: list[tuple[str, dict[str, Tensor]]] = []
    dropped = {}
    for path, tensors in _mappings(tree):
        ignored = _ignored(tensors)
        dropped.update({f'{path}.{name}'.lstrip('.'): why for name, why in ignored.items()})
        mappings.append((path, {name: tensor for name, tensor in tensors.items() if name not in ignored}))
    candidates = [candidate for path, mapping in mappings for candidate in _candidates(path, mapping)]
    if key is not None:
        chosen = [item for item in candidates if item.name == key]
        chosen = chosen or [item for item in candidates if f'.{item.name}.'.startswith(f'.{key}.')]
        if not chosen:
            refuse(f'no network {key!r} in the file; give one of: {_listed(candidates) or "none"}')
        candidates = chosen
    if not candidates:
        _refuse_unknown([name for _, mapping in mappings for name in mapping])
    if len(candidates) > 1:
        refuse(f'the file holds {len(candidates)} networks, {_listed(candidates)}: choose one with --key')
    inside = {id(tensor) for tensor in candidates[0].tensors.values()}
    beside = {
        f'{path}.{name}'.lstrip('.'): 'outside of the network'
        for path, mapping in mappings
        for name, tensor in mapping.items()
        if id(tensor) not in inside
    }
    return candidates[0], {**beside, **dropped}


def _mappings(tree: Any) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Every mapping that holds tensors under strings, with the dotted path to it; optimisers are left out."""
    seen: set[int] = set()
    stack: list[tuple[str, Any]] = [('', tree)]
    while stack:
        path, node = stack.pop()
        if id(node) in seen or not isinstance(node, (Mapping, list, tuple)):
            continue
        seen.add(id(node))
        items = list(node.items() if isinstance(node, Mapping) else enumerate(node))
        if isinstance(node, Mapping) and 'param_groups' in node:
            continue
        tensors = {
            k: v.detach() if v.requires_grad else v for k, v in items if isinstance(k, str) and isinstance(v, Tensor)
        }
        if tensors:
            yield path, tensors
        stack.extend((f'{path}.{k}'.lstrip('.'), v) for k, v in reversed(items) if isinstance(k, (str, int)))


def _candidates(path: str, tensors: dict[str, Tensor]) -> list[Candidate]:
    """The networks of one mapping: one for every prefix that has residual blocks behind it."""
    places = [parse_block(key) for key, tensor in tensors.items() if tensor.ndim == 4]
    prefixes = sorted({place.prefix for place in places if place})
    result = []
    for prefix in prefixes:
        others = [other for other in prefixes if other != prefix]
        own = {k: v for k, v in tensors.items() if not any(k.startswith(o) and len(o) > len(prefix) for o in others)}
        if len(prefixes) > 1:  # what belongs to none of several networks is nobody's
            own = {k: v for k, v in own.items() if k.startswith(prefix)}
        result.append(Candidate('.'.join(filter(None, (path, prefix.rstrip('.')))), prefix, own))
    return result


def _listed(candidates: list[Candidate]) -> str:
    return ', '.join(repr(show(item.name)) for item in candidates[:9])


def _refuse_unknown(names: list[str]) -> NoReturn:
    if not names:
        refuse('no tensors in the file: give a checkpoint with a state dict in it')
    for pattern, what in layouts.OTHER_NETWORKS:
        found = next((name for name in names if re.search(pattern, name)), None)
        if found:
            refuse(f'no residual blocks among the {len(names)} tensors, and {show(found)} shows {what}: {OTHER}')
    listed = ', '.join(show(name) for name in names[:3])
    refuse(f'no residual blocks among the {len(names)} tensors ({listed} …): {OTHER}')


def check_tensor(name: str, tensor: Tensor) -> None:
    """Refuse what is no plain tensor with all its numbers in the file."""
    if tensor.layout != torch.strided or tensor.is_quantized:
        refuse(
            f'{show(name)} is a {"quantised" if tensor.is_quantized else tensor.layout} tensor, not a plain one: save it as float32'
        )
    if tensor.is_complex() or (tensor.is_floating_point() and tensor.dtype not in FLOATS):
        refuse(f'{show(name)} is {tensor.dtype}: save it as float32 or half precision')
    if tensor.is_meta:
        return
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        refuse(f'{show(name)} has shape {tuple(tensor.shape)} but fewer numbers in the file: write the file again')
    # a sum is finite only if all its terms are, and takes no memory; it may overflow where they are
    if tensor.is_floating_point() and not math.isfinite(float(tensor.sum())) and not bool(tensor.isfinite().all()):
        worst = 'NaN' if bool(tensor.isnan().any()) else 'infinite'
        refuse(f'{show(name)} has {worst} values, and so would every output: take an earlier checkpoint')
    if name.endswith('running_var') and bool((tensor < 0).any()):
        refuse(f'{show(name)} has negative values, which no variance has: the file is damaged; take another copy')


def _ignored(names: Iterable[str]) -> dict[str, str]:
    rows = layouts.IGNORED.items()
    return {name: why for name in names for pattern, why in rows if re.fullmatch(pattern, name)}


def apply_masks(tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str], list[str]]:
    """torch.nn.utils.prune keeps weight_orig and weight_mask, whose product is the weight.

    Any other mask may go only where the weight is zero wherever the mask is, so that applying it changes nothing.
    """
    result, dropped, products = dict(tensors), {}, []
    for name in tensors:
        base = re.sub(r'(?:_orig|_mask|\.mask)$', '', name)
        if name.endswith('_orig') and f'{base}_mask' in tensors and base not in tensors:
            mask, original = result.pop(f'{base}_mask'), result.pop(name)
            _check_mask(f'{base}_mask', mask, original)
            result[base] = original * mask.to(original.dtype)
            products.append(base)
        elif name.endswith(('_mask', '.mask')):
            weight = tensors.get(base if name.endswith('_mask') else f'{base}.weight')
            if weight is not None:
                mask = result.pop(name)
                _check_mask(name, mask, weight)
                if not torch.equal(weight * mask.to(weight.dtype), weight):
                    refuse(f'{show(name)} masks weights that are not zero: multiply them and save the product')
                dropped[name] = 'a mask, which its weight contains already'
    notes = [f'{len(products)} weights are their originals times the masks of torch.nn.utils.prune'] if products else []
    return result, dropped, notes


def take_constants(
    tensors: dict[str, Tensor], prefix: str
) -> tuple[dict[str, Tensor], tuple[float, ...], tuple[float, ...]]:
    """The constants of a layer before the stem that normalises the input: (x - mean) / std."""
    own = {name: relative(name, prefix) for name in tensors if not parse_block(name)}
    means = [name for name, short in own.items() if re.fullmatch(layouts.INPUT_MEAN, short)]
    stds = [name for name, short in own.items() if re.fullmatch(layouts.INPUT_STD, short)]
    if not means and not stds:
        return tensors, (), ()
    if len(means) != 1 or len(stds) != 1 or tensors[means[0]].numel() != tensors[stds[0]].numel():
        refuse_tensor((means or stds)[0])
    mean, std = (tuple(map(float, tensors[name].double().flatten())) for name in (means[0], stds[0]))
    if not all(0 <= value <= 1 for value in mean) or not all(0.05 < value <= 1 for value in std):
        refuse(f'{show(means[0])} and {show(stds[0])} are no mean and std of pixels from 0 to 1: {OTHER}')
    rest = {name: tensor for name, tensor in tensors.items() if name not in (means[0], stds[0])}
    return rest, mean, std


def _check_mask(name: str, mask: Tensor, weight: Tensor) -> None:
    if mask.shape != weight.shape or not bool(((mask == 0) | (mask == 1)).all()):
        refuse(f'{show(name)} is no mask of zeros and ones of shape {tuple(weight.shape)}: save the masked weights')
