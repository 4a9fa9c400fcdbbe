"""Rename the keys of a checkpoint to native names, using the vocabulary and the kind of each layer."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor

from resnet_hub.checkpoints.network import FAMILIES
from resnet_hub.checkpoints.refusal import INCOMPLETE, OTHER, find_hint, refuse, refuse_shape, refuse_tensor, show
from resnet_hub.checkpoints.vocabulary import FINAL_NORM, FROM_2, OUTSIDE, SHORTCUT, Place, parse_block
from resnet_hub.tables.family import Family

#: for a branch that is an nn.Sequential: the distances between two successive layers. A norm follows its convolution
#: directly; between a norm and the next convolution are an activation, and perhaps dropout
_STEPS = {('conv', 'norm'): (1,), ('norm', 'conv'): (2, 3)}


class Renamed(NamedTuple):
    """A state dict under native names."""

    family: Family
    tensors: dict[str, Tensor]
    sources: dict[str, str]  #: for each native key, the key in the source
    second_names: list[str]  #: keys in the source of tensors that have another key there too


class _Layer(NamedTuple):
    """The tensors of one module of the source."""

    name: str
    tensors: dict[str, Tensor]
    place: Place

    @property
    def kind(self) -> str:
        """Return 'conv', 'norm' or 'linear', judged by the tensors; '' for anything else."""
        if 'running_mean' in self.tensors or 'running_var' in self.tensors:
            return 'norm'
        weight = self.tensors.get('weight')
        return '' if weight is None else {4: 'conv', 2: 'linear', 1: 'norm'}.get(weight.ndim, '')


def rename(tensors: Mapping[str, Tensor]) -> Renamed:
    """Give every tensor its native name.

    Args:
        tensors: a state dict with the names of any code base.

    Raises:
        InputError: a layer is unknown, the layers do not form residual blocks, or two layers get the same native name.
    """
    layers = _find_layers(tensors)
    inside = [layer for layer in layers if layer.place.role]
    blocks, numbers = _number_blocks(inside, [layer.name for layer in layers]), _number_layers(inside)
    names = {layer.name: _in_block(layer, blocks[layer.place[2:4]], numbers.get(layer.name, 0)) for layer in inside}
    family = _find_family({names[layer.name]: layer for layer in inside})
    names |= {layer.name: _outside(layer, family or FAMILIES[0]) for layer in layers if not layer.place.role}
    unknown = [key for key in tensors if not names[key.rpartition('.')[0]]]
    if unknown:
        key = next(filter(find_hint, unknown), unknown[0])
        refuse_tensor(key, tensors[key].shape)
    if family is None:
        refuse(
            'no block changes the width, so that the file does not show whether a norm comes before or after each '
            f'convolution; {OTHER}'
        )
    taken, second_names = _drop_second_names(layers, names)
    sources = {f'{native}.{key}': f'{layer.name}.{key}' for native, layer in taken.items() for key in layer.tensors}
    return Renamed(family, {native: tensors[key] for native, key in sources.items()}, sources, second_names)


def _drop_second_names(layers: list[_Layer], names: Mapping[str, str]) -> tuple[dict[str, _Layer], list[str]]:
    """Return one layer for each native name, and the keys of layers that are a second name of the same memory.

    Raises:
        InputError: two layers with different tensors get the same native name.
    """
    taken: dict[str, _Layer] = {}
    second_names = []
    for layer in layers:
        other = taken.setdefault(names[layer.name], layer)
        if other is layer:
            continue
        addresses = [{key: tensor.data_ptr() for key, tensor in item.tensors.items()} for item in (other, layer)]
        if addresses[0] != addresses[1] or not all(addresses[0].values()):
            keys = [f'{item.name}.{next(iter(item.tensors))}' for item in (other, layer)]
            if find_hint(keys[1]):
                refuse_tensor(keys[1], next(iter(layer.tensors.values())).shape)
            refuse(
                f'{" and ".join(map(show, keys))} take the same place ({names[layer.name]}): {OTHER}, or remove the one '
                'that it does not use'
            )
        second_names += [f'{layer.name}.{key}' for key in layer.tensors]
    return taken, second_names


def _find_layers(tensors: Mapping[str, Tensor]) -> list[_Layer]:
    """Return the layers. Those of a block that are not in its branch are its shortcut, whatever their name."""
    modules: dict[str, dict[str, Tensor]] = defaultdict(dict)
    for key, tensor in tensors.items():
        module, _, parameter = key.rpartition('.')
        modules[module][parameter] = tensor
    layers = [_Layer(name, found, parse_block(name) or OUTSIDE) for name, found in modules.items()]
    blocks = {layer.place.name: layer.place for layer in layers if layer.place.role}
    for i, layer in enumerate(layers):
        starts = [layer.name[: match.end()] for match in re.finditer(r'\.', layer.name)]
        block = next((blocks[start] for start in reversed(starts) if start in blocks), OUTSIDE)
        if block.role and not layer.place.role:
            found = re.fullmatch(SHORTCUT, layer.name[len(block.name) :])
            number = int(found['n'] or -1) if found else 9
            layers[i] = layer._replace(place=block._replace(role='shortcut', number=number))
    return layers


def _number_layers(layers: list[_Layer]) -> dict[str, int]:
    """Return the number from 1 of each convolution and norm in its branch. A layer at an unusual position has none."""
    first = min((layer.place.number for layer in layers if layer.place.role == 'branch'), default=1)
    numbers = {layer.name: layer.place.number + 1 - min(first, 1) for layer in layers if layer.place.role == 'branch'}
    sequences: dict[str, list[_Layer]] = defaultdict(list)
    for layer in layers:
        if layer.place.role == 'sequence':
            sequences[layer.place.name].append(layer)
    usual: dict[tuple[str, int], int] = {}  # the step before each layer must be the same in every block
    for sequence in sequences.values():
        sequence.sort(key=lambda layer: layer.place.number)
        counts: Counter[str] = Counter()
        for before, layer in zip([None, *sequence], sequence, strict=False):
            counts[layer.kind] += 1
            if before:
                step = layer.place.number - before.place.number
                steps = _STEPS.get((before.kind, layer.kind), ())
                if step not in steps or usual.setdefault((layer.kind, counts[layer.kind]), step) != step:
                    break
            numbers[layer.name] = counts[layer.kind]
    return numbers


def _in_block(layer: _Layer, block: str, number: int) -> str:
    """Return the native name of a layer in a block; '' if it is unknown."""
    position = {'conv': 0, 'norm': 1}.get(layer.kind)
    if layer.place.role == 'shortcut':
        return '' if position is None or layer.place.number not in (-1, position) else f'{block}.downsample.{position}'
    return '' if position is None or not number else f'{block}.{("conv", "bn")[position]}{number}'


def _outside(layer: _Layer, family: Family) -> str:
    """Return the native name of a layer outside of the residual blocks, judged by its kind; '' if it is unknown."""
    kind = layer.kind if layer.name else ''
    if kind == 'conv' and layer.tensors['weight'].shape[2:] == (1, 1):
        kind = 'linear'  # a classifier written as a 1×1 convolution
    if kind == 'linear' and find_hint(layer.name):
        return ''
    if kind == 'norm' and family.norm_first:
        return 'norm' if re.fullmatch(FINAL_NORM, layer.name, re.IGNORECASE) else ''
    return {'conv': 'conv1', 'linear': 'fc', 'norm': 'bn1'}.get(kind, '')


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
        convolution = layer.kind == 'conv' and layer.place.role != 'shortcut'
        widths[layer.place[2:4]] = max(widths[layer.place[2:4]], layer.tensors['weight'].shape[0] if convolution else 0)
    blocks = sorted(widths)
    lowest = next(layer for layer in layers if layer.place[2:4] == blocks[0])
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
    spelled = re.split(r'\d', layer.name[len(layer.place.prefix) :], maxsplit=1)[0]
    start = re.escape(layer.place.prefix + spelled)
    counted = {int(found[1]) for name in names if (found := re.match(rf'{start}(\d+)', name))}
    gap = 3 if f'.{spelled}'.endswith('.') else 1  # in a list, an activation and an identity may be in between
    first = 2 if re.fullmatch(FROM_2, spelled, re.IGNORECASE) else 1
    if number > first and counted.isdisjoint(range(number - gap, number)):
        refuse(f'{what} {first} is missing before {number} (as in {show(layer.name)}): {INCOMPLETE}')
