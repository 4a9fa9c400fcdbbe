"""THE TABLE of key layouts: how code bases spell the places of a network, to read and to write.

Reading goes by vocabulary: `WRAPPERS`, `BLOCKS`, `BRANCH`, `SHORTCUT` and the names of the head recognise the role of
each part of a key, so that spellings may mix and need not be listed as a whole. A new synonym is a word more.
Writing (`--to`) goes by `LAYOUTS`: a row spells every place of our native names. A new layout is a row more.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor

from resnet_hub.utils.errors import InputError

# ---------------------------------------------------------------------------------------------- reading: vocabulary

#: path components that only wrap a network, in any stack
WRAPPERS = set('module model net network backbone encoder features resnet _orig_mod inner_model base_model'.split())

_RES = 'res|res_?block|res_?layer|res_?unit|residual_?block|residual_?layer|basic_?block|bottleneck'
_STAGE = rf'(?:layer|stage|block|group|conv|layers|blocks|stages|stack|{_RES})'
_LIST = r'(?:layers?|stages?|blocks?|groups|res_?layers|res_?blocks|residual_?blocks|residual_?layers)'
_UNIT = rf'(?:(?:unit|block|layer|{_RES})_?)?'

#: where a residual block begins; `stage` and `index` number it, in an order of whatever origin
BLOCKS = [
    re.compile(row, re.IGNORECASE)
    for row in (
        rf'{_STAGE}_?(?P<stage>\d+)(?:_x)?(?:\.{_LIST})?\.{_UNIT}(?P<index>\d+)\.',  # layer1.0. conv2_x.0. block1.layer.0.
        rf'{_STAGE}_?(?P<stage>\d)_(?P<index>\d+)\.',  # layer1_0.
        rf'{_LIST}\.(?P<stage>\d+)\.(?:{_LIST}[._]?)?(?P<index>\d+)\.',  # layers.0.0. stages.0.blocks.0.
        # one list of all blocks, whose stages follow from their widths
        rf'{_LIST}\.{_UNIT}(?P<index>\d+)\.',  # blocks.0.
        rf'(?:block|layer|unit|{_RES})_?(?P<index>\d+)\.',  # block3.
    )
]

#: words for stages that count the stem as the first, as Table 1 of He et al. does: conv2_x, res2
FROM_2 = r'(?:conv|res)_?'

#: inside a block: the n-th convolution or norm of the branch
BRANCH = [
    r'(?:body\.)?(?:conv|convolution)_?(?P<n>\d|[abc])(?:\.conv|\.(?:bn|norm))?',  # conv1, conv_1, body.conv1.bn
    r'(?:bn|norm|batch_?norm)_?(?P<n>\d|[abc])',
]
#: … or their place in an nn.Sequential, where only the rows of SEQUENCES are certain
SEQUENTIAL = r'(?:residual_function|residual|left|main|main_path|branch|body|layers?|conv_?block|block)\.(?P<n>\d+)'
#: convolution, norm, activation, convolution, norm (, activation, convolution, norm)
SEQUENCES = {2: ((0, 3), (1, 4)), 3: ((0, 3, 6), (1, 4, 7))}

#: inside a block: convolution (0, conv, nothing) and norm (1, bn) of the projection
SHORTCUT = (
    r'(?:shortcut|short_cut|convShortcut|conv_shortcut|shortcut_conv|shortcut_bn|bn_shortcut|shortcut_norm'
    r'|downsample|down_sample|downsampling|downsample_conv|downsample_bn|identity_conv|identity_bn|identity_downsample'
    r'|skip|skip_conv|skip_bn|skip_connection|proj|projection|conv_?sc|bn_?sc|conv_?res|bn_?res)'
    r'(?:\.(?P<place>0|1|conv|bn|norm|conv1|bn1))?'
)

#: the convolution before the blocks and its norm, of which shapes leave no doubt
STEM = (
    r'.*(?:conv|stem|init|input|first|prep|root|entry|head).*|(?:features|layers?|net)[._]?\d+(?:\.\d+)?|\d+(?:\.\d+)?'
)
STEM_NORM = r'.*(?:bn|norm).*|.*[._]\d+|\d+'
#: the norm after the last block of a pre-activation network
FINAL_NORM = (
    r'(?:bn\d?|norm\d?|post_activ\.bn|(?:final|last|post|out)_?(?:bn|norm)|(?:bn|norm)_?(?:final|last|out|end))'
)
#: the classifier
CLASSIFIER = (
    r'(?:fc|fc\d|linear|linear\d|classifier|output|out|head|heads?\.fc|logits|last_linear|last_layer|dense'
    r'|fully_connected|final|final_fc|fc_out|output_layer|out_layer|cls)(?:\.(?:\d|fc|linear))?'
)

#: tensors that profilers, pruners and averaging leave and no forward pass reads
IGNORED = {
    r'(?:.*\.)?total_(?:ops|params)': "a profiler's counter",
    r'(?:.*\.)?n_averaged': 'the counter of averaged models',
    r'(?:.*\.)?(?:criterion|loss|loss_fn|loss_func|loss_function)\..*': 'of the training loss',
    # it reads the stem's width behind a first stage that has another, so nothing can feed it
    r'(?:.*\.)?sub_block1\..*': "the stage that TRADES' code declares and never runs",
}

#: constants of a layer that normalises the input, before the stem
INPUT_MEAN = r'(?:.*\.)?(?:mean|means|mu|image_mean|norm_mean|input_mean)'
INPUT_STD = r'(?:.*\.)?(?:std|stds|sds|sigma|image_std|norm_std|input_std)'

#: keys and what they show: the first match names the other network in the refusal
OTHER_NETWORKS = [
    (r'alpha|prelu|act\d?\.weight|relu\d?\.weight|slope', 'a learnt activation'),
    (r'adder', 'an AdderNet, which adds instead of multiplying'),
    (r'zero_point|observer|quant|lsq|step_size|clip|scale', 'a quantised or rescaled network'),
    (r'(?:^|\.)(?:se|se_\w+|squeeze|excitation|ca|sa|cbam|attention|eca|gct)\d?\.', 'attention (SE, CBAM)'),
    (r'mask', 'a pruned network whose masks are part of it'),
    (r'weight_[guv]$|_orig|parametrizations', 'reparametrised weights'),
    (r'lora_|adapter', 'adapters'),
    (r'(?:^|\.)pre\.|residual\.\d', "weiaicunzai's pre-activation code, with its stem norm and biases"),
    (r'proj|predictor|mlp|queue|prototypes|memory', 'self-supervised training, not a classifier'),
    (r'gate|router|policy', 'gates'),
    (r'denseblock|dense\d|trans\d', 'a DenseNet'),
    (r'features\.\d+\.(?:weight|bias)$', 'a plain chain of convolutions (VGG)'),
    (r'qkv|attn|pos_embed|cls_token', 'a transformer'),
]


class Place(NamedTuple):
    """Where a module sits in a residual block."""

    prefix: str
    stage: int  #: 0 where the spelling has one list of all blocks
    block: int
    branch: int  #: number within the branch; -1 in the shortcut
    sequential: bool = False  #: numbered by an nn.Sequential
    spelling: str = ''


def parse_block(key: str) -> Place | None:
    """The place of a tensor in a residual block, if its key spells one."""
    module = key.rpartition('.')[0]
    starts = [0, *(match.end() for match in re.finditer(r'\.', module))]
    for start in starts:
        for row in BLOCKS:
            found = row.match(module, start)
            if not found:
                continue
            inner = _parse_inner(module[found.end() :])
            if inner is not None:
                stage = int(found['stage']) + 1 if 'stage' in row.groupindex else 0
                return Place(module[:start], stage, int(found['index']), *inner, found[0] + module[found.end() :])
    return None


def _parse_inner(inner: str) -> tuple[int, bool] | None:
    for pattern in BRANCH:
        found = re.fullmatch(pattern, inner, re.IGNORECASE)
        if found:
            return ('abc'.find(found['n'].lower()) + 1) or int(found['n']), False
    found = re.fullmatch(SEQUENTIAL, inner, re.IGNORECASE)
    if found:
        return int(found['n']), True
    return (-1, False) if re.fullmatch(SHORTCUT, inner, re.IGNORECASE) else None


def relative(name: str, prefix: str) -> str:
    """A module's name without what it shares with the blocks' prefix and without wrappers."""
    parts, shared = name.split('.'), prefix.split('.')
    while parts and shared and parts[0] == shared[0]:
        parts, shared = parts[1:], shared[1:]
    while len(parts) > 1 and parts[0].lower() in WRAPPERS:
        parts = parts[1:]
    return '.'.join(parts)


# ------------------------------------------------------------------------------------------- writing: whole layouts


class Layout(NamedTuple):
    """A row: how one code base spells a network, and which networks it can spell.

    In a spelling {s} numbers the stages from 1 and {t} from 2, {i} the blocks of a stage from 0 and {u} from 1.
    """

    block: str
    convs: tuple[str, str, str]
    norms: tuple[str, str, str]
    shortcut: tuple[str, ...]  #: convolution and norm (V1), or the convolution alone (V2)
    stem: tuple[str, ...]  #: convolution and norm (V1), or the convolution alone (V2)
    classifier: str
    final_norm: str = ''
    families: tuple[str, ...] = ('CifarResNet', 'PreActResNet')
    stages: tuple[int, ...] = (3, 4)
    blocks: tuple[str, ...] = ('basic', 'bottleneck')
    shortcut_types: tuple[str, ...] = ('A', 'B')
    final_norms: tuple[bool, ...] = (False, True)
    wrapper: str = ''  #: before every key
    container: str = ''  #: what the author's files hold the state dict under


_CONVS, _NORMS = ('conv1', 'conv2', 'conv3'), ('bn1', 'bn2', 'bn3')
_V1, _V2 = ('CifarResNet',), ('PreActResNet',)
_KUANGLIU = Layout(
    # kuangliu/pytorch-cifar
    block='layer{s}.{i}',
    convs=_CONVS,
    norms=_NORMS,
    shortcut=('shortcut.0', 'shortcut.1'),
    stem=('conv1', 'bn1'),
    classifier='linear',
    final_norms=(False,),
    container='net',
)
_OSMR = Layout(
    # osmr/pytorchcv, resnet*
    block='features.stage{s}.unit{u}',
    convs=('body.conv1.conv', 'body.conv2.conv', 'body.conv3.conv'),
    norms=('body.conv1.bn', 'body.conv2.bn', 'body.conv3.bn'),
    shortcut=('identity_conv.conv', 'identity_conv.bn'),
    stem=('features.init_block.conv', 'features.init_block.bn'),
    classifier='output',
    families=_V1,
    shortcut_types=('B',),
)
_OSMR_V2 = _OSMR._replace(
    # osmr/pytorchcv, preresnet*
    shortcut=('identity_conv',),
    stem=('features.init_block',),
    final_norm='features.post_activ.bn',
    families=_V2,
    final_norms=(True,),
)

LAYOUTS = {
    'native': Layout(
        # timm and torchvision; resnet-hub
        block='layer{s}.{i}',
        convs=_CONVS,
        norms=_NORMS,
        shortcut=('downsample.0', 'downsample.1'),
        stem=('conv1', 'bn1'),
        classifier='fc',
        final_norm='norm',
    ),
    'akamaster': _KUANGLIU._replace(
        # akamaster/pytorch_resnet_cifar10
        families=_V1,
        stages=(3,),
        blocks=('basic',),
        shortcut_types=('A',),
        wrapper='module.',
        container='state_dict',
    ),
    'kuangliu': _KUANGLIU,
    'kuangliu_norm': _KUANGLIU._replace(
        # robust training, after kuangliu/pytorch-cifar
        final_norm='bn',
        families=_V2,
        final_norms=(True,),
        container='',
    ),
    'article': _KUANGLIU._replace(families=_V1, container=''),  # tutorials, after kuangliu/pytorch-cifar
    'xternalz': Layout(
        # xternalz/WideResNet-pytorch
        block='block{s}.layer.{i}',
        convs=_CONVS,
        norms=_NORMS,
        shortcut=('convShortcut',),
        stem=('conv1',),
        classifier='fc',
        final_norm='bn1',
        families=_V2,
        stages=(3,),
        blocks=('basic',),
        shortcut_types=('B',),
        final_norms=(True,),
        container='state_dict',
    ),
    'weiaicunzai': Layout(
        # weiaicunzai/pytorch-cifar100
        block='conv{t}_x.{i}',
        convs=('residual_function.0', 'residual_function.3', 'residual_function.6'),
        norms=('residual_function.1', 'residual_function.4', 'residual_function.7'),
        shortcut=('shortcut.0', 'shortcut.1'),
        stem=('conv1.0', 'conv1.1'),
        classifier='fc',
        families=_V1,
        stages=(4,),
        shortcut_types=('B',),
    ),
    'osmr': _OSMR,
    'osmr_preresnet': _OSMR_V2,
    'osmr_wrn': _OSMR_V2._replace(blocks=('basic',), stages=(3,)),  # osmr/pytorchcv, wrn*
}


def spell(layout: Layout, name: str) -> str:
    """A native module name ('layer1.0.conv1') as a layout spells it, without the layout's wrapper."""
    parts = name.split('.')
    if parts[0].startswith('layer'):
        stage, index = int(parts[0][5:]), int(parts[1])
        block = layout.block.format(s=stage, t=stage + 1, i=index, u=index + 1)
        if parts[2] == 'downsample':
            return f'{block}.{layout.shortcut[int(parts[3])]}'
        spellings = layout.convs if parts[2].startswith('conv') else layout.norms
        return f'{block}.{spellings[int(parts[2][-1]) - 1]}'
    if parts[0] in ('conv1', 'bn1'):
        return layout.stem[parts[0] == 'bn1']
    return {'norm': layout.final_norm, 'fc': layout.classifier}[name]


def cannot_hold(layout: Layout, family: str, block: str, stages: int, shortcut_type: str, final_norm: bool) -> str:
    """What keeps a layout from spelling a network; '' if it can."""
    limits: list[tuple[object, tuple[object, ...], str]] = [
        (family, layout.families, 'networks of class'),
        (stages, layout.stages, 'stages:'),
        (block, layout.blocks, 'blocks:'),
        (shortcut_type, layout.shortcut_types, 'shortcut_type'),
        (final_norm, layout.final_norms if family == 'PreActResNet' else (False,), 'final_norm'),
    ]
    for value, allowed, what in limits:
        if value not in allowed:
            return f'it has {what} {" or ".join(map(str, allowed))} only, not {value}'
    return ''


def rename(state_dict: Mapping[str, Tensor], layout: Layout) -> dict[str, Tensor]:
    """Native keys to a layout's."""
    modules = {key.rpartition('.')[0] for key in state_dict}
    spelled = {module: layout.wrapper + spell(layout, module) for module in modules}
    return {f'{spelled[key.rpartition(".")[0]]}.{key.rpartition(".")[2]}': v for key, v in state_dict.items()}


def find_layout(name: str) -> Layout:
    """The row of a layout.

    Raises:
        InputError: there is none of that name.
    """
    if name not in LAYOUTS:
        raise InputError(f'unknown layout {name!r}: use one of {", ".join(LAYOUTS)}')
    return LAYOUTS[name]
