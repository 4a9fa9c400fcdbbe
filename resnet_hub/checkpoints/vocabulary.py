"""The vocabulary: the names that code bases use for the parts of a residual network.

A file may mix the names of several code bases, because each part of a key is recognised separately. To support a new
name, add it here.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

#: names of modules that only wrap a network, in any order
WRAPPERS = set('module model net network backbone encoder features resnet _orig_mod inner_model base_model'.split())

_RES = 'res|res_?block|res_?layer|res_?unit|residual_?block|residual_?layer|basic_?block|bottleneck'
_STAGE = rf'(?:layer|stage|block|group|conv|layers|blocks|stages|stack|{_RES})'
_LIST = r'(?:layers?|stages?|blocks?|groups|res_?layers|res_?blocks|residual_?blocks|residual_?layers)'
_UNIT = rf'(?:(?:unit|block|layer|{_RES})_?)?'

#: the beginning of a residual block's name, with the numbers `stage` and `index`, which may start anywhere
BLOCKS = [
    re.compile(row, re.IGNORECASE)
    for row in (
        rf'{_STAGE}_?(?P<stage>\d+)(?:_x)?(?:\.{_LIST})?\.{_UNIT}(?P<index>\d+)\.',  # layer1.0. conv2_x.0. block1.layer.0.
        rf'{_STAGE}_?(?P<stage>\d)_(?P<index>\d+)\.',  # layer1_0.
        rf'{_LIST}\.(?P<stage>\d+)\.(?:{_LIST}[._]?)?(?P<index>\d+)\.',  # layers.0.0. stages.0.blocks.0.
        # one list of all blocks, whose widths show the stages
        rf'{_LIST}\.{_UNIT}(?P<index>\d+)\.',  # blocks.0.
        rf'(?:block|layer|unit|{_RES})_?(?P<index>\d+)\.',  # block3.
        r'(?P<stage>\d+)\.(?P<index>\d+)\.',  # 4.0., in an nn.Sequential of the children of a network
    )
]

#: names of stages with numbers from 2, where the stem is number 1 (Table 1 of He et al.): conv2_x, res2
FROM_2 = r'(?:conv|res)_?'

#: inside a block: the n-th convolution or norm of the residual branch
BRANCH = [
    r'(?:body\.)?(?:conv|convolution)_?(?P<n>\d|[abc])(?:\.conv|\.(?:bn|norm))?',  # conv1, conv_1, body.conv1.bn
    r'(?:bn|norm|batch_?norm)_?(?P<n>\d|[abc])',
]
#: inside a block: a branch that is an nn.Sequential of convolution, norm, activation, convolution, norm …
SEQUENTIAL = r'(?:residual_function|residual|left|main|main_path|branch|body|layers?|conv_?block|block)\.(?P<n>\d+)'

#: inside a block: the convolution (place 0, conv or none) and the norm (place 1, bn …) of the projection
SHORTCUT = (
    r'(?:shortcut|short_cut|convShortcut|conv_shortcut|shortcut_conv|shortcut_bn|bn_shortcut|shortcut_norm'
    r'|downsample|identity|convdim|down_sample|downsampling|downsample_conv|downsample_bn|identity_conv|identity_bn|identity_downsample'
    r'|skip|skip_conv|skip_bn|skip_connection|proj|projection|conv_?sc|bn_?sc|conv_?res|bn_?res)'
    r'(?:\.(?P<place>0|1|conv|bn|norm|conv1|bn1))?'
)

#: outside of the blocks: the first convolution, the norm after it, the norm after the last block, the classifier
STEM = (
    r'.*(?:conv|stem|init|input|first|prep|root|entry|head).*|(?:features|layers?|net)[._]?\d+(?:\.\d+)?|\d+(?:\.\d+)?'
)
STEM_NORM = r'.*(?:bn|norm).*|.*[._]\d+|\d+'
FINAL_NORM = r'(?:bn\d?|norm\d?|batch_?norm|post_activ\.bn|(?:final|last|post|out)_?(?:bn|norm)|(?:bn|norm)_?(?:final|last|out|end))'
CLASSIFIER = (
    r'(?:fc|fc\d|linear|linear\d|classifier|output|out|head|heads?\.fc|logits|last_linear|last_layer|dense'
    r'|\d|fully_connected|final|final_fc|fc_out|output_layer|out_layer|cls)(?:\.(?:\d|fc|linear))?'
)

#: constants of a layer before the stem that normalises the input
INPUT_MEAN = r'(?:.*\.)?(?:mean|means|new_mean|mu|image_mean|norm_mean|input_mean)'
INPUT_STD = r'(?:.*\.)?(?:std|stds|new_std|sds|sigma|image_std|norm_std|input_std)'

#: tensors that no forward pass reads, and what they are
IGNORED = {
    r'(?:.*\.)?total_(?:ops|params)': "a profiler's counter",
    r'(?:.*\.)?n_averaged': 'the counter of averaged models',
    r'(?:.*\.)?(?:criterion|loss|loss_fn|loss_func|loss_function)\..*': 'a tensor of the training loss',
    # it takes the width of the stem, but comes after a first stage of another width, so that it cannot run
    r'(?:.*\.)?sub_block1\..*': "the stage that TRADES' code declares and never runs",
}

#: patterns of keys of other networks, and what they show; the error message names the first match
OTHER_NETWORKS = [
    (r'alpha|prelu|act\d?\.weight|relu\d?\.weight|slope', 'a learnt activation'),
    (r'adder', 'an AdderNet, which adds instead of multiplying'),
    (r'zero_point|observer|quant|lsq|step_size|clip|scale', 'a quantised or rescaled network'),
    (r'(?:^|\.)(?:se|se_\w+|squeeze|excitation|ca|sa|cbam|attention|eca|gct)\d?\.', 'attention (SE, CBAM)'),
    (r'mask', 'a pruned network whose masks are part of it'),
    (r'weight_[guv]$|_orig|parametrizations', 'reparametrised weights'),
    (r'lora_|adapter', 'adapters'),
    (r'embedder\.', "transformers' ResNet, which pools after the stem"),
    (r'(?:^|\.)pre\.|residual\.\d', "weiaicunzai's pre-activation code, with its stem norm and biases"),
    (r'(?:downsample|shortcut)\.[12]\.', 'a layer without weights (average pooling?) before a projection'),
    (r'(?:conv\w*|downsample\.0|shortcut\.0)\.bias$', 'a bias that cannot be folded into a norm'),
    (r'proj|predictor|mlp|queue|prototypes|memory', 'self-supervised training, not a classifier'),
    (r'gate|router|policy', 'gates'),
    (r'denseblock|dense\d|trans\d', 'a DenseNet'),
    (r'features\.\d+\.(?:weight|bias)$', 'a plain chain of convolutions (VGG)'),
    (r'qkv|attn|pos_embed|cls_token', 'a transformer'),
]


class Place(NamedTuple):
    """The place of a module in a residual block, with the numbers of the source."""

    prefix: str  #: the part of the name before the block
    stage: int  #: -1 if the source has one list of all blocks
    block: int
    role: str  #: 'branch', 'sequence' (a branch that is an nn.Sequential) or 'shortcut'
    number: int  #: number in the branch, sequence or shortcut; -1 in a shortcut without numbers


@lru_cache(maxsize=1 << 14)  # several passes ask for the same names
def parse_block(module: str) -> Place | None:
    """Return the place of a module in a residual block; None if its name does not show one."""
    for start in [0, *(match.end() for match in re.finditer(r'\.', module))]:
        for row in BLOCKS:
            found = row.match(module, start)
            inner = found and _parse_inner(module[found.end() :])
            if found and inner:
                stage = int(found['stage']) if 'stage' in row.groupindex else -1
                return Place(module[:start], stage, int(found['index']), *inner)
    return None


def _parse_inner(inner: str) -> tuple[str, int] | None:
    for pattern in BRANCH:
        if found := re.fullmatch(pattern, inner, re.IGNORECASE):
            return 'branch', 'abc'.find(found['n'].lower()) + 1 or int(found['n'])
    if found := re.fullmatch(SEQUENTIAL, inner, re.IGNORECASE):
        return 'sequence', int(found['n'])
    if found := re.fullmatch(SHORTCUT, inner, re.IGNORECASE):
        return 'shortcut', int(found['place']) if (found['place'] or '').isdigit() else -1
    return None


def without_wrappers(name: str, prefix: str) -> str:
    """Return a module's name without the prefix that it shares with the blocks, and without wrappers."""
    parts, shared = name.split('.'), prefix.split('.')
    while parts and shared and parts[0] == shared[0]:
        parts, shared = parts[1:], shared[1:]
    while len(parts) > 1 and parts[0].lower() in WRAPPERS:
        parts = parts[1:]
    return '.'.join(parts)
