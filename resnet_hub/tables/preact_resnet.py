"""The table of PreActResNet (V2) architectures and of wide residual networks.

He, Zhang, Ren, Sun: Identity Mappings in Deep Residual Networks, 2016, https://arxiv.org/abs/1603.05027.
Zagoruyko, Komodakis: Wide Residual Networks, 2016, https://arxiv.org/abs/1605.07146.
The entrypoints belong to this module, because timm groups models by the name of their entrypoint's module.
"""

from __future__ import annotations

from functools import partial

from resnet_hub.tables.family import Architecture, Family

FAMILY = Family(
    'preact_resnet',
    'PreActResNet',
    'pre-activation ResNet (V2)',
    norm_first=True,
    arguments={
        'final_norm': 'norm and activation after the last block.',
        'conv_drop_rate': 'dropout rate between the convolutions of a block.',
    },
)
_row = partial(Architecture, FAMILY)


def _wide_resnet(n: int, k: int, params: int) -> Architecture:
    args = {'stem_width': 16}
    return _row('basic', (n, n, n), (16 * k, 32 * k, 64 * k), params, 'https://arxiv.org/abs/1605.07146', args)


_HE = 'https://arxiv.org/abs/1603.05027'
_WIDE = (64, 128, 256, 512)
_THIN = (16, 32, 64)
_NO_NORM = {'final_norm': False}

ARCHITECTURES = {
    'preact_resnet18': _row('basic', (2, 2, 2, 2), _WIDE, 11171146, _HE, _NO_NORM),
    'preact_resnet34': _row('basic', (3, 4, 6, 3), _WIDE, 21279306, _HE, _NO_NORM),
    'preact_resnet50': _row('bottleneck', (3, 4, 6, 3), _WIDE, 23509066, _HE, _NO_NORM),
    'preact_resnet101': _row('bottleneck', (3, 4, 23, 3), _WIDE, 42501194, _HE, _NO_NORM),
    'preact_resnet152': _row('bottleneck', (3, 8, 36, 3), _WIDE, 58144842, _HE, _NO_NORM),
    'preact_resnet20': _row('basic', (3, 3, 3), _THIN, 272282, _HE),
    'preact_resnet32': _row('basic', (5, 5, 5), _THIN, 466714, _HE),
    'preact_resnet44': _row('basic', (7, 7, 7), _THIN, 661146, _HE),
    'preact_resnet56': _row('basic', (9, 9, 9), _THIN, 855578, _HE),
    'preact_resnet110': _row('basic', (18, 18, 18), _THIN, 1730522, _HE),
    'preact_resnet1202': _row('basic', (200, 200, 200), _THIN, 19423834, _HE),
    'preact_resnet164': _row('bottleneck', (18, 18, 18), _THIN, 1703258, _HE),
    'preact_resnet272': _row('bottleneck', (30, 30, 30), _THIN, 2816090, _HE),
    'preact_resnet542': _row('bottleneck', (60, 60, 60), _THIN, 5598170, _HE),
    'preact_resnet1001': _row('bottleneck', (111, 111, 111), _THIN, 10327706, _HE),
    'wide_resnet16_2': _wide_resnet(2, 2, 691674),
    'wide_resnet16_4': _wide_resnet(2, 4, 2748890),
    'wide_resnet16_8': _wide_resnet(2, 8, 10961370),
    'wide_resnet16_10': _wide_resnet(2, 10, 17116634),
    'wide_resnet28_2': _wide_resnet(4, 2, 1467610),
    'wide_resnet28_10': _wide_resnet(4, 10, 36479194),
    'wide_resnet34_10': _wide_resnet(5, 10, 46160474),
    'wide_resnet40_1': _wide_resnet(6, 1, 563930),
    'wide_resnet40_2': _wide_resnet(6, 2, 2243546),
    'wide_resnet40_4': _wide_resnet(6, 4, 8949210),
    'wide_resnet40_8': _wide_resnet(6, 8, 35748314),
}
