"""The vocabulary: the names that code bases use for the parts of a residual network.

A file may mix the names of several code bases, because each part of a key is recognised separately. To support a new
name, add it here.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

_LIST = r'_?(?:layers?|stages?|blocks?|groups|res_?layers|res_?blocks|residual_?blocks|residual_?layers)'
_BLOCK = 'unit|block|layer|res|res_?block|res_?layer|res_?unit|residual_?block|residual_?layer|basic_?block|bottleneck'
_UNIT = rf'(?:(?:{_BLOCK})_?)?'

#: the beginning of a residual block's name, with the numbers `stage` and `index`, which may start anywhere
BLOCKS = [
    re.compile(row, re.IGNORECASE)
    for row in (
        # layer1.0. conv2_x.0. block1.layer.0. 1_block.block.0., and 4.0. in an nn.Sequential of the children of a network
        rf'[a-z_]*(?P<stage>\d+)(?:_[a-z]+)?(?:\.{_LIST})?\.{_UNIT}(?P<index>\d+)\.',
        r'[a-z_]*(?P<stage>\d)_(?P<index>\d+)\.',  # layer1_0.
        rf'{_LIST}\.(?P<stage>\d+)\.(?:{_LIST}[._]?)?(?P<index>\d+)\.',  # layers.0.0. stages.0.blocks.0.
        # one list of all blocks, whose widths show the stages
        rf'{_LIST}\.{_UNIT}(?P<index>\d+)\.',  # blocks.0.
        rf'(?:{_BLOCK})_?(?P<index>\d+)\.',  # block3.
    )
]

#: names of stages with numbers from 2, where the stem is number 1 (Table 1 of He et al.): conv2_x, res2
FROM_2 = r'(?:conv|res)_?'

_CONV = r'c|conv|conv2d|convolution|conv_?layer|conv3x3'
_NORM = r'b|n|bn|norm|batch|b_?norm|batch_?norm|batch_?norm2d|bn_?layer|normali[sz]ation'
#: inside a block: the n-th convolution or norm of the residual branch: conv1, conv_1, body.conv1.bn, bn_a, convs.0
BRANCH = rf'(?:body\.)?_?(?:(?:{_CONV}|{_NORM})_?|(?:convs|bns|norms)\.)(?P<n>\d|[abc])(?:\.(?:conv|bn|norm))?'
#: inside a block: a branch that is an nn.Sequential of convolution, norm, activation, convolution, norm …
SEQUENTIAL = (
    r'_?(?:residual|residual_function|residual_block|residual_path|res|res_?block|left|main|main_path|main_branch|branch|body'
    r'|layers?|conv|conv_?block|conv_?layers|double_conv|block|net|f|function|path|seq|features?)\.(?P<n>\d+)(?:_[a-z]+)?'
)
#: inside a block: the first norm of a branch that is otherwise an nn.Sequential of convolution, norm …
BEFORE_SEQUENTIAL = r'norm_act(?:\.0(?:_[a-z]+)?)?'
#: inside a block: the convolution and the norm of the projection, whatever their name; `n` is the place in nn.Sequential
SHORTCUT = r'\w+(?:\.(?:(?P<n>\d)|\w+))?'

#: outside of the blocks: the norm after the last block
FINAL_NORM = (
    r'(?:.*\.)?(?:(?:bn|norm|batch_?norm|(?:\d_)?normali[sz]ation)\d?|post_activ\.bn|last_?act(?:\.0)?'
    r'|(?:final|last|post|out|output|end)_?(?:bn|norm)|(?:bn|norm)_?(?:final|last|out|end|f))'
)

#: constants of a layer before the stem that normalises the input
INPUT_MEAN = r'(?:.*[._])?(?<!running_)(?:means?|mu)'
INPUT_STD = r'(?:.*[._])?(?:stds?|sds|sigma)'

#: tensors that no forward pass reads, and what they are
IGNORED = {
    r'(?:.*\.)?total_(?:ops|params)': "a profiler's counter",
    r'(?:.*\.)?n_averaged': 'the counter of averaged models',
    r'(?:.*\.)?(?:criterion|loss)(?:_\w+)?\..*': 'a tensor of the training loss',
    # it takes the width of the stem, but comes after a first stage of another width, so that it cannot run
    r'(?:.*\.)?sub_block1\..*': "the stage that TRADES' code declares and never runs",
}

#: patterns of keys of other networks, and what they show; the error message names the first match
OTHER_NETWORKS = [
    (r'\.conv\d\.\d\.', 'an nn.Sequential for each convolution, perhaps with a ReLU before the sum'),
    (r'alpha|prelu|act\d?\.weight|relu\d?\.weight|slope', 'a learnt activation'),
    (r'adder', 'an AdderNet, which adds instead of multiplying'),
    (r'zero_point|observer|quant|lsq|step_size|clip|scale', 'a quantised or rescaled network'),
    (r'(?:^|\.)(?:se|se_\w+|squeeze|excitation|ca|sa|cbam|attention|eca|gct)\d?\.', 'attention (SE, CBAM)'),
    (r'mask', 'a pruned network whose masks are part of it'),
    (r'weight_[guv]$|_orig$|parametrizations', 'reparametrised weights'),
    (r'lora_|adapter', 'adapters'),
    (r'embedder\.', "transformers' ResNet, which pools after the stem"),
    (r'(?:^|\.)pre\.|residual\.\d', "weiaicunzai's pre-activation code, with its stem norm and biases"),
    (r'(?:downsample|shortcut)\.2\.', 'a layer without weights (average pooling?) before a projection'),
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
    name: str  #: the part of the name before the layer
    stage: int  #: -1 if the source has one list of all blocks
    block: int
    role: str  #: 'branch', 'sequence' (a branch that is an nn.Sequential) or 'shortcut'; '' outside of the blocks
    number: int  #: number in the branch, sequence or shortcut; -1 in a shortcut without numbers


OUTSIDE = Place('', '', -1, -1, '', -1)


@lru_cache(maxsize=1 << 14)  # several passes ask for the same names
def parse_block(module: str) -> Place | None:
    """Return the place of a module in the branch of a residual block; None if its name does not show one."""
    for start in [0, *(match.end() for match in re.finditer(r'\.', module))]:
        for row in BLOCKS:
            found = row.match(module, start)
            inner = found and _parse_inner(module[found.end() :])
            if found and inner:
                stage = int(found['stage']) if 'stage' in row.groupindex else -1
                return Place(module[:start], module[: found.end()], stage, int(found['index']), *inner)
    return None


def _parse_inner(inner: str) -> tuple[str, int] | None:
    if found := re.fullmatch(BRANCH, inner, re.IGNORECASE):
        return 'branch', 'abc'.find(found['n'].lower()) + 1 or int(found['n'])
    if found := re.fullmatch(SEQUENTIAL, inner, re.IGNORECASE):
        return 'sequence', int(found['n'])
    return ('sequence', -2) if re.fullmatch(BEFORE_SEQUENTIAL, inner, re.IGNORECASE) else None
