"""Keys and shapes to a network: which one a state dict belongs to, and its tensors under our names.

Nothing here trusts a name that shapes can contradict: from a few shapes follows the network, the network says what
every tensor must look like, and each tensor is used exactly once, or named as dropped, or the file is refused.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, NamedTuple, NoReturn

import torch
from torch import Tensor

from ..errors import InputError
from ..models import ARCHITECTURES, Architecture, CifarResNet, PreActResNet, ResidualNet
from . import layouts
from .witness import Testimony, hear

_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_NORM = ('weight', 'bias', 'running_mean', 'running_var')
_COUNTER = 'num_batches_tracked'
_OTHER = 'it is of another network than ours; use it with the code that trained it'
_INCOMPLETE = 'the file is incomplete; take another copy'


@dataclass(frozen=True)
class Network:
    """Everything that decides a network's function but its weights."""

    cls: type[ResidualNet]
    block: str
    layers: tuple[int, ...]
    widths: tuple[int, ...]
    stem_width: int
    num_classes: int
    in_chans: int
    shortcut_type: str = 'B'
    final_norm: bool = False

    @property
    def family(self) -> str:
        return self.cls.__name__

    def build(self, **kwargs: Any) -> ResidualNet:
        fields = ('block', 'layers', 'widths', 'stem_width', 'num_classes', 'in_chans', 'shortcut_type')
        norm: dict[str, Any] = {'final_norm': self.final_norm} if self.cls is PreActResNet else {}
        return self.cls(**{name: getattr(self, name) for name in fields}, **norm, **kwargs)

    def architecture(self) -> tuple[str, dict[str, Any]]:
        """The row of the tables that is this network, or comes closest, and the arguments that make up the rest."""
        names = [name for name, (cls, _) in ARCHITECTURES.items() if cls is self.cls]
        name = min(names, key=lambda name: self._distance(ARCHITECTURES[name][1]))
        return name, self._difference(ARCHITECTURES[name][1])

    def _difference(self, row: Architecture) -> dict[str, Any]:
        theirs = {'shortcut_type': 'B', 'stem_width': row.widths[0], 'final_norm': True, **row.model_args()}
        fields = ['block', 'layers', 'widths', 'shortcut_type']
        fields += ['final_norm'] if self.cls is PreActResNet else []
        args = {name: getattr(self, name) for name in fields if getattr(self, name) != theirs[name]}
        # a row that names no stem width has that of its first stage, so that new widths bring a new stem along
        stem = theirs['stem_width'] if 'stem_width' in row.args else args.get('widths', row.widths)[0]
        return {**args, 'stem_width': self.stem_width} if self.stem_width != stem else args

    def _distance(self, row: Architecture) -> tuple[Any, ...]:
        args = self._difference(row)
        structural = [name for name in ('block', 'layers', 'widths', 'stem_width') if name in args]
        return (
            'block' in args,
            len(row.layers) != len(self.layers),
            len(structural),
            len(args),
            abs(sum(row.layers) - sum(self.layers)),
            abs(row.widths[-1] - self.widths[-1]),
        )


@dataclass(frozen=True)
class Recognised:
    """A network, its tensors under our names, and how that came about."""

    network: Network
    state_dict: dict[str, Tensor]
    layout: str  #: how the source spells it, in words
    dropped: dict[str, str] = field(default_factory=dict)  #: source tensors that were left out, and why
    assumptions: list[str] = field(default_factory=list)
    counters: bool = True  #: whether the source has the norms' counters of batches
    mean: tuple[float, ...] = ()  #: of the input, where the file holds a layer that normalises it
    std: tuple[float, ...] = ()


class Candidate(NamedTuple):
    """A network's tensors within a file."""

    name: str  #: containers and prefix, dotted
    prefix: str  #: within the mapping, before the blocks' keys
    tensors: dict[str, Tensor]  #: everything in the mapping that is not another network's


def refuse(message: str) -> NoReturn:
    raise InputError(' '.join(message.split()))


def show(key: object) -> str:
    """A name out of a file, short and on one line."""
    text = str(key)
    text = text if text.isprintable() else ascii(text)
    return text if len(text) <= 90 else f'{text[:60]}…{text[-25:]}'


def recognise(tree: Any, key: str | None = None, attested: bool = False) -> Recognised:
    """Find the network in what a file holds, and its tensors under our names.

    Args:
        tree: nested mappings with tensors in them.
        key: the network to take where there are several: its containers and prefix, as the refusal lists them.
        attested: the network is known from elsewhere, so that the statistics need not testify to it.

    Raises:
        InputError: no network of ours, several without a key, or a tensor that does not fit.
    """
    candidate, dropped = choose(tree, key)
    for name, tensor in candidate.tensors.items():
        check_tensor(name, tensor)
    tensors, masks, notes = _apply_masks(candidate.tensors)
    tensors, mean, std = _take_constants(tensors, candidate.prefix)
    places = Places.of(group(tensors), candidate.prefix)
    network = places.network()
    state_dict, folded = _assemble(network, places)
    layout = places.layout(network)
    told = Testimony() if attested else hear(network, state_dict)
    shown = _judge(network, told, known=attested or bool(layout))
    return Recognised(
        network=network,
        state_dict=state_dict,
        layout=(layout or places.spelling(network)) + (f' under {show(candidate.name)}' if candidate.name else ''),
        dropped={**dropped, **masks},
        assumptions=[*notes, *folded, *shown],
        counters=any(key.endswith(_COUNTER) for key in tensors),
        mean=mean,
        std=std,
    )


# ------------------------------------------------------------------------------------- which tensors are the network


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
            listed = ', '.join(repr(show(item.name)) for item in candidates[:9]) or 'none'
            refuse(f'no network {key!r} in the file; give one of: {listed}')
        candidates = chosen
    if not candidates:
        _refuse_unknown([name for _, mapping in mappings for name in mapping])
    if len(candidates) > 1:
        listed = ', '.join(repr(show(item.name)) for item in candidates[:9])
        refuse(f'the file holds {len(candidates)} networks, {listed}: choose one with --key')
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


def _refuse_unknown(names: list[str]) -> NoReturn:
    if not names:
        refuse('no tensors in the file: give a checkpoint with a state dict in it')
    for pattern, what in layouts.OTHER_NETWORKS:
        found = next((name for name in names if re.search(pattern, name)), None)
        if found:
            refuse(f'no residual blocks among the {len(names)} tensors, and {show(found)} shows {what}: {_OTHER}')
    listed = ', '.join(show(name) for name in names[:3])
    refuse(f'no residual blocks among the {len(names)} tensors ({listed} …): {_OTHER}')


def check_tensor(name: str, tensor: Tensor) -> None:
    """Refuse what is no plain tensor with all its numbers in the file."""
    if tensor.layout != torch.strided or tensor.is_quantized:
        refuse(
            f'{show(name)} is a {"quantised" if tensor.is_quantized else tensor.layout} tensor, not a plain one: save it as float32'
        )
    if tensor.is_complex() or (tensor.is_floating_point() and tensor.dtype not in _FLOATS):
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


def _apply_masks(tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str], list[str]]:
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


def _take_constants(
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
        refuse(f'{show(means[0])} and {show(stds[0])} are no mean and std of pixels from 0 to 1: {_OTHER}')
    rest = {name: tensor for name, tensor in tensors.items() if name not in (means[0], stds[0])}
    return rest, mean, std


def _check_mask(name: str, mask: Tensor, weight: Tensor) -> None:
    if mask.shape != weight.shape or not bool(((mask == 0) | (mask == 1)).all()):
        refuse(f'{show(name)} is no mask of zeros and ones of shape {tuple(weight.shape)}: save the masked weights')


# ------------------------------------------------------------------------------------------- which tensor goes where


class Place(NamedTuple):
    """Where a module sits in a residual block."""

    prefix: str
    stage: int  #: 0 where the spelling has one list of all blocks
    block: int
    branch: int  #: number within the branch; -1 in the shortcut
    sequential: bool = False  #: numbered by an nn.Sequential
    spelling: str = ''


_ROWS = [re.compile(row, re.IGNORECASE) for row in layouts.BLOCKS]
_BRANCH = [re.compile(row, re.IGNORECASE) for row in layouts.BRANCH]
_SEQUENTIAL = re.compile(layouts.SEQUENTIAL, re.IGNORECASE)
_SHORTCUT = re.compile(layouts.SHORTCUT, re.IGNORECASE)


def parse_block(key: str) -> Place | None:
    """The place of a tensor in a residual block, if its key spells one."""
    module = key.rpartition('.')[0]
    starts = [0, *(match.end() for match in re.finditer(r'\.', module))]
    for start in starts:
        for row in _ROWS:
            found = row.match(module, start)
            if not found:
                continue
            inner = _parse_inner(module[found.end() :])
            if inner is not None:
                stage = int(found['stage']) + 1 if 'stage' in row.groupindex else 0
                return Place(module[:start], stage, int(found['index']), *inner, found[0] + module[found.end() :])
    return None


def _parse_inner(inner: str) -> tuple[int, bool] | None:
    for pattern in _BRANCH:
        found = pattern.fullmatch(inner)
        if found:
            return ('abc'.find(found['n'].lower()) + 1) or int(found['n']), False
    found = _SEQUENTIAL.fullmatch(inner)
    if found:
        return int(found['n']), True
    return (-1, False) if _SHORTCUT.fullmatch(inner) else None


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
            refuse(f'{show(name)}.weight of shape {tuple(weight.shape)} is {what}: {_OTHER}')
        refuse_tensor(f'{name}.weight', f' of shape {tuple(weight.shape)}')
    allowed = (*_NORM, _COUNTER) if kind == 'norm' else ('weight', 'bias')
    for parameter in tensors:
        if parameter not in allowed:
            refuse_tensor(f'{name}.{parameter}')
    for parameter in _NORM if kind == 'norm' else ('weight',):
        if parameter not in tensors:
            refuse(f'{show(name)}.{parameter} is missing, which belongs to {show(name)}.weight: {_INCOMPLETE}')
        if kind == 'norm' and tensors[parameter].ndim != 1:
            _refuse_shape(f'{name}.{parameter}', tensors[parameter].shape, 'one number for each channel')
    return kind


def refuse_tensor(key: str, detail: str = '') -> NoReturn:
    """Refuse a tensor that no network of ours has, and say what it hints at."""
    key = key.lstrip('.')
    hint = next((what for pattern, what in layouts.OTHER_NETWORKS if re.search(pattern, key)), 'an unknown layer')
    refuse(f'{show(key)}{detail} belongs to no network of ours; it shows {hint}: {_OTHER}')


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
                    f'something without weights (average pooling?) comes before it; {_OTHER}'
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
        return cls(_stages(blocks), rest['conv'], rest['norm'], rest['linear'], names)

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
                f'network with another pooling or an unknown layer before the classifier; {_OTHER}'
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
                _refuse_shape(norm.key('weight'), (width,), f'({after},) after {conv.name} or ({before},) before it')
            shown.setdefault(CifarResNet if width == after else PreActResNet, norm)
        if len(shown) != 1:
            both = ' and '.join(show(norm.name) for norm in shown.values()) or 'no block changes the width'
            refuse(f'cannot tell whether the norms stand before or after the convolutions ({both}): {_OTHER}')
        return next(iter(shown))

    def _stem(self) -> Module:
        stems = [conv for conv in self.stems if not self._is_classifier(conv)]
        if not stems:
            refuse(f'no convolution before the blocks: the stem is missing; {_OTHER}')
        if len(stems) > 1:
            refuse(
                f'{" and ".join(show(conv.key("weight")) for conv in stems[:3])} stand outside of the blocks, where one '
                f'3×3 stem was expected; {_OTHER}'
            )
        if not re.fullmatch(layouts.STEM, self.names[stems[0].name], re.IGNORECASE):
            refuse_tensor(stems[0].key('weight'), f' of shape {tuple(stems[0].weight.shape)}')
        kernel = tuple(stems[0].weight.shape[2:])
        if kernel != (3, 3):
            what = 'an ImageNet ResNet' if kernel == (7, 7) else f'a network with a {kernel[0]}×{kernel[1]} stem'
            refuse(
                f'{stems[0].key("weight")} has shape {tuple(stems[0].weight.shape)}, which shows {what}; a 3×3 stem '
                f'was expected: {_OTHER}'
            )
        return stems[0]

    def _is_classifier(self, module: Module) -> bool:
        """A linear layer, also when written as a 1×1 convolution."""
        named = re.fullmatch(layouts.CLASSIFIER, self.names[module.name], re.IGNORECASE)
        return module.kind == 'linear' or bool(named and module.weight.shape[2:] == (1, 1))

    def _classifier(self) -> Module:
        linears = [*self.linears, *(conv for conv in self.stems if self._is_classifier(conv))]
        if not linears:
            refuse(f'no linear layer: the classifier is missing, so that this is a feature extractor; {_OTHER}')
        unknown = [item for item in linears if not re.fullmatch(layouts.CLASSIFIER, self.names[item.name], re.I)]
        if unknown:
            refuse_tensor(unknown[0].key('weight'), f' of shape {tuple(unknown[0].weight.shape)}')
        if len(linears) > 1:
            named = ' and '.join(show(item.key('weight')) for item in linears[:3])
            refuse(f'{named} are several linear layers, where one classifier was expected; {_OTHER}')
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
                    f'have their norms after the convolutions); {_OTHER}'
                )
            if not re.fullmatch(layouts.STEM_NORM, self.names[self.norms[0].name], re.IGNORECASE):
                refuse_tensor(self.norms[0].key('weight'), f' of shape {tuple(self.norms[0].weight.shape)}')
            if self.norms[0].weight.shape != (width,):
                _refuse_shape(self.norms[0].key('weight'), self.norms[0].weight.shape, f'({width},) as the stem')
            return False
        for norm in self.norms:
            named = re.fullmatch(layouts.FINAL_NORM, self.names[norm.name], re.IGNORECASE)
            if len(self.norms) > 1 or not named or norm.weight.shape != (channels,):
                refuse(
                    f'{show(norm.name)} of {norm.weight.shape[0]} channels is no norm after the last block '
                    f'({channels} channels) of a pre-activation network, which has no other outside of its blocks: '
                    f'a stem norm makes it another network; {_OTHER}'
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
            if all(self._spells(layout, ours, theirs, network) for ours, theirs in roles.items()):
                return title
        return ''

    def spelling(self, network: Network) -> str:
        """A spelling of no row, by examples."""
        roles = self.roles(network)
        samples = ('conv1', 'layer2.0.conv1', 'layer2.0.downsample.0', 'fc')
        return f'mixed ({", ".join(show(self.names[roles[ours].name]) for ours in samples if ours in roles)})'

    def _spells(self, layout: layouts.Layout, ours: str, theirs: Module, network: Network) -> bool:
        spelled = layout.wrapper + layouts.spell(layout, ours, network.family)
        return f'.{theirs.name}'.endswith(f'.{spelled}')


def relative(name: str, prefix: str) -> str:
    """A module's name without what it shares with the blocks' prefix and without wrappers."""
    parts, shared = name.split('.'), prefix.split('.')
    while parts and shared and parts[0] == shared[0]:
        parts, shared = parts[1:], shared[1:]
    while len(parts) > 1 and parts[0].lower() in layouts.WRAPPERS:
        parts = parts[1:]
    return '.'.join(parts)


def _stages(blocks: dict[tuple[int, int], Block]) -> list[list[Block]]:
    """Blocks in the order of their numbers; one list of all is cut where the width changes."""
    ordered = [blocks[number] for number in sorted(blocks)]
    numbers: dict[int, list[int]] = defaultdict(list)
    for stage, index in sorted(blocks):
        numbers[stage].append(index)
    for indices in numbers.values():
        _check_consecutive(indices, ordered[0].name, 'block')
    for block in ordered:
        if not block.convs or not block.norms:
            refuse(f'the block of {show(block.name)} lacks its {"norms" if block.convs else "convolutions"}: {_OTHER}')
    if 0 in numbers:
        if len(numbers) > 1:
            refuse(f'{show(ordered[0].name)} and {show(ordered[-1].name)} number their blocks in two ways; {_OTHER}')
        stages: list[list[Block]] = []
        for block in ordered:
            width = block.convs[max(block.convs)].weight.shape[0]
            if not stages or stages[-1][-1].convs[max(stages[-1][-1].convs)].weight.shape[0] != width:
                stages.append([])
            stages[-1].append(block)
    else:
        _check_consecutive([number - 1 for number in numbers], ordered[0].name, 'stage')  # as the source counts
        stages = [[blocks[stage, index] for index in numbers[stage]] for stage in numbers]
    if len(stages) not in (3, 4):
        refuse(f'{len(stages)} stages of residual blocks, where three or four were expected; {_OTHER}')
    return stages


def _check_consecutive(numbers: list[int], example: str, what: str) -> None:
    for before, after in pairwise(numbers):
        if after != before + 1:
            refuse(
                f'{what} {before + 1} is missing between {before} and {after} (as in {show(example)}): {_INCOMPLETE}'
            )


def _check_block(block: Block, first: Block) -> None:
    convs, norms = len(block.convs), len(block.norms)
    extra = block.convs[max(block.convs)]
    kernels = [tuple(block.convs[number].weight.shape[2:]) for number in sorted(block.convs)]
    expected = {2: [(3, 3), (3, 3)], 3: [(1, 1), (3, 3), (1, 1)]}.get(convs)
    if kernels != expected:
        shown = ', '.join(f'{k[0]}×{k[1]}' for k in kernels)
        refuse(
            f'{extra.key("weight")}: the block has convolutions of {shown}, where 3×3, 3×3 (basic) or 1×1, 3×3, 1×1 '
            f'(bottleneck) were expected; {_OTHER}'
        )
    if norms != convs:
        names = ', '.join(show(block.norms[number].name) for number in sorted(block.norms))
        refuse(f'{convs} convolutions and {norms} norms ({names}) in one block, where as many were expected; {_OTHER}')
    if convs != len(first.convs):
        refuse(f'{show(extra.name)}: blocks of {len(first.convs)} and of {convs} convolutions in one network; {_OTHER}')
    if block.sequential:
        found = (tuple(sorted(block.convs)), tuple(sorted(block.norms)))
        if found != layouts.SEQUENCES[convs]:
            refuse(
                f'{show(extra.name)}: convolutions at places {found[0]} and norms at {found[1]} of a sequence, where '
                f'{layouts.SEQUENCES[convs][0]} and {layouts.SEQUENCES[convs][1]} were expected; {_OTHER}'
            )
    for layers, example in ((block.convs, first.convs), (block.norms, first.norms)):
        numbers = sorted(layers)
        if numbers != sorted(example) or not (block.sequential or numbers in (_FROM_0[convs], _FROM_1[convs])):
            names = ', '.join(show(layers[number].name) for number in numbers)
            refuse(f'{names}: layers of a block that are not numbered from 0 or 1, as in every other block; {_OTHER}')


_FROM_0 = {2: [0, 1], 3: [0, 1, 2]}
_FROM_1 = {2: [1, 2], 3: [1, 2, 3]}


# ----------------------------------------------------------------------------------------------- tensors of the target


def following_norm(name: str, network: Network) -> str | None:
    """The norm that reads a convolution's output and nothing else does; None where the output goes elsewhere too."""
    owner, _, leaf = name.rpartition('.')
    if network.cls is CifarResNet:
        return {'0': f'{owner}.1'}.get(leaf) or name.replace('conv', 'bn')
    number = int(leaf[-1]) if owner and leaf.startswith('conv') else 9
    return f'{owner}.bn{number + 1}' if number < (2 if network.block == 'basic' else 3) else None


def _assemble(network: Network, places: Places) -> tuple[dict[str, Tensor], list[str]]:
    """Every tensor of the target out of exactly one of the source, shapes compared; and what was folded."""
    try:
        target = network.build(device='meta').state_dict()
    except ValueError as error:
        refuse(f'no such network: {error}; {_OTHER}')
    roles = places.roles(network)
    wanted = {key.rpartition('.')[0] for key in target}
    for name, module in roles.items():
        if name not in wanted:
            what = 'a projection where neither width nor stride changes' if 'downsample' in name else name
            refuse(f'{show(module.name)} ({what}) has no place in a network of {network.block} blocks; {_OTHER}')
    state_dict = {}
    for key in target:
        name, _, parameter = key.rpartition('.')
        if name not in roles:
            refuse(
                f'the file has no tensor for {key} of shape {tuple(target[key].shape)}, which such a network needs; '
                f'the file is incomplete or of another network'
            )
        state_dict[key] = _take(roles[name], parameter, target[key])
    return _fold(state_dict, roles, network)


def _take(module: Module, parameter: str, target: Tensor) -> Tensor:
    if parameter == _COUNTER:
        counter = module.tensors.get(parameter, torch.tensor(0))
        if counter.numel() != 1:
            _refuse_shape(module.key(parameter), counter.shape, 'one number')
        return counter.reshape(()).to(torch.int64)
    tensor = module.tensors.get(parameter)
    if tensor is None:
        refuse(f'{module.key(parameter)} is missing: {_INCOMPLETE}')
    if parameter == 'weight' and module.kind == 'conv' and target.ndim == 2 and tensor.shape[2:] == (1, 1):
        tensor = tensor.flatten(1)  # a classifier written as a 1×1 convolution
    if tensor.dtype not in _FLOATS:
        refuse(f'{module.key(parameter)} is {tensor.dtype}, where floating-point numbers were expected')
    if tensor.shape != target.shape:
        _refuse_shape(module.key(parameter), tensor.shape, str(tuple(target.shape)), grouped=target.ndim == 4)
    return tensor


def _refuse_shape(key: str, found: Any, expected: str, grouped: bool = False) -> NoReturn:
    found = tuple(found)
    hint = ''
    if grouped and len(found) == 4 and f'({found[0]}, ' in expected and f', {found[2]}, {found[3]})' in expected:
        hint = ' (a grouped convolution, as in ResNeXt, or pruned channels?)'
    refuse(f'{show(key)} has shape {found}, where {expected} was expected{hint}: {_OTHER}')


def _fold(
    state_dict: dict[str, Tensor], roles: dict[str, Module], network: Network
) -> tuple[dict[str, Tensor], list[str]]:
    """A convolution's bias in front of a norm only shifts what the norm subtracts: norm(x + b) has the mean m - b."""
    convs = {name: module for name, module in roles.items() if module.kind == 'conv' and name != 'fc'}
    kinds: dict[str, dict[bool, str]] = defaultdict(dict)  # by place, so that a single lost bias is noticed
    for name, module in convs.items():
        kinds['stem' if '.' not in name else name.split('.', 2)[2]][('bias' in module.tensors)] = module.key('bias')
    for both in kinds.values():
        if len(both) == 2:
            refuse(f'{show(both[False])} is missing, but {show(both[True])} is there: {_INCOMPLETE}')
    biased = {name: module for name, module in convs.items() if 'bias' in module.tensors}
    for name, module in biased.items():
        norm = following_norm(name, network)
        if norm is None:
            refuse(
                f'{module.key("bias")}: a bias on what bypasses the norms is another network (a wide residual net whose '
                f'projections read the raw input has one); {_OTHER}'
            )
        key = f'{norm}.running_mean'
        mean, bias = state_dict[key], module.tensors['bias']
        if bias.shape != mean.shape or bias.dtype not in _FLOATS:
            _refuse_shape(module.key('bias'), bias.shape, str(tuple(mean.shape)))
        state_dict[key] = (mean.double() - bias.double()).to(mean.dtype)
        check_tensor(key, state_dict[key])
    return state_dict, [f'{len(biased)} biases of convolutions are part of the running means now'] if biased else []


_PADDINGS = {
    'end': 'shortcuts padded at the end of the channels',
    'front': 'shortcuts padded at the front of the channels',
    'none': 'a plain net, without shortcuts',
}


def _judge(network: Network, told: Testimony, known: bool) -> list[str]:
    """What leaves no trace in keys and shapes: as the norms' statistics show it, else by one rule each.

    Raises:
        InputError: the statistics show another network; or they are silent where copies of the code differ, and
            neither the spelling is one of the table's, whose code is `known`, nor the file.
    """
    witness = "as the norms' statistics show"
    strides = ', '.join(['1'] + ['2'] * (len(network.layers) - 1))
    if told.activation not in ('', 'ReLU'):
        refuse(f'{witness.capitalize()}, this network was trained with {told.activation}, not ReLU: {_OTHER}')
    notes = [f'ReLU{f", {witness}" if told.activation else ""}; average pooling; stages of strides {strides}']
    if network.block == 'bottleneck':
        notes.append('the stride of a bottleneck in its 3×3 convolution')
    if network.shortcut_type == 'A':
        if told.shortcut in _PADDINGS:
            refuse(f'{witness.capitalize()}, this is {_PADDINGS[told.shortcut]}, not option A: {_OTHER}')
        rule, verdict = 'without tensors, shortcuts are of option A, zero channels on both sides alike', told.shortcut
    elif network.cls is PreActResNet:
        if told.projection == 'raw':
            refuse(f'{witness.capitalize()}, the projections read the raw input, not the activated one: {_OTHER}')
        rule, verdict = 'projections read the activated input', told.projection
    else:
        return notes
    if not verdict and not known:
        refuse(f'neither the statistics nor a known spelling of the keys tell whether {rule}: {_OTHER}')
    return [*notes, f'{rule}, {witness}' if verdict else rule]
