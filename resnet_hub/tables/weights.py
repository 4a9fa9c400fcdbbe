"""The table of pretrained weights. A row stands here only if its bytes can be had and their digest is known."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from resnet_hub.tables.datasets import DATASETS, Dataset, Triple

#: who has our weights on the Hub, those that are too large for the package among them
OWNER = os.environ.get('RESNET_HUB_OWNER') or 'org'


class Publisher(NamedTuple):
    """Who trained some weights, and on what terms they may be passed on."""

    name: str
    page: str
    license: str  #: SPDX
    copyright: str

    @property
    def notice(self) -> str:
        """What the licences of others ask to be passed on with their weights, as Markdown; '' for our own."""
        return self.page and (
            f'The weights are those that [{self.name}]({self.page}) published. {self.copyright}. Licence: '
            f'{self.license}, whose text is there. Only names and format of the tensors were changed.'
        )


RESNET_HUB = Publisher('resnet-hub', '', 'Apache-2.0', 'Copyright the authors of resnet-hub')
AKAMASTER = Publisher(
    'akamaster',
    'https://github.com/akamaster/pytorch_resnet_cifar10',
    'BSD-2-Clause',
    'Copyright (c) 2018, Yerlan Idelbayev',
)
CHENYAOFO = Publisher(
    'chenyaofo', 'https://github.com/chenyaofo/pytorch-cifar-models', 'BSD-3-Clause', 'Copyright (c) 2021, chenyaofo'
)
OSMR = Publisher('osmr', 'https://github.com/osmr/imgclsmob', 'MIT', 'Copyright (c) 2018-2026 Oleg Sémery')


class Weights(NamedTuple):
    """A row: what `<architecture>.<tag>` loads, and how good it is."""

    dataset: str  #: gives the classes, and mean and std unless the row says otherwise
    digest: str  #: 'sha256:' or 'sha1:' of the file, in hexadecimal, whole or its beginning
    top1: float  #: % of the test images: of ours measured on this very file, of others' as published
    top5: float | None = None
    nll: float | None = None  #: mean negative log-likelihood in nats
    seed: int | None = None
    further: tuple[float, ...] = ()  #: top-1 of the same recipe by other seeds, whose weights are not published
    publisher: Publisher = RESNET_HUB
    #: None: in the package; 'hf-hub:OWNER/NAME': ours, in a clone of the project or else there. Of a zip, the one file
    #: in it has the digest
    url: str | None = None
    model_args: Mapping[str, Any] = MappingProxyType({})
    mean: Triple | None = None
    std: Triple | None = None

    @property
    def data(self) -> Dataset:
        return DATASETS[self.dataset]

    @property
    def normalisation(self) -> tuple[Triple, Triple]:
        """Mean and std of the pixels, scaled to 0 … 1, that the network was trained with."""
        return self.mean or self.data.mean, self.std or self.data.std

    @property
    def repo_id(self) -> str | None:
        """'OWNER/NAME' of weights of ours that are too large for the package."""
        return self.url.removeprefix(_HUB) if self.url and self.url.startswith(_HUB) else None


_HUB = 'hf-hub:'
#: ours: top-1, top-5 in %, negative log-likelihood, seed, where they are, SHA-256, and top-1 by further seeds, if any;
#: `python scripts/publish.py` prints a row
_OUR_ROWS = """
    cifar_resnet8.cifar10 89.86 99.67 0.3112 0 package 8bfcfff3dc39bcab4291d709c1f50e9cb06f94627d88b1f9351b56edb4000b41
    cifar_resnet8.cifar100 59.62 86.13 1.4650 0 package 6231aa20fe133a2d51ef477d40d4e6cf2c29c886c6ce509e100b41846ba0babd 60.31 59.52
    cifar_resnet14.cifar10 91.84 99.73 0.3080 0 package 65e668e45b3ff978184e364917e86f77be5d2897526088670a1cb385db7172a8
    cifar_resnet20.cifar10 93.09 99.84 0.3166 0 package a37f6d47708cc75863ded6a1de077f6db32989d14c45453108d13447e76ffe73
    cifar_resnet20.cifar100 69.14 91.15 1.3606 0 package ac2c13e3a3c712862a82c158d38fe8d6b51b355be9b0d6b183cd7a908566dffb
    cifar_resnet18.cifar10 94.45 99.92 0.2010 0 clone c7d5c286dbb1cff32dff8d6dedd9f7c86a80b760ea2d475959a56d77e25ee752
    preact_resnet18.cifar10 94.41 99.87 0.2007 0 clone a49a051903d17fb42dce1e9d878b08e1174464682bd37a4e85ebe4e140d57f8a
    preact_resnet20.cifar10 93.03 99.83 0.2533 0 package ee087bba8f6176eed8227ab1cd0296b999e74777810184fd50be9950fda25fc8
"""


def _ours() -> dict[str, Weights]:
    """Where they are: in the 'package', or else, above 2 MB, in the 'clone' and on the Hub."""
    rows = (line.split() for line in _OUR_ROWS.strip().splitlines())
    return {
        name: Weights(
            dataset=name.partition('.')[2],
            digest=f'sha256:{sha256}',
            top1=float(top1),
            top5=float(top5),
            nll=float(nll),
            seed=int(seed),
            further=tuple(map(float, further)),
            url={'package': None, 'clone': f'{_HUB}{OWNER}/{name}'}[place],
        )
        for name, top1, top5, nll, seed, place, sha256, *further in rows
    }


def _akamaster() -> dict[str, Weights]:
    """Depth, SHA-256 (its beginning, which the file names state) and published error in %."""
    rows = (
        (20, '12fca82f', 8.27),
        (32, 'd509ac18', 7.37),
        (44, '014dd654', 6.90),
        (56, '4bfd9763', 6.61),
        (110, '1d1ed7c2', 6.32),
        (1202, 'f3b1deed', 6.18),
    )
    return {
        f'cifar_resnet{depth}.akamaster_cifar10': Weights(
            dataset='cifar10',
            digest=f'sha256:{digest}',
            top1=round(100 - error, 2),
            publisher=AKAMASTER,
            url=f'{AKAMASTER.page}/raw/master/pretrained_models/resnet{depth}-{digest}.th',
            model_args={'shortcut_type': 'A'},
            mean=(0.485, 0.456, 0.406),
            std=(0.229, 0.224, 0.225),
        )
        for depth, digest, error in rows
    }


def _chenyaofo() -> dict[str, Weights]:
    """Data set, depth, SHA-256 (its beginning, which the file names state) and published top-1 in %."""
    rows = (
        ('cifar10', 20, '4118986f', 92.60),
        ('cifar10', 32, 'ef93fc4d', 93.53),
        ('cifar10', 44, '2a3cabcb', 94.01),
        ('cifar10', 56, '187c023a', 94.37),
        ('cifar100', 20, '23dac2f1', 68.83),
        ('cifar100', 32, '84213ce6', 70.16),
        ('cifar100', 44, 'ffe32858', 71.63),
        ('cifar100', 56, 'f2eff4c8', 72.63),
    )
    normalisation: dict[str, tuple[Triple, Triple]] = {
        'cifar10': ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
        'cifar100': ((0.5070, 0.4865, 0.4409), (0.2673, 0.2564, 0.2761)),
    }
    return {
        f'cifar_resnet{depth}.chenyaofo_{dataset}': Weights(
            dataset=dataset,
            digest=f'sha256:{digest}',
            top1=top1,
            publisher=CHENYAOFO,
            url=f'{CHENYAOFO.page}/releases/download/resnet/{dataset}_resnet{depth}-{digest}.pt',
            mean=normalisation[dataset][0],
            std=normalisation[dataset][1],
        )
        for dataset, depth, digest, top1 in rows
    }


#: osmr's pytorchcv: architecture, his name, data set, published error in 0.01 %, SHA-1, release
_OSMR_ROWS = """
    cifar_resnet20 resnet20_cifar10 cifar10 0597 9b0024ac4c2f374cde2c5052e0d0344a75871cdb v0.0.163
    cifar_resnet20 resnet20_cifar100 cifar100 2964 a5322afed92fa96cb7b3453106f73cf38e316151 v0.0.180
    cifar_resnet20 resnet20_svhn svhn 0343 8232e6e4c2c9fac1200386b68311c3bd56f483f5 v0.0.265
    cifar_resnet56 resnet56_cifar10 cifar10 0452 628c42a26fe347b84060136212e018df2bb35e0f v0.0.163
    cifar_resnet56 resnet56_cifar100 cifar100 2488 d65f53b10ad5d124698e728432844c65261c3107 v0.0.181
    cifar_resnet56 resnet56_svhn svhn 0275 6e08ed929b8f0ee649f75464f06b557089023290 v0.0.265
    cifar_resnet110 resnet110_cifar10 cifar10 0369 4d6ca1fc02eaeed724f4f596011e391528536049 v0.0.163
    cifar_resnet110 resnet110_cifar100 cifar100 2280 d8d397a767db6d22af040223ec8ae342a088c3e5 v0.0.190
    cifar_resnet110 resnet110_svhn svhn 0245 c971f0a38943d8a75386a60c835cc0843c2f6c1c v0.0.265
    cifar_resnet164 resnet164bn_cifar10 cifar10 0368 74ae9f4bccb7fb6a8f3f603fdabe8d8632c46b2f v0.0.179
    cifar_resnet164 resnet164bn_cifar100 cifar100 2044 8fa07b7264a075fa5add58f4c676b99a98fb1c89 v0.0.182
    cifar_resnet164 resnet164bn_svhn svhn 0242 549413723d787cf7e96903427a7a14fb3ea1a4c1 v0.0.267
    cifar_resnet272 resnet272bn_cifar10 cifar10 0333 84f28e0ca97eaeae0eb07e9f76054c1ba0c77c0e v0.0.368
    cifar_resnet272 resnet272bn_cifar100 cifar100 2007 a80d2b3ce14de6c90bf22d210d76ebd4a8c91928 v0.0.368
    cifar_resnet272 resnet272bn_svhn svhn 0243 ab1d7da51f52cc6acb2e759736f2d58a77ce895e v0.0.368
    cifar_resnet542 resnet542bn_cifar10 cifar10 0343 0fd36dd16587f49d33e0e36f1e8596d021a11439 v0.0.369
    cifar_resnet542 resnet542bn_cifar100 cifar100 1932 a631d3ce5f12e145637a7b2faee663cddc94c354 v0.0.369
    cifar_resnet542 resnet542bn_svhn svhn 0234 04396c973121e356f2efda9a28c4e4086f1511b2 v0.0.369
    cifar_resnet1001 resnet1001_cifar10 cifar10 0328 77a179e240808b7aa3534230d39b845a62413ca2 v0.0.201
    cifar_resnet1001 resnet1001_cifar100 cifar100 1979 2728b558748f9c3e70db179afb6c62358020858b v0.0.254
    cifar_resnet1001 resnet1001_svhn svhn 0241 9e3d4bb55961db4c0f46a961b5323a4e03aea602 v0.0.408
    cifar_resnet1202 resnet1202_cifar10 cifar10 0353 1d5a21290117903fb5fd6ba59f3f7e7da7c08836 v0.0.214
    cifar_resnet1202 resnet1202_cifar100 cifar100 2156 86ecd091e5ac9677bf4518c644d08eb3e1d1708a v0.0.410
    preact_resnet20 preresnet20_cifar10 cifar10 0651 76cec68d11de5b25be2ea5935681645b76195f1d v0.0.164
    preact_resnet20 preresnet20_cifar100 cifar100 3022 3dbfa6a2b850572bccb28cc2477a0e46c24abcb8 v0.0.187
    preact_resnet20 preresnet20_svhn svhn 0322 c3c00fed49c1d6d9deda6436d041c5788d549299 v0.0.269
    preact_resnet56 preresnet56_cifar10 cifar10 0449 e9124fcf167d8ca50addef00c3afa4da9f828f29 v0.0.164
    preact_resnet56 preresnet56_cifar100 cifar100 2505 ca90a2be6002cd378769b9d4e7c497dd883d31d9 v0.0.188
    preact_resnet56 preresnet56_svhn svhn 0280 b51b41476710c0e2c941356ffe992ff883a3ee87 v0.0.269
    preact_resnet110 preresnet110_cifar10 cifar10 0386 cc08946a2126a1224d1d2560a47cf766a763c52c v0.0.164
    preact_resnet110 preresnet110_cifar100 cifar100 2267 3954e91581b7f3e5f689385d15f618fe16e995af v0.0.191
    preact_resnet110 preresnet110_svhn svhn 0279 aa49e0a3c4a918e227ca2d5a5608704f026134c3 v0.0.269
    preact_resnet164 preresnet164bn_cifar10 cifar10 0364 429012d412e82df7961fa071f97c938530e1b005 v0.0.196
    preact_resnet164 preresnet164bn_cifar100 cifar100 2018 a8e67ca6e14f88b009d618b0e9b554312d862174 v0.0.192
    preact_resnet164 preresnet164bn_svhn svhn 0258 94d42de440d5f057a38f4c8cdbdb24acfee3981c v0.0.269
    preact_resnet272 preresnet272bn_cifar10 cifar10 0325 1a6a016eb4e4a5549c1fcb89ed5af4c1e5715b72 v0.0.389
    preact_resnet272 preresnet272bn_cifar100 cifar100 1963 6fe0d2e24a60d12ab6b3d0e46065e2f14a46bc0b v0.0.389
    preact_resnet272 preresnet272bn_svhn svhn 0234 c04ef5c20a53f76824339fe75185d181be4bce61 v0.0.389
    preact_resnet542 preresnet542bn_cifar10 cifar10 0314 66fd6f2033dff08428e586bcce3e5151ed4274f9 v0.0.391
    preact_resnet542 preresnet542bn_cifar100 cifar100 1871 07f1fb258207d295789981519e8dab892fc08f8d v0.0.391
    preact_resnet542 preresnet542bn_svhn svhn 0236 6bdf92368873ce1288526dc405f15e689a1d3117 v0.0.391
    preact_resnet1001 preresnet1001_cifar10 cifar10 0265 9fedfe5fd643e7355f1062a6db68da310c8962be v0.0.209
    preact_resnet1001 preresnet1001_cifar100 cifar100 1841 88f14ed9df1573e98b0ec2a07009a15066855fda v0.0.283
    preact_resnet1202 preresnet1202_cifar10 cifar10 0339 6fc686b02191226f39e25a76fc5da26857f7acd9 v0.0.246
    wide_resnet16_10 wrn16_10_cifar10 cifar10 0293 ce810d8a17a2deb73eddb5bec8709f93278bc53e v0.0.166
    wide_resnet16_10 wrn16_10_cifar100 cifar100 1895 bef9809c845deb1b2bb0c9aaaa7c58bd97740504 v0.0.204
    wide_resnet16_10 wrn16_10_svhn svhn 0278 5ab2a4edd5398a03d2e28db1b075bf0313ae5828 v0.0.271
    wide_resnet28_10 wrn28_10_cifar10 cifar10 0239 fe97dcd6d0dd8dda8e9e38e6cfa320cffb9955ce v0.0.166
    wide_resnet28_10 wrn28_10_cifar100 cifar100 1788 8c3fe8185d3af9cc3813fe376cab895f6780ac18 v0.0.320
    wide_resnet28_10 wrn28_10_svhn svhn 0271 d62b6bbaef7228706a67c2c8416681f97c6d4688 v0.0.276
    wide_resnet40_8 wrn40_8_cifar10 cifar10 0237 8dc84ec730f35c4b8968a022bc045c0665410840 v0.0.166
    wide_resnet40_8 wrn40_8_cifar100 cifar100 1803 0d18bfbff85951d88a881dc6a15ad46f56ea8c28 v0.0.321
    wide_resnet40_8 wrn40_8_svhn svhn 0254 dee59602c10e5d56bd9c168e8e8400792b9a8b08 v0.0.277
"""


def _osmr() -> dict[str, Weights]:
    """His nets are trained with one normalisation on every data set; those without a digest are left out."""
    rows = (line.split() for line in _OSMR_ROWS.strip().splitlines())
    return {
        f'{architecture}.osmr_{dataset}': Weights(
            dataset=dataset,
            digest=f'sha1:{sha1}',
            top1=round(100 - int(error) / 100, 2),
            publisher=OSMR,
            url=f'{OSMR.page}/releases/download/{release}/{model}-{error}-{sha1[:8]}.pth.zip',
            mean=(0.4914, 0.4822, 0.4465),
            std=(0.2023, 0.1994, 0.2010),
        )
        for architecture, model, dataset, error, sha1, release in rows
    }


WEIGHTS: dict[str, Weights] = {**_ours(), **_osmr(), **_chenyaofo(), **_akamaster()}


def tags(architecture: str) -> list[str]:
    """The tags that an architecture has weights for, the default first.

    That is one of CIFAR-10 for the architecture's own arguments, ours before the best of others': else
    `create_model(architecture)` would be another network with weights than without.
    """
    names = [name for name in WEIGHTS if name.partition('.')[0] == architecture]
    names.sort(key=lambda name: WEIGHTS[name].dataset != 'cifar10' or bool(WEIGHTS[name].model_args))
    return [name.partition('.')[2] for name in names]


_PACKAGE = Path(__file__).parents[1] / 'weights'  # the folder of the weights in the package


def weights_file(name: str) -> Path:
    """Where the weights `name` ('cifar_resnet20.cifar10') lie in the package."""
    return _PACKAGE / f'{name}.safetensors'


def weights_folder(name: str) -> Path:
    """Where those that are too large for it lie beside the package, in a clone and in the archive that torch.hub gets."""
    return Path(__file__).parents[2] / 'weights' / name


def recipe_file(name: str) -> Path:
    """The recipe that trained them, in the package."""
    return _PACKAGE / f'{name}.toml'
