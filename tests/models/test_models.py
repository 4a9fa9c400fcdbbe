"""The networks against their papers' equations, and the shortcut rule shape by shape."""

import copy
from functools import partial
from itertools import product

import pytest
import timm
import torch
import torch.nn.functional as F
from timm.layers import GroupNorm
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from resnet_hub.models import CifarResNet, PreActResNet, network_class
from resnet_hub.models.base import LayerMaker
from resnet_hub.models.cifar_resnet import BasicBlock, Bottleneck
from resnet_hub.models.preact_resnet import PreActBasicBlock, PreActBottleneck
from resnet_hub.tables.architectures import ARCHITECTURES
from tests.oracles import Net, forward, from_pytorchcv, randomise

FAMILIES = {'v1': CifarResNet, 'v2': PreActResNet}
#: every block type, option and final norm
OPTIONS = [
    Net(family, block, layers, shortcut_type, final_norm)
    for family, block, layers, shortcut_type, final_norm in product(
        FAMILIES, ('basic', 'bottleneck'), ((2, 1, 2), (1, 2, 1, 1)), 'AB', (False, True)
    )
    if family == 'v2' or not final_norm
]
#: parameters with 10 classes, as DESIGN section 2 lists them
PARAMETERS = {
    'cifar_resnet18': 11173962,
    'cifar_resnet34': 21282122,
    'cifar_resnet50': 23520842,
    'cifar_resnet101': 42512970,
    'cifar_resnet152': 58156618,
    'cifar_resnet20': 272474,
    'cifar_resnet56': 855770,
    'cifar_resnet110': 1730714,
    'cifar_resnet164': 1704154,
    'cifar_resnet272': 2816986,
    'cifar_resnet1001': 10328602,
    'cifar_resnet8': 78042,
    'cifar_resnet14': 175258,
    'cifar_resnet8x4': 1210410,
    'cifar_resnet32x4': 7410730,
    'preact_resnet18': 11171146,
    'preact_resnet34': 21279306,
    'preact_resnet50': 23509066,
    'preact_resnet101': 42501194,
    'preact_resnet152': 58144842,
    'preact_resnet20': 272282,
    'preact_resnet56': 855578,
    'preact_resnet110': 1730522,
    'preact_resnet164': 1703258,
    'preact_resnet272': 2816090,
    'preact_resnet1001': 10327706,
    'wide_resnet16_2': 691674,
    'wide_resnet16_10': 17116634,
    'wide_resnet28_2': 1467610,
    'wide_resnet28_10': 36479194,
    'wide_resnet34_10': 46160474,
    'wide_resnet40_1': 563930,
    'wide_resnet40_2': 2243546,
    'wide_resnet40_8': 35748314,
}


def describe(name):
    """The oracle's description of a row of the tables."""
    cls, row = network_class(name), ARCHITECTURES[name]
    family = 'v1' if cls is CifarResNet else 'v2'
    return Net(family, row.block, row.layers, 'B', row.args.get('final_norm', family == 'v2'))


def build(net, **kwargs):
    """A small float64 network with random statistics; its stem's width differs, so that a width changes at stride 1."""
    if net.family == 'v2':
        kwargs['final_norm'] = net.final_norm
    defaults = {'widths': (8, 13, 20, 24)[: len(net.layers)], 'stem_width': 5, 'shortcut_type': net.shortcut_type}
    model = FAMILIES[net.family](net.block, net.layers, **{**defaults, 'dtype': torch.float64, **kwargs})
    return randomise(model)


def build_row(name):
    cls, row = network_class(name), ARCHITECTURES[name]
    return randomise(cls(**row.model_args(), device='meta', dtype=torch.float64))


def images(*shape, seed=1):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@torch.inference_mode()
def assert_same_logits(model, expected, x):
    """The bound is relative: under random statistics the logits of the deepest nets grow beyond 1e20."""
    difference = (model(x) - expected).abs().max() / expected.abs().max()
    assert difference <= 1e-9  # False for NaN too


@pytest.mark.parametrize('net', OPTIONS, ids=str)
def test_blocks_and_options_match_the_equations(net):
    model = build(net)
    for x in (images(2, 3, 16, 16), images(1, 3, 9, 13)):
        assert_same_logits(model, forward(net, model.state_dict(), x), x)


@pytest.mark.parametrize('name', ARCHITECTURES)
def test_rows_match_the_equations(name):
    model, x = build_row(name), images(1, 3, 8, 8)
    assert_same_logits(model, forward(describe(name), model.state_dict(), x), x)


def pytorchcv_net(name):
    from pytorchcv.models.preresnet_cifar import get_preresnet_cifar
    from pytorchcv.models.resnet_cifar import get_resnet_cifar
    from pytorchcv.models.wrn_cifar import get_wrn_cifar

    cls, row = network_class(name), ARCHITECTURES[name]
    blocks = sum(row.layers)
    if name.startswith('wide_resnet'):
        return get_wrn_cifar(10, blocks=2 * blocks + 4, width_factor=row.widths[0] // 16)
    get = get_resnet_cifar if cls is CifarResNet else get_preresnet_cifar
    bottleneck = row.block == 'bottleneck'
    return get(10, blocks=(3 if bottleneck else 2) * blocks + 2, bottleneck=bottleneck)


@pytest.mark.parametrize(
    'name',
    [name for name, row in ARCHITECTURES.items() if row.widths == (16, 32, 64) or name.startswith('wide_resnet')],
)
def test_thin_and_wide_nets_match_pytorchcv(name):
    other = randomise(pytorchcv_net(name).double())
    cls, row = network_class(name), ARCHITECTURES[name]
    ours = cls(**row.model_args(), device='meta', dtype=torch.float64).eval()
    ours.load_state_dict(from_pytorchcv(other.state_dict()))
    x = images(1, 3, 32, 32)
    with torch.inference_mode():
        assert_same_logits(ours, other(x), x)


@pytest.mark.parametrize('name', ARCHITECTURES)
def test_parameter_counts(name):
    cls, row = network_class(name), ARCHITECTURES[name]
    count = sum(p.numel() for p in cls(**row.model_args(), device='meta').parameters())
    assert count == row.params == PARAMETERS.get(name, count)
    assert PARAMETERS.keys() <= ARCHITECTURES.keys()


@pytest.mark.parametrize('shortcut_type', 'AB')
@pytest.mark.parametrize(
    ('shape', 'identity'),
    [((8, 8, 1), True), ((8, 8, 2), False), ((8, 16, 2), False), ((8, 13, 1), False), ((8, 11, 2), False)],
)
def test_shortcut_rule(shape, identity, shortcut_type):
    """Identity where stride is 1 and the width stays; else option A, or a projection with a norm (V1) or bare (V2)."""
    make = LayerMaker(shortcut_type, nn.ReLU, nn.BatchNorm2d, {'device': None, 'dtype': torch.float64})
    in_chs, out_chs, stride = shape
    x = images(2, in_chs, 7, 10)
    for norm in (True, False):
        shortcut = make.shortcut(*shape, norm=norm)
        out = shortcut(x)
        if identity:
            assert out is x
        elif shortcut_type == 'A':
            before = (out_chs - in_chs) // 2
            assert not list(shortcut.parameters())
            assert out.shape == (2, out_chs, -(-7 // stride), -(-10 // stride))
            assert torch.equal(out[:, before : before + in_chs], x[:, :, ::stride, ::stride])
            assert out.count_nonzero() == x[:, :, ::stride, ::stride].count_nonzero()  # the rest is zero
            assert out_chs - in_chs - 2 * before in (0, 1)  # both sides alike
        else:
            conv, *rest = shortcut
            assert (conv.kernel_size, conv.stride, conv.bias) == ((1, 1), (stride, stride), None)
            assert [type(module) for module in rest] == ([nn.BatchNorm2d] if norm else [])


@pytest.mark.parametrize('block', [BasicBlock, Bottleneck, PreActBasicBlock, PreActBottleneck])
@pytest.mark.parametrize('shape', [(8, 2, 1), (8, 8, 1), (8, 3, 1), (8, 2, 2), (8, 9, 2)], ids=str)
@pytest.mark.parametrize('shortcut_type', 'AB')
def test_what_the_shortcut_carries(block, shape, shortcut_type):
    """With a branch of zeros a block is its shortcut: V2 projects the activated input and carries x itself elsewhere."""
    in_chs, width, stride = shape
    out_chs = width * block.expansion
    make = LayerMaker(shortcut_type, nn.ReLU, nn.BatchNorm2d, {'device': None, 'dtype': torch.float64})
    if out_chs < in_chs and shortcut_type == 'A':
        with pytest.raises(ValueError, match='narrow'):
            block(in_chs, width, stride, 0.0, make)
        return
    net = randomise(block(in_chs, width, stride, 0.0, make))
    last = net.get_submodule(block.last)
    nn.init.zeros_(last.weight)
    if isinstance(last, nn.BatchNorm2d):
        nn.init.zeros_(last.bias)
    x = images(2, in_chs, 6, 7)
    with torch.no_grad():
        preact = block in (PreActBasicBlock, PreActBottleneck)
        if stride == 1 and in_chs == out_chs:
            expected = x
        elif shortcut_type == 'A':
            before = (out_chs - in_chs) // 2
            kept = x[:, :, ::stride, ::stride]
            expected = torch.zeros(2, out_chs, *kept.shape[2:], dtype=x.dtype)
            expected[:, before : before + in_chs] = kept
        else:
            source = F.relu(net.bn1(x)) if preact else x
            kernel = net.downsample[0].weight[:, :, 0, 0]
            expected = torch.einsum('oi,nihw->nohw', kernel, source[:, :, ::stride, ::stride])
            expected = expected if preact else net.downsample[1](expected)
        torch.testing.assert_close(net(x), expected if preact else F.relu(expected))


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'shortcut_type': 'C'}, "shortcut_type must be 'A' or 'B', not 'C'"),
        ({'shortcut_type': 'a'}, "shortcut_type must be 'A' or 'B', not 'a'"),
        ({'block': 'Basic'}, "block must be one of 'basic', 'bottleneck', not 'Basic'"),
        ({'layers': (1, 1)}, r'layers=\(1, 1\)'),
        ({'layers': (1, 1), 'widths': (8, 16)}, 'three or four stages'),
        ({'layers': (1,) * 5, 'widths': (8,) * 5}, 'three or four stages'),
        ({'layers': (1, 0, 1)}, 'at least one block'),
        ({'shortcut_type': 'A', 'widths': (8, 16, 12)}, "'A' cannot narrow a stage from 16 to 12"),
    ],
)
@pytest.mark.parametrize('family', FAMILIES)
def test_unusable_arguments_are_named(family, change, message):
    arguments = {'block': 'basic', 'layers': (1, 1, 1), 'widths': (8, 16, 32), **change}
    with pytest.raises(ValueError, match=message):
        FAMILIES[family](**arguments, device='meta')


@pytest.mark.parametrize('family', FAMILIES)
def test_unknown_arguments_are_refused(family):
    with pytest.raises(TypeError, match='shortcut'):
        FAMILIES[family]('basic', (1, 1, 1), (8, 16, 32), shortcut='A')


@pytest.mark.parametrize('size', [(8, 8), (9, 13), (40, 40), (64, 64)], ids=str)
@pytest.mark.parametrize('net', [n for n in OPTIONS if len(n.layers) == 4 and n.shortcut_type == 'B'], ids=str)
def test_any_size_uses_every_row_and_column(net, size):
    """A fixed pooling window would crash at one size and drop the last row and column at another."""
    model = build(net)
    x = images(1, 3, *size)
    assert_same_logits(model, forward(net, model.state_dict(), x), x)
    features = model.forward_features(x).detach().requires_grad_()
    model.forward_head(features).sum().backward()
    assert features.grad is not None
    assert (features.grad[0, 0] == features.grad[0, 0, 0, 0]).all()  # each pixel counts, and counts alike
    assert features.grad.any()
    pixels = x.requires_grad_()
    model(pixels).sum().backward()
    assert pixels.grad is not None
    assert pixels.grad.abs().sum((0, 1, 3)).all()
    assert pixels.grad.abs().sum((0, 1, 2)).all()


@pytest.mark.parametrize('net', [n for n in OPTIONS if n.layers == (2, 1, 2)], ids=str)
def test_channels_and_classes(net):
    x = images(2, 5, 16, 16)
    for classes in (1, 7):
        model = build(net, in_chans=5, num_classes=classes)
        assert model(x).shape == (2, classes)
        assert_same_logits(model, forward(net, model.state_dict(), x), x)
    with torch.inference_mode():
        headless = build(net, in_chans=5, num_classes=0)
        assert torch.equal(headless(x), headless.forward_features(x).mean((2, 3)))
        unpooled = build(net, in_chans=5, num_classes=0, global_pool='')
        assert torch.equal(unpooled(x), unpooled.forward_features(x))
        model = build(net, in_chans=5, num_classes=3, global_pool='max')
        pooled = model.forward_features(x).amax((2, 3))
        torch.testing.assert_close(model(x), model.fc(pooled))


@pytest.mark.parametrize('net', OPTIONS, ids=str)
def test_every_activation_is_a_module(net):
    """print(model) shows as many as the equations have; and without them nothing in the network bends."""
    assert repr(build(net)).count('ReLU(') == net.activations()
    model = build(net, act_layer=nn.Identity)
    x, y = images(2, 2, 3, 8, 8)
    with torch.inference_mode():
        torch.testing.assert_close(model(x + y) + model(torch.zeros_like(x)), model(x) + model(y))
    assert repr(build(net, act_layer='gelu')).count('GELU(') == net.activations()


class CountBytes(TorchDispatchMode):
    """Sums up what operators return outside the meta device."""

    total = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else [out]:
            if isinstance(tensor, Tensor) and not tensor.is_meta:
                self.total += tensor.numel() * tensor.element_size()
        return out


@pytest.mark.parametrize('net', OPTIONS, ids=str)
def test_meta_allocates_nothing(net):
    arguments = {'widths': (64, 128, 256, 512)[: len(net.layers)], 'shortcut_type': net.shortcut_type}
    with CountBytes() as count:
        model = FAMILIES[net.family](net.block, net.layers, **arguments, drop_path_rate=0.1, device='meta')
    assert all(tensor.is_meta for tensor in model.state_dict().values())
    assert count.total < 1000


def blocks_of(model):
    return (module for module in model.modules() if hasattr(module, 'downsample'))


@pytest.mark.parametrize('net', [n for n in OPTIONS if n.layers == (2, 1, 2)], ids=str)
def test_zero_init_last(net):
    """A fresh block is its shortcut alone, unless told otherwise."""
    for zero in (True, False):
        arguments = {'shortcut_type': net.shortcut_type, 'zero_init_last': zero}
        model = FAMILIES[net.family](net.block, net.layers, (8, 13, 20), **arguments).eval()
        for block in blocks_of(model):
            x = torch.randn(2, block.conv1.in_channels, 6, 6).relu()
            source = block.act1(block.bn1(x)) if getattr(block, 'projects', False) else x
            shortcut = block.downsample(source)
            if net.family == 'v1':
                shortcut = shortcut.relu()
            assert torch.equal(block(x), shortcut) == zero


@pytest.mark.parametrize('net', [n for n in OPTIONS if n.layers == (2, 1, 2)], ids=str)
def test_initial_weights(net):
    """Kaiming-normal convolutions by fan-out, norms at one and zero."""
    torch.manual_seed(0)
    model = FAMILIES[net.family](net.block, net.layers, (64, 128, 256), zero_init_last=False)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            fan_out = module.out_channels * module.kernel_size[0] ** 2
            assert module.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.1)
            assert module.weight.abs().max() > 2.5 * module.weight.std()  # a uniform one ends at 1.73
        elif isinstance(module, nn.BatchNorm2d):
            assert (module.weight == 1).all()
            assert not module.bias.any()


@pytest.mark.parametrize('block', [PreActBasicBlock, PreActBottleneck, BasicBlock, Bottleneck])
def test_stochastic_depth_drops_whole_branches(block):
    """In training each image gets its shortcut plus the branch over the keep rate, or its shortcut alone."""
    torch.manual_seed(0)
    make = LayerMaker('B', nn.ReLU, nn.BatchNorm2d, {'device': None, 'dtype': torch.float64})
    net = randomise(block(8, 8 // block.expansion, 1, 0.25, make))
    x = images(64, 8, 4, 4).relu()
    with torch.no_grad():
        whole = net(x)
        net.drop_path.train()
        seen = net(x)
        net.drop_path = nn.Identity()
        assert torch.equal(whole, net(x))  # no effect in evaluation
        branches = []
        net.get_submodule(block.last).register_forward_hook(lambda module, args, out: branches.append(out.clone()))
        net(x)
        full, none = x + branches[0] / 0.75, x
        if block in (BasicBlock, Bottleneck):
            full = full.relu()
        kept = (seen - full).abs().amax((1, 2, 3)) < 1e-12
        dropped = (seen - none).abs().amax((1, 2, 3)) < 1e-12
        assert (kept != dropped).all()
        assert 5 < dropped.sum() < 30  # 16 expected


def test_stochastic_depth_grows_linearly():
    model = CifarResNet('basic', (1, 2, 2), (8, 8, 8), drop_path_rate=0.2)
    rates = [getattr(block.drop_path, 'drop_prob', 0.0) for block in blocks_of(model)]
    assert rates == pytest.approx([0, 0.05, 0.1, 0.15, 0.2])


@pytest.mark.parametrize('family', FAMILIES)
def test_dropout_is_before_the_classifier_and_in_training_only(family):
    torch.manual_seed(0)
    net = Net(family, 'basic', (1, 1, 1))
    plain, dropping = build(net, widths=(64, 64, 64)), build(net, widths=(64, 64, 64), drop_rate=0.5)
    x = images(8, 3, 8, 8)
    with torch.no_grad():
        assert torch.equal(plain(x), dropping(x))
        features = dropping.forward_features(x)
        whole = dropping.forward_head(features, pre_logits=True)
        dropping.train()
        seen = dropping.forward_head(features, pre_logits=True)
    assert torch.equal(seen, torch.where(seen == 0, seen, 2 * whole))
    assert 0.4 < (seen[whole != 0] == 0).double().mean() < 0.6


# Hooks


@pytest.mark.parametrize('net', [n for n in OPTIONS if n.layers == (2, 1, 2)], ids=str)
def test_hooks_on_every_module(net):
    """They are called, and change neither logits nor gradients; what a forward hook sees is not changed later."""
    plain = build(net, drop_path_rate=0.2, **({'conv_drop_rate': 0.2} if net.family == 'v2' else {})).train()
    hooked = copy.deepcopy(plain)
    called, outputs = set(), []
    for name, module in hooked.named_modules():
        module.register_full_backward_pre_hook(lambda m, grads, name=name: called.add(f'{name} before'))
        module.register_full_backward_hook(lambda m, ins, outs, name=name: called.add(f'{name} after'))
        module.register_forward_hook(lambda m, args, out: outputs.append((out, out.detach().clone())))
    for model in (plain, hooked):
        torch.manual_seed(0)
        model(images(2, 3, 16, 16).requires_grad_()).square().sum().backward()
    ran = {name for name, module in hooked.named_modules()}
    assert called == {f'{name} {when}' for name in ran for when in ('before', 'after')}
    assert all(torch.equal(out, copied) for out, copied in outputs)
    for a, b in zip(plain.parameters(), hooked.parameters(), strict=True):
        assert torch.equal(a.grad, b.grad)


@pytest.mark.parametrize('net', [n for n in OPTIONS if n.layers == (2, 1, 2)], ids=str)
def test_without_gradients_the_logits_are_the_same(net):
    model, x = build(net), images(2, 3, 16, 16)
    before, logits = x.clone(), model(x)
    for context in (torch.no_grad, torch.inference_mode):
        with context():
            assert torch.equal(model(x), logits)
            assert torch.equal(x, before)


# Dropout inside a block, and group norm


@pytest.mark.parametrize('block', [PreActBasicBlock, PreActBottleneck])
@pytest.mark.parametrize('shape', [(8, 2, 1), (8, 9, 2)], ids=str)
def test_dropout_between_the_convolutions(block, shape):
    """Norm, activation, dropout, convolution, for each convolution but the first (Zagoruyko and Komodakis, 2.4)."""
    make = LayerMaker('B', nn.ReLU, nn.BatchNorm2d, {'dtype': torch.float64}, 0.4)
    net = randomise(block(*shape, 0.0, make)).train()
    x = images(3, shape[0], 6, 6)
    convs = [net.conv1, net.conv2] + ([net.conv3] if block is PreActBottleneck else [])
    norms = [net.bn1, net.bn2] + ([net.bn3] if block is PreActBottleneck else [])
    torch.manual_seed(0)
    h = x
    for i, (norm, conv) in enumerate(zip(norms, convs, strict=True)):
        mean, var = h.mean((0, 2, 3), keepdim=True), h.var((0, 2, 3), correction=0, keepdim=True)
        scale, shift = norm.weight[:, None, None], norm.bias[:, None, None]
        h = ((h - mean) / (var + norm.eps).sqrt() * scale + shift).clamp(min=0)
        if i == 0:
            activated = h
        else:
            h = h * torch.empty_like(h).bernoulli_(0.6) / 0.6
        h = F.conv2d(h, conv.weight, None, conv.stride, conv.padding)
    projection = getattr(net.downsample, '0', None)  # an identity has none
    shortcut = F.conv2d(activated, projection.weight, None, shape[2]) if projection else x
    torch.manual_seed(0)
    torch.testing.assert_close(net(x), h + shortcut)


@pytest.mark.parametrize('name', ['wide_resnet16_2', 'preact_resnet164', 'preact_resnet18'])
def test_dropout_acts_in_training_alone(name):
    plain = timm.create_model(name, zero_init_last=False)
    dropping = timm.create_model(name, conv_drop_rate=0.3)
    dropping.load_state_dict(plain.state_dict())
    assert not [m for m in plain.modules() if isinstance(m, nn.Dropout)]
    row = ARCHITECTURES[name]
    drops = [m.p for m in dropping.modules() if isinstance(m, nn.Dropout)]
    assert drops == [0.3] * sum(row.layers) * (1 if row.block == 'basic' else 2)
    x = images(2, 3, 8, 8).float()
    with torch.no_grad():
        assert torch.equal(plain.eval()(x), dropping.eval()(x))
        dropping.train()
        assert not torch.equal(dropping(x), dropping(x))


@pytest.mark.parametrize('argument', ['conv_drop_rate', 'final_norm'])
def test_arguments_that_v1_does_not_have(argument):
    with pytest.raises(TypeError, match=f"V1.* has no argument '{argument}'; only PreActResNets have it"):
        CifarResNet('basic', (1, 1, 1), (8, 16, 32), **{argument: 0.3})


@pytest.mark.parametrize('norm_layer', ['groupnorm', 'group_norm', GroupNorm, nn.GroupNorm])
@pytest.mark.parametrize('name', ARCHITECTURES)
def test_group_norm_fits_every_width(name, norm_layer):
    layers = (1,) * len(ARCHITECTURES[name].layers)
    model = timm.create_model(name, norm_layer=norm_layer, layers=layers, device='meta')
    norms = [m for m in model.modules() if isinstance(m, nn.GroupNorm)]
    assert {m.num_channels for m in norms} >= set(ARCHITECTURES[name].widths)
    assert all(m.num_groups == (32 if m.num_channels % 32 == 0 else 16) for m in norms)
    assert not [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]


def test_ones_own_number_of_groups_is_kept():
    for norm_layer, groups in ((partial(GroupNorm, num_groups=8), 8), ('groupnorm1', 1)):
        model = timm.create_model('cifar_resnet8', norm_layer=norm_layer)
        assert {m.num_groups for m in model.modules() if isinstance(m, nn.GroupNorm)} == {groups}
        assert model(images(2, 3, 8, 8).float()).isfinite().all()
