"""What optimize() returns infers the same, and cannot do anything else."""

import copy

import pytest
import timm
import torch
from timm.data import resolve_model_data_config
from torch import nn
from torch._dynamo.utils import counters
from torch._inductor.utils import run_and_get_code

from resnet_hub import InputError, ResnetHubError, evaluate, optimize
from resnet_hub.data.images import Images
from resnet_hub.models import PreActResNet
from resnet_hub.tables.architectures import ARCHITECTURES

CHEAP = [name for name, row in ARCHITECTURES.items() if sum(row.layers) < 150]
DEVICES = ['cpu', *(['cuda'] if torch.cuda.is_available() else [])]
SMALL = ['cifar_resnet8', 'preact_resnet20']


def lively(name, **options):
    """A network in which every norm does something, and logits are of the order of one at any depth."""
    torch.manual_seed(0)
    model = timm.create_model(name, zero_init_last=False, **options)
    blocks = [module for module in model.modules() if hasattr(module, 'last')]
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.5)
                module.running_var.uniform_(0.5, 2)
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0, 0.3)
        for block in blocks:
            getattr(block, block.last).weight.div_(len(blocks) ** 0.5)
    return model.eval()


def images(*shape, **options):
    return torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(**options)


def norms(model):
    return [name for name, module in model.named_modules() if 'Norm' in type(module).__name__]


def assert_same(model, fast, x, tolerance=1e-4):
    with torch.no_grad():
        expected, answer = model(x), fast(x)
    expected, answer = (y if isinstance(y, list) else [y] for y in (expected, answer))
    assert len(answer) == len(expected)
    for ours, theirs in zip(answer, expected, strict=True):
        assert ours.shape == theirs.shape and 0.1 < theirs.std() < 20
        torch.testing.assert_close(ours.float(), theirs.float(), rtol=0, atol=tolerance)


@pytest.mark.parametrize('name', CHEAP)
def test_same_logits_and_only_norms_before_convolutions_left(name):
    model = lively(name)
    fast = optimize(model)
    assert_same(model, fast, images(2, 3, 8, 8))
    # in V2 those that read a sum, or the raw stem that the first shortcut reads too, and the final one
    before = [name for name, _ in model.named_modules() if name.endswith('.bn1') or name == 'norm']
    expected = before if isinstance(model, PreActResNet) else []
    assert norms(fast.model) == [name for name in expected if name in norms(model)]


@pytest.mark.parametrize(
    ('name', 'options'),
    [
        *((name, {'shortcut_type': 'A'}) for name in ('cifar_resnet8', 'cifar_resnet50', 'preact_resnet20')),
        ('preact_resnet18', {'final_norm': True}),
        ('preact_resnet20', {'final_norm': False}),
        *((name, {'num_classes': 7, 'in_chans': 1}) for name in SMALL),
        *((name, {'num_classes': 0, 'in_chans': 4}) for name in SMALL),
        *((name, {'num_classes': 0, 'global_pool': ''}) for name in SMALL),
        *((name, {'drop_rate': 0.5, 'drop_path_rate': 0.5}) for name in SMALL),
        *((name, {'features_only': True, 'out_indices': (0, 2, 3)}) for name in SMALL),
        *((name, {'features_only': True, 'feature_cls': 'getter'}) for name in SMALL),
        *((name, {'act_layer': act}) for name in SMALL for act in ('silu', 'prelu', 'gelu', 'identity')),
    ],
)
def test_same_outputs_with_any_options(name, options):
    model = lively(name, **options)
    fast = optimize(model)
    assert_same(model, fast, images(2, options.get('in_chans', 3), 32, 32))
    assert len(norms(fast)) < len(norms(model)) and (name != 'cifar_resnet8' or not norms(fast))


@pytest.mark.parametrize('norm', ['groupnorm1', 'layernorm2d', 'rmsnorm2d'])
@pytest.mark.parametrize('name', SMALL)
def test_other_norms_stay(name, norm):
    model = lively(name, norm_layer=norm)
    fast = optimize(model)
    assert_same(model, fast, images(2, 3, 32, 32))
    assert norms(fast.model) == norms(model)


@pytest.mark.parametrize('name', SMALL)
def test_feature_maps_are_still_there(name):
    model = lively(name)
    fast, x = optimize(model), images(2, 3, 32, 32)
    with torch.no_grad():
        ours, theirs = (net.forward_intermediates(x) for net in (fast, model))
    for a, b in zip([ours[0], *ours[1]], [theirs[0], *theirs[1]], strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-4)


@pytest.mark.parametrize('name', SMALL)
@pytest.mark.parametrize('training', [True, False])
def test_the_original_stays_as_it_is(name, training):
    model = lively(name).train(training)
    model.set_grad_checkpointing()
    before = copy.deepcopy(model.state_dict())
    fast = optimize(model)
    for tensor in (*fast.parameters(), *fast.buffers()):
        tensor.zero_()
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
    assert {module.training for module in model.modules()} == {training} and model.grad_checkpointing
    model.train()(images(4, 3, 32, 32)).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_it_only_infers():
    fast = optimize(lively('preact_resnet20'))
    assert fast.eval() is fast and fast.train(False) is fast
    assert not any(module.training for module in fast.modules())
    for refused in (fast.train, nn.Sequential(fast).train):
        with pytest.raises(ResnetHubError, match='cannot be trained: train the network'):
            refused()
    assert not any(parameter.requires_grad for parameter in fast.parameters())
    assert not fast(images(2, 3, 32, 32).requires_grad_()).requires_grad
    teacher = fast(images(2, 3, 32, 32))  # usable in a loss of another network, unlike what inference_mode gives
    (teacher * torch.ones(10, requires_grad=True)).sum().backward()


@pytest.mark.parametrize('name', SMALL)
def test_channels_last_from_the_first_convolution_on(name):
    fast = optimize(lively(name))
    seen = []
    for module in fast.modules():
        if isinstance(module, nn.Conv2d):
            assert module.weight.is_contiguous(memory_format=torch.channels_last)
            module.register_forward_hook(
                lambda _, x, y: seen.append(y.is_contiguous(memory_format=torch.channels_last))
            )
    fast(images(2, 3, 32, 32))
    assert len(seen) > 8 and all(seen)


def test_what_else_a_network_has():
    model = lively('cifar_resnet8', num_classes=7, pretrained_cfg_overlay={'mean': (0.1, 0.2, 0.3)})
    fast = optimize(model)
    assert fast.num_classes == 7 and fast.pretrained_cfg == model.pretrained_cfg == fast.default_cfg
    assert resolve_model_data_config(fast) == resolve_model_data_config(model)
    assert fast.get_classifier().out_features == 7
    with pytest.raises(AttributeError, match='number_of_classes'):
        _ = fast.number_of_classes
    again = copy.deepcopy(fast)
    assert torch.equal(again(images(2, 3, 32, 32)), fast(images(2, 3, 32, 32)))


def test_it_can_be_evaluated():
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (50, 32, 32, 3), dtype=torch.uint8, generator=generator)
    split = Images(pixels, torch.randint(0, 10, (50,), generator=generator))
    model = lively('cifar_resnet8')
    ours, theirs = (evaluate(net, split, (0.5,) * 3, (0.2,) * 3, batch_size=20) for net in (optimize(model), model))
    assert (ours.top1, ours.top5) == (theirs.top1, theirs.top5) and ours.nll == pytest.approx(theirs.nll, abs=1e-4)


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize('name', SMALL)
def test_networks_of_other_types(name, dtype, device):
    """As near to the float32 network as the unoptimised one of that type; folding in a half would double the error."""
    model, x = lively(name), images(32, 3, 32, 32)
    with torch.no_grad():
        exact = model(x)
        converted = model.to(device, dtype)
        fast = optimize(converted)
        logits, usual = (net(x.to(device, dtype)) for net in (fast, converted))
    assert {t.dtype for t in (logits, *fast.parameters())} == {dtype}
    ours, theirs = ((y.float().cpu() - exact).norm() / exact.norm() for y in (logits, usual))
    assert ours <= 1.3 * theirs + 1e-6


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize(('dtype', 'error'), [(torch.bfloat16, 2e-2), (torch.float16, 3e-3)])
@pytest.mark.parametrize('options', [{}, {'act_layer': 'prelu'}, {'norm_layer': 'groupnorm1'}])
@pytest.mark.parametrize('name', SMALL)
def test_half_precision(name, options, dtype, error, device):
    model, x = lively(name, **options).to(device), images(32, 3, 32, 32, device=device)
    fast = optimize(model, dtype=dtype)
    with torch.no_grad():
        exact, logits = model(x), fast(x)
    assert logits.dtype == torch.float32 and {m.weight.dtype for m in fast.modules() if isinstance(m, nn.Conv2d)} == {
        dtype
    }
    assert 0 < (logits.float() - exact).norm() / exact.norm() < error


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_probabilities_are_not_in_low_precision(dtype):
    """Softmax of the answer tells apart what the half precision type rounds to 1."""
    model = lively('cifar_resnet8')
    with torch.no_grad():
        model.fc.weight.mul_(150)  # confident
    fast, x = optimize(model, dtype=dtype), images(200, 3, 32, 32)
    confident = fast(x).softmax(1).amax(1)
    assert confident.dtype == torch.float32
    assert (confident[confident.to(dtype) == 1] < 1).sum() > 5
    features = optimize(lively('cifar_resnet8', features_only=True), dtype=dtype)(x)
    assert len(features) == 4
    assert all(not feature.requires_grad for feature in features)


def test_by_name():
    from resnet_hub import load_model

    x = images(2, 3, 32, 32)
    assert_same(load_model('cifar_resnet20.cifar10', 'cpu'), optimize('cifar_resnet20.cifar10').cpu(), x)
    with pytest.raises(InputError, match="unknown model 'cifar_resnet21'; did you mean "):
        optimize('cifar_resnet21')
    with pytest.raises(InputError, match=r'must be a network \(torch.nn.Module\) or its name, not int'):
        optimize(3)


@pytest.fixture(scope='module')
def compiler():
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        return get_cpp_compiler()
    except InvalidCxxCompiler:
        pytest.skip('no C++ compiler')


@pytest.mark.parametrize('name', SMALL)
def test_compiled(name, compiler):
    model, x = lively(name), images(4, 3, 32, 32)
    fast, codes = run_and_get_code(optimize, model, x, compile=True)
    assert '_frozen_param' in codes[-1], 'the weights are arguments, not constants'
    with torch.compiler.set_stance('fail_on_recompile'):  # the example has made it compile
        assert_same(model, fast, x)
    assert_same(model, fast, images(3, 3, 32, 32))
    assert not torch._inductor.config.freezing, 'the setting stays in the process'


def test_many_compiled_in_one_process(compiler):
    """Of each code object PyTorch keeps eight compilations; the ninth network would run uncompiled."""
    with torch._dynamo.config.patch(recompile_limit=2):
        for seed in range(4):
            torch.manual_seed(seed)
            before = counters['stats']['unique_graphs']
            optimize(timm.create_model('cifar_resnet8'), images(2, 3, 8, 8), compile=True)
            assert counters['stats']['unique_graphs'] > before


def test_no_compiler():
    torch._dynamo.reset()
    with (
        torch._inductor.config.patch({'cpp.cxx': (None, 'missing-compiler')}),
        pytest.raises(ResnetHubError, match=r'No working C\+\+ compiler found.*install') as caught,
    ):
        optimize(lively('cifar_resnet8'), compile=True)
    assert '\n' not in str(caught.value)


def test_what_is_shared_and_not_folded_stays():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.last = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)
            self.bn = nn.BatchNorm2d(3)
            self.bn.running_mean.uniform_(-1, 1)

        def forward(self, x):
            return self.bn(self.last(self.conv(self.conv(x))))

    model, x = Twice().eval(), images(2, 3, 8, 8)
    torch.testing.assert_close(optimize(model)(x), model(x), rtol=1e-4, atol=1e-4)


def test_refused():
    class Deciding(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 3)

        def forward(self, x):
            return self.conv(x) if x.sum() > 0 else x

    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.bn1, self.bn2 = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.BatchNorm2d(3)

        def forward(self, x):
            return self.bn2(self.conv(self.bn1(self.conv(x))))

    with pytest.raises(InputError, match='conv is called more than once, so that bn1 cannot be folded into conv'):
        optimize(Shared())
    with pytest.raises(InputError, match=r'torch\.fx cannot trace Deciding') as caught:
        optimize(Deciding())
    assert '\n' not in str(caught.value)
    with pytest.raises(InputError, match=r'dtype must be torch\.bfloat16, .* not torch\.int8'):
        optimize(lively('cifar_resnet8'), dtype=torch.int8)
    with pytest.raises(RuntimeError, match='to have 3 channels'):
        optimize(lively('cifar_resnet8'), example=images(1, 4, 32, 32))
