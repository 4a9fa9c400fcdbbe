"""The table of ResNet (V1) architectures.

He, Zhang, Ren, Sun: Deep Residual Learning for Image Recognition, 2015, https://arxiv.org/abs/1512.03385.
The entrypoints belong to this module, because timm groups models by the name of their entrypoint's module.
"""

from __future__ import annotations

from functools import partial

from resnet_hub.tables.family import Architecture, Family

FAMILY = Family('cifar_resnet', 'CifarResNet', 'post-activation ResNet (V1)', norm_first=False)
_row = partial(Architecture, FAMILY)

_HE = 'https://arxiv.org/abs/1512.03385'
_TIAN = 'https://arxiv.org/abs/1910.10699'  # distillation: stages four times as wide as _THIN, after a stem of 32
_WIDE = (64, 128, 256, 512)
_THIN = (16, 32, 64)

ARCHITECTURES = {
    'cifar_resnet18': _row('basic', (2, 2, 2, 2), _WIDE, 11173962, _HE),
    'cifar_resnet34': _row('basic', (3, 4, 6, 3), _WIDE, 21282122, _HE),
    'cifar_resnet50': _row('bottleneck', (3, 4, 6, 3), _WIDE, 23520842, _HE),
    'cifar_resnet101': _row('bottleneck', (3, 4, 23, 3), _WIDE, 42512970, _HE),
    'cifar_resnet152': _row('bottleneck', (3, 8, 36, 3), _WIDE, 58156618, _HE),
    'cifar_resnet8': _row('basic', (1, 1, 1), _THIN, 78042, _HE),
    'cifar_resnet14': _row('basic', (2, 2, 2), _THIN, 175258, _HE),
    'cifar_resnet20': _row('basic', (3, 3, 3), _THIN, 272474, _HE),
    'cifar_resnet32': _row('basic', (5, 5, 5), _THIN, 466906, _HE),
    'cifar_resnet44': _row('basic', (7, 7, 7), _THIN, 661338, _HE),
    'cifar_resnet56': _row('basic', (9, 9, 9), _THIN, 855770, _HE),
    'cifar_resnet110': _row('basic', (18, 18, 18), _THIN, 1730714, _HE),
    'cifar_resnet1202': _row('basic', (200, 200, 200), _THIN, 19424026, _HE),
    'cifar_resnet164': _row('bottleneck', (18, 18, 18), _THIN, 1704154, _HE),
    'cifar_resnet272': _row('bottleneck', (30, 30, 30), _THIN, 2816986, _HE),
    'cifar_resnet542': _row('bottleneck', (60, 60, 60), _THIN, 5599066, _HE),
    'cifar_resnet1001': _row('bottleneck', (111, 111, 111), _THIN, 10328602, _HE),
    'cifar_resnet8x4': _row('basic', (1, 1, 1), (64, 128, 256), 1210410, _TIAN, {'stem_width': 32}),
    'cifar_resnet32x4': _row('basic', (5, 5, 5), (64, 128, 256), 7410730, _TIAN, {'stem_width': 32}),
}
