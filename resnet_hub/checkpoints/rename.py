"""Rename the keys of a checkpoint to native names, using the vocabulary and the kind of each layer."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from itertools import chain
from typing import NamedTuple

from torch import Tensor

from resnet_hub.checkpoints.network import FAMILIES
from resnet_hub.checkpoints.refusal import INCOMPLETE, OTHER, find_hint, refuse, refuse_shape, refuse_tensor, show
from resnet_hub.checkpoints.vocabulary import (
    CLASSIFIER,
    FINAL_NORM,
    FROM_2,
    STEM,
    STEM_NORM,
    Place,
    parse_block,
    without_wrappers,
)
from resnet_hub.tables.family import Family

#: for a branch that is an nn.Sequential: position in it -> number of the convolution or norm
_SEQUENCE = {'conv': {0: 1, 3: 2, 6: 3}, 'norm': {1: 1, 4: 2, 7: 3}}


class Renamed(NamedTuple):
    """A state dict under native names."""

    family: Family
    tensors: dict[str, Tensor]
    sources: dict[str, str]  #: for each native key, the key in the source


class _Layer(NamedTuple):
    """The tensors of one module of the source."""

    name: str
    tensors: dict[str, Tensor]
    place: Place | None  #: its place in a residual block; None outside of the blocks

    @property
    def kind(self) -> str:
        """Return 'conv', 'norm' or 'linear', judged by the tensors; '' for anything else."""
        if 'running_mean' in self.tensors or 'running_var' in self.tensors:
            return 'norm'
        weight = self.tensors.get('weight')
        return '' if weight is None else {4: 'conv', 2: 'linear', 1: 'norm'}.get(weight.ndim, '')


def rename(tensors: Mapping[str, Tensor], prefix: str) -> Renamed:
    """Give every tensor its native name.

    Args:
        tensors: a state dict with the names of any code base.
        prefix: the beginning of all keys, before the names of the residual blocks.

    Raises:
        InputError: a layer is unknown, the layers do not form residual blocks, or two layers get the same native name.
    """
    modules: dict[str, dict[str, Tensor]] = defaultdict(dict)
    for key, tensor in tensors.items():
        module, _, parameter = key.rpartition('.')
        modules[module][parameter] = tensor
    layers = [_Layer(name, parameters, parse_block(name)) for name, parameters in modules.items()]
    blocks = _number_blocks([layer for layer in layers if layer.place], [layer.name for layer in layers])
    first = min((layer.place.number for layer in layers if layer.place and layer.place.role == 'branch'), default=1)
    names = {
        layer.name: _in_block(layer, blocks[layer.place.stage, layer.place.block], min(first, 1))
        for layer in layers
        if layer.place
    }
    family = _find_family({names[layer.name]: layer for layer in layers if layer.place})
    for layer in layers:
        if not layer.place:
            names[layer.name] = _outside(layer, without_wrappers(layer.name, prefix), family or FAMILIES[0])
    unknown = [key for key in tensors if not names[key.rpartition('.')[0]]]
    if unknown:
        key = next(filter(find_hint, unknown), unknown[0])
        refuse_tensor(key, tensors[key].shape)
    if family is None:
        refuse(
            'no block changes the width, so that the file does not show whether a norm comes before or after each '
            f'convolution; {OTHER}'
        )
    taken: dict[str, str] = {}
    for module, native in names.items():
        if native in taken:
            keys = [next(key for key in tensors if key.rpartition('.')[0] == name) for name in (taken[native], module)]
            refuse(
                f'{" and ".join(map(show, keys))} take the same place ({native}): {OTHER}, or remove the one that it does not use'
            )
        taken[native] = module
    sources = {f'{names[key.rpartition(".")[0]]}.{key.rpartition(".")[2]}': key for key in tensors}
    return Renamed(family, {native: tensors[key] for native, key in sources.items()}, sources)


def _in_block(layer: _Layer, block: str, first: int) -> str:
    """Return the native name of a layer in a block; '' if it is unknown. Branches number layers from `first`, 0 or 1."""
    assert layer.place
    _, _, _, role, number = layer.place
    kind = {'conv': 'conv', 'norm': 'bn'}.get(layer.kind)
    if role == 'shortcut':
        position = {'conv': 0, 'norm': 1}.get(layer.kind)
        return '' if position is None or number not in (-1, position) else f'{block}.downsample.{position}'
    place = _SEQUENCE.get(layer.kind, {}).get(number) if role == 'sequence' else number + 1 - first
    return f'{block}.{kind}{place}' if kind and place else ''


def _outside(layer: _Layer, name: str, family: Family) -> str:
    """Return the native name of a layer outside of the residual blocks; '' if it is unknown."""
    kind = layer.kind
    if kind == 'conv' and layer.tensors['weight'].shape[2:] == (1, 1) and re.fullmatch(CLASSIFIER, name, re.I):
        kind = 'linear'  # a classifier written as a 1×1 convolution
    norm = ('norm', FINAL_NORM) if family.norm_first else ('bn1', STEM_NORM)
    native, pattern = {'conv': ('conv1', STEM), 'linear': ('fc', CLASSIFIER), 'norm': norm}.get(kind, ('', '(?!)'))
    return native if re.fullmatch(pattern, name, re.IGNORECASE) else ''


def _find_family(layers: Mapping[str, _Layer]) -> Family | None:
    """Return the family, found at a block that changes the width.

    The width of the block's first norm is that of the block's input (V2) or that of the first convolution's output (V1).
    """
    for name, layer in layers.items():
        norm = layers.get(f'{name.removesuffix("conv1")}bn1')
        if name.endswith('.conv1') and norm and 'weight' in norm.tensors:
            after, before = layer.tensors['weight'].shape[:2]
            width = norm.tensors['weight'].shape
            if before != after and width not in ((before,), (after,)):
                refuse_shape(f'{norm.name}.weight', width, (after,))
            if before != after:
                return next(family for family in FAMILIES if family.norm_first == (width == (before,)))
    return None


def _number_blocks(layers: list[_Layer], names: list[str]) -> dict[tuple[int, int], str]:
    """Return the native name of each block, by its (stage, block) in the source. A gap in the numbers stays.

    If the source has one list of all blocks, a new stage begins where the width changes.
    """
    widths: dict[tuple[int, int], int] = defaultdict(int)
    for layer in layers:
        if layer.place:
            block = layer.place.stage, layer.place.block
            convolution = layer.kind == 'conv' and layer.place.role != 'shortcut'
            widths[block] = max(widths[block], layer.tensors['weight'].shape[0] if convolution else 0)
    blocks = sorted(widths)
    lowest = next(layer for layer in layers if layer.place and (layer.place.stage, layer.place.block) == blocks[0])
    first_stage, first = blocks[0]
    if first_stage != -1:
        _check_first(first_stage, lowest, names, 'stage')
        first = min(index for _, index in blocks)
        if first > 1:
            refuse(f'the first block of a stage is missing (as in {show(lowest.name)}): {INCOMPLETE}')
        return {(s, i): f'layer{s + 1 - first_stage}.{i - first}' for s, i in blocks}
    if blocks[-1][0] != -1:
        refuse(f'{show(lowest.name)} is numbered in another way than other blocks; {OTHER}')
    _check_first(first, lowest, names, 'block')
    result, stage, before = {}, 1, blocks[0]
    for block in blocks:
        if widths[block] != widths[before]:
            stage, first = stage + 1, before[1] + 1
        result[block], before = f'layer{stage}.{block[1] - first}', block
    return result


def _check_first(number: int, layer: _Layer, names: list[str], what: str) -> None:
    """Check that the first number is 0 or 1, or follows the numbers of the stem: layers.3 after layers.0 and layers.1."""
    assert layer.place
    word = re.match(r'\D*', layer.name[len(layer.place.prefix) :])
    spelled = word[0] if word else ''
    counted = chain.from_iterable(
        re.findall(rf'^{re.escape(layer.place.prefix + spelled)}(\d+)', name) for name in names
    )
    gap = 3 if f'.{spelled}'.endswith('.') else 1  # in a list, an activation and an identity may be in between
    follows = any(number - gap <= int(found) < number for found in counted)
    first = 2 if re.fullmatch(FROM_2, spelled, re.IGNORECASE) else 1
    if number > first and not follows:
        refuse(f'{what} {first} is missing before {number} (as in {show(layer.name)}): {INCOMPLETE}')
