"""Which tensor goes where: the layers of a source by their role, and the network that their shapes show."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, NamedTuple

from torch import Tensor

from resnet_hub.checkpoints import layouts
from resnet_hub.checkpoints.layouts import Place, parse_block, relative
from resnet_hub.checkpoints.network import Network
from resnet_hub.checkpoints.refusal import INCOMPLETE, OTHER, refuse, refuse_shape, refuse_tensor, show
from resnet_hub.models import CifarResNet, PreActResNet, ResidualNet

_NORM = ('weight', 'bias', 'running_mean', 'running_var')
COUNTER = 'num_batches_tracked'


class Module(NamedTuple):
    """A layer of the source, by its parameters."""

    name: str
    kind: str  #: conv, norm or linear
    tensors: dict[str, Tensor]

    @property
    def weight(self) -> Tensor:
        return self.tensors['weight']

    def key(self, parameter: str) -> str:
        return f'{self.name}.{parameter}' if self.name else parameter


def group(tensors: Mapping[str, Tensor]) -> dict[str, Module]:
    """Tensors to layers, by what they are, not by what they are called."""
    layers: dict[str, dict[str, Tensor]] = defaultdict(dict)
    for key, tensor in tensors.items():
        module, _, parameter = key.rpartition('.')
        layers[module][parameter] = tensor
    return {name: Module(name, _kind(name, parameters), parameters) for name, parameters in layers.items()}


def _kind(name: str, tensors: dict[str, Tensor]) -> str:
    weight = tensors.get('weight')
    if weight is None:
        refuse_tensor(f'{name}.{next(iter(tensors))}')
    statistics = 'running_mean' in tensors or 'running_var' in tensors
    kind = 'norm' if statistics else {4: 'conv', 2: 'linear'}.get(weight.ndim, '')
    if not kind:
        if weight.ndim == 1 and set(tensors) <= {'weight', 'bias'}:
            what = 'a norm without running statistics (group, layer or instance norm?) or a learnt scale'
            refuse(f'{show(name)}.weight of shape {tuple(weight.shape)} is {what}: {OTHER}')
        refuse_tensor(f'{name}.weight', f' of shape {tuple(weight.shape)}')
    allowed = (*_NORM, COUNTER) if kind == 'norm' else ('weight', 'bias')
    for parameter in tensors:
        if parameter not in allowed:
            refuse_tensor(f'{name}.{parameter}')
    for parameter in _NORM if kind == 'norm' else ('weight',):
        if parameter not in tensors:
            refuse(f'{show(name)}.{parameter} is missing, which belongs to {show(name)}.weight: {INCOMPLETE}')
        if kind == 'norm' and tensors[parameter].ndim != 1:
            refuse_shape(f'{name}.{parameter}', tensors[parameter].shape, 'one number for each channel')
    return kind


@dataclass
class Block:
    """The layers of a residual block in the source."""

    name: str
    convs: dict[int, Module] = field(default_factory=dict)
    norms: dict[int, Module] = field(default_factory=dict)
    shortcut: dict[str, Module] = field(default_factory=dict)  #: 'conv' and 'norm'
    sequential: bool = False

    def add(self, place: Place, module: Module) -> None:
        if module.kind == 'linear':
            refuse_tensor(module.key('weight'), ' within a block')
        target: dict[Any, Module] = self.convs if module.kind == 'conv' else self.norms
        slot: Any = place.branch
        if place.branch < 0:
            target, slot = self.shortcut, module.kind
            number = re.search(r'\.(\d+)$', module.name)
            if number and int(number[1]) != (module.kind == 'norm'):
                refuse(
                    f'{show(module.name)} stands at place {number[1]} of a shortcut whose first is the convolution: '
                    f'something without weights (average pooling?) comes before it; {OTHER}'
                )
        if slot in target:
            refuse(f'{show(target[slot].name)} and {show(module.name)} are the same layer twice: remove one of them')
        self.sequential |= place.sequential
        target[slot] = module


@dataclass
class Places:
    """All layers of the source by their role."""

    blocks: list[list[Block]]
    stems: list[Module]
    norms: list[Module]
    linears: list[Module]
    names: dict[str, str] = field(default_factory=dict)  #: source module without its prefix, by source module

    @classmethod
    def of(cls, modules: Mapping[str, Module], prefix: str) -> Places:
        blocks: dict[tuple[int, int], Block] = {}
        rest: dict[str, list[Module]] = {'conv': [], 'norm': [], 'linear': []}
        names = {}
        for name, module in modules.items():
            place = parse_block(f'{name}.weight')
            names[name] = place.spelling if place else relative(name, prefix)
            if place is None:
                rest[module.kind].append(module)
                continue
            block = blocks.setdefault((place.stage, place.block), Block(name))
            block.add(place, module)
        others = [module.name for kind in rest.values() for module in kind]
        return cls(_stages(blocks, others), rest['conv'], rest['norm'], rest['linear'], names)

    def network(self) -> Network:
        """The network that a few shapes show; every other shape is checked against it later."""
        depth = {len(block.convs) for stage in self.blocks for block in stage}
        for stage in self.blocks:
            for block in stage:
                _check_block(block, self.blocks[0][0])
        cls = self._family()
        stem = self._stem()
        linear = self._classifier()
        channels = self._last(self.blocks[-1][-1].convs).weight.shape[0]
        final_norm = self._check_norms(cls, stem, channels)
        if linear.weight.shape[1] != channels:
            refuse(
                f'{linear.key("weight")} reads {linear.weight.shape[1]} features, the last block has {channels}: a '
                f'network with another pooling or an unknown layer before the classifier; {OTHER}'
            )
        network = Network(
            cls=cls,
            block='basic' if depth == {2} else 'bottleneck',
            layers=tuple(len(stage) for stage in self.blocks),
            widths=tuple(self._first(stage[0].convs).weight.shape[0] for stage in self.blocks),
            stem_width=stem.weight.shape[0],
            num_classes=linear.weight.shape[0],
            in_chans=stem.weight.shape[1],
            shortcut_type='B' if any(block.shortcut for stage in self.blocks for block in stage) else 'A',
            final_norm=final_norm,
        )
        if min(network.stem_width, network.num_classes, network.in_chans, *network.widths) < 1:
            refuse(f'{stem.key("weight")} or a layer after it has no channels: the file is damaged')
        return network

    @staticmethod
    def _first(layers: dict[int, Module]) -> Module:
        return layers[min(layers)]

    @staticmethod
    def _last(layers: dict[int, Module]) -> Module:
        return layers[max(layers)]

    def _family(self) -> type[ResidualNet]:
        """Where a block changes the width, its first norm has the width of what it normalises."""
        shown: dict[type[ResidualNet], Module] = {}
        for block in (block for stage in self.blocks for block in stage):
            norm, conv = self._first(block.norms), self._first(block.convs)
            after, before = conv.weight.shape[:2]
            if before == after:
                continue
            width = norm.weight.shape[0]
            if width not in (before, after):
                refuse_shape(norm.key('weight'), (width,), f'({after},) after {conv.name} or ({before},) before it')
            shown.setdefault(CifarResNet if width == after else PreActResNet, norm)
        if len(shown) != 1:
            both = ' and '.join(show(norm.name) for norm in shown.values()) or 'no block changes the width'
            refuse(f'cannot tell whether the norms stand before or after the convolutions ({both}): {OTHER}')
        return next(iter(shown))

    def _stem(self) -> Module:
        stems = [conv for conv in self.stems if not self._is_classifier(conv)]
        if not stems:
            refuse(f'no convolution before the blocks: the stem is missing; {OTHER}')
        if len(stems) > 1:
            refuse(
                f'{" and ".join(show(conv.key("weight")) for conv in stems[:3])} stand outside of the blocks, where one '
                f'3×3 stem was expected; {OTHER}'
            )
        if not re.fullmatch(layouts.STEM, self.names[stems[0].name], re.IGNORECASE):
            refuse_tensor(stems[0].key('weight'), f' of shape {tuple(stems[0].weight.shape)}')
        kernel = tuple(stems[0].weight.shape[2:])
        if kernel != (3, 3):
            what = 'an ImageNet ResNet' if kernel == (7, 7) else f'a network with a {kernel[0]}×{kernel[1]} stem'
            refuse(
                f'{stems[0].key("weight")} has shape {tuple(stems[0].weight.shape)}, which shows {what}; a 3×3 stem '
                f'was expected: {OTHER}'
            )
        return stems[0]

    def _is_classifier(self, module: Module) -> bool:
        """A linear layer, also when written as a 1×1 convolution."""
        named = re.fullmatch(layouts.CLASSIFIER, self.names[module.name], re.IGNORECASE)
        return module.kind == 'linear' or bool(named and module.weight.shape[2:] == (1, 1))

    def _classifier(self) -> Module:
        linears = [*self.linears, *(conv for conv in self.stems if self._is_classifier(conv))]
        if not linears:
            refuse(f'no linear layer: the classifier is missing, so that this is a feature extractor; {OTHER}')
        unknown = [item for item in linears if not re.fullmatch(layouts.CLASSIFIER, self.names[item.name], re.I)]
        if unknown:
            refuse_tensor(unknown[0].key('weight'), f' of shape {tuple(unknown[0].weight.shape)}')
        if len(linears) > 1:
            named = ' and '.join(show(item.key('weight')) for item in linears[:3])
            refuse(f'{named} are several linear layers, where one classifier was expected; {OTHER}')
        if 'bias' not in linears[0].tensors:
            refuse(
                f'{linears[0].key("bias")} is missing: a classifier without bias may also compare directions (cosine), '
                'which the file does not show; add a bias of zeros if it is linear'
            )
        return linears[0]

    def _check_norms(self, cls: type[ResidualNet], stem: Module, channels: int) -> bool:
        """One norm after the stem (V1), none or one after the last block (V2); returns whether there is the latter."""
        width = stem.weight.shape[0]
        if cls is CifarResNet:
            if len(self.norms) != 1:
                names = ', '.join(show(norm.name) for norm in self.norms) or 'none'
                refuse(
                    f'norms outside of the blocks: {names}, where the one after the stem was expected (the blocks '
                    f'have their norms after the convolutions); {OTHER}'
                )
            if not re.fullmatch(layouts.STEM_NORM, self.names[self.norms[0].name], re.IGNORECASE):
                refuse_tensor(self.norms[0].key('weight'), f' of shape {tuple(self.norms[0].weight.shape)}')
            if self.norms[0].weight.shape != (width,):
                refuse_shape(self.norms[0].key('weight'), self.norms[0].weight.shape, f'({width},) as the stem')
            return False
        for norm in self.norms:
            named = re.fullmatch(layouts.FINAL_NORM, self.names[norm.name], re.IGNORECASE)
            if len(self.norms) > 1 or not named or norm.weight.shape != (channels,):
                refuse(
                    f'{show(norm.name)} of {norm.weight.shape[0]} channels is no norm after the last block '
                    f'({channels} channels) of a pre-activation network, which has no other outside of its blocks: '
                    f'a stem norm makes it another network; {OTHER}'
                )
        return bool(self.norms)

    def roles(self, network: Network) -> dict[str, Module]:
        """Our module names, as far as the source has them, to its layers."""
        roles = {'conv1': self._stem(), 'fc': self._classifier()}
        if self.norms:
            roles['bn1' if network.cls is CifarResNet else 'norm'] = self.norms[0]
        for s, stage in enumerate(self.blocks):
            for i, block in enumerate(stage):
                name = f'layer{s + 1}.{i}'
                for kind, layers in (('conv', block.convs), ('bn', block.norms)):
                    for k, number in enumerate(sorted(layers)):
                        roles[f'{name}.{kind}{k + 1}'] = layers[number]
                for place, kind in enumerate(('conv', 'norm')):
                    if kind in block.shortcut:
                        roles[f'{name}.downsample.{place}'] = block.shortcut[kind]
        return roles

    def layout(self, network: Network) -> str:
        """The row of the table that spells the source; '' if none does."""
        roles = self.roles(network)
        for title, layout in layouts.LAYOUTS.items():
            facts = (network.family, network.block, len(network.layers), network.shortcut_type, network.final_norm)
            if layouts.cannot_hold(layout, *facts):
                continue
            if all(self._spells(layout, ours, theirs) for ours, theirs in roles.items()):
                return title
        return ''

    def spelling(self, network: Network) -> str:
        """A spelling of no row, by examples."""
        roles = self.roles(network)
        samples = ('conv1', 'layer2.0.conv1', 'layer2.0.downsample.0', 'fc')
        return f'mixed ({", ".join(show(self.names[roles[ours].name]) for ours in samples if ours in roles)})'

    def _spells(self, layout: layouts.Layout, ours: str, theirs: Module) -> bool:
        spelled = layout.wrapper + layouts.spell(layout, ours)
        return f'.{theirs.name}'.endswith(f'.{spelled}')


def _stages(blocks: dict[tuple[int, int], Block], others: Iterable[str]) -> list[list[Block]]:
    """Blocks in the order of their numbers; one list of all is cut where the width changes.

    `others` are the layers outside of the blocks, by name.
    """
    ordered = [blocks[number] for number in sorted(blocks)]
    numbers: dict[int, list[int]] = defaultdict(list)
    for stage, index in sorted(blocks):
        numbers[stage].append(index)
    for indices in numbers.values():
        _check_consecutive(indices, ordered[0].name, 'block')
    for block in ordered:
        if not block.convs or not block.norms:
            refuse(f'the block of {show(block.name)} lacks its {"norms" if block.convs else "convolutions"}: {OTHER}')
    if 0 in numbers:
        if len(numbers) > 1:
            refuse(f'{show(ordered[0].name)} and {show(ordered[-1].name)} number their blocks in two ways; {OTHER}')
        _check_first(numbers[0][0], ordered[0].name, others, 'block')
        stages: list[list[Block]] = []
        for block in ordered:
            width = block.convs[max(block.convs)].weight.shape[0]
            if not stages or stages[-1][-1].convs[max(stages[-1][-1].convs)].weight.shape[0] != width:
                stages.append([])
            stages[-1].append(block)
    else:
        counted = [number - 1 for number in numbers]  # as the source counts
        _check_consecutive(counted, ordered[0].name, 'stage')
        _check_first(counted[0], ordered[0].name, others, 'stage')
        begin = {indices[0] for indices in numbers.values()}
        if len(begin) > 1 or max(begin) > 1:
            refuse(f'the first block of a stage is missing (as in {show(ordered[0].name)}): {INCOMPLETE}')
        stages = [[blocks[stage, index] for index in numbers[stage]] for stage in numbers]
    if len(stages) not in (3, 4):
        refuse(f'{len(stages)} stages of residual blocks, where three or four were expected; {OTHER}')
    return stages


def _check_first(number: int, block: str, others: Iterable[str], what: str) -> None:
    """Counting begins at 0 or 1, or where the stem ends that is counted along: layers.3 after layers.0 and layers.1."""
    place = parse_block(f'{block}.weight')
    prefix = place.prefix if place else ''
    word = re.match(r'\D*', block[len(prefix) :])
    spelled = word[0] if word else ''
    counted = (re.match(rf'{re.escape(prefix + spelled)}(\d+)', other) for other in others)
    gap = 3 if spelled.endswith('.') else 1  # in a list, an activation and an identity may stand between
    follows = any(number - gap <= int(found[1]) < number for found in counted if found)
    first = 2 if re.fullmatch(layouts.FROM_2, spelled, re.IGNORECASE) else 1
    if number > first and not follows:
        refuse(f'{what} {first} is missing before {number} (as in {show(block)}): {INCOMPLETE}')


def _check_consecutive(numbers: list[int], example: str, what: str) -> None:
    for before, after in pairwise(numbers):
        if after != before + 1:
            refuse(f'{what} {before + 1} is missing between {before} and {after} (as in {show(example)}): {INCOMPLETE}')


def _check_block(block: Block, first: Block) -> None:
    convs, norms = len(block.convs), len(block.norms)
    extra = block.convs[max(block.convs)]
    kernels = [tuple(block.convs[number].weight.shape[2:]) for number in sorted(block.convs)]
    expected = {2: [(3, 3), (3, 3)], 3: [(1, 1), (3, 3), (1, 1)]}.get(convs)
    if kernels != expected:
        shown = ', '.join(f'{k[0]}×{k[1]}' for k in kernels)
        refuse(
            f'{extra.key("weight")}: the block has convolutions of {shown}, where 3×3, 3×3 (basic) or 1×1, 3×3, 1×1 '
            f'(bottleneck) were expected; {OTHER}'
        )
    if norms != convs:
        names = ', '.join(show(block.norms[number].name) for number in sorted(block.norms))
        refuse(f'{convs} convolutions and {norms} norms ({names}) in one block, where as many were expected; {OTHER}')
    if convs != len(first.convs):
        refuse(f'{show(extra.name)}: blocks of {len(first.convs)} and of {convs} convolutions in one network; {OTHER}')
    if block.sequential:
        found = (tuple(sorted(block.convs)), tuple(sorted(block.norms)))
        if found != layouts.SEQUENCES[convs]:
            refuse(
                f'{show(extra.name)}: convolutions at places {found[0]} and norms at {found[1]} of a sequence, where '
                f'{layouts.SEQUENCES[convs][0]} and {layouts.SEQUENCES[convs][1]} were expected; {OTHER}'
            )
    for layers, example in ((block.convs, first.convs), (block.norms, first.norms)):
        numbers = sorted(layers)
        if numbers != sorted(example) or not (block.sequential or numbers in (_FROM_0[convs], _FROM_1[convs])):
            names = ', '.join(show(layers[number].name) for number in numbers)
            refuse(f'{names}: layers of a block that are not numbered from 0 or 1, as in every other block; {OTHER}')


_FROM_0 = {2: [0, 1], 3: [0, 1, 2]}
_FROM_1 = {2: [1, 2], 3: [1, 2, 3]}
