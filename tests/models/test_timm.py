"""timm's contract: each method for its effect on values, the registry, and weights by every way that timm has."""

import copy
import json
import re
import shutil
import sys

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from timm.models import get_pretrained_cfg, group_parameters, is_model_in_modules, resolve_model_input_args
from torch import nn

from resnet_hub.models import network_class
from resnet_hub.models.base import PadShortcut
from resnet_hub.tables.architectures import ARCHITECTURES
from resnet_hub.tables.weights import WEIGHTS, tags, weights_file
from tests.conftest import ROOT
from tests.oracles import NETWORKS, randomise

BUNDLED = [name for name, row in WEIGHTS.items() if row.url is None]
TINY = [(name, shortcut_type) for name in NETWORKS for shortcut_type in 'AB']
TINY_IDS = ['-'.join(net) for net in TINY]
every_tiny = pytest.mark.parametrize('tiny', TINY, indirect=True, ids=TINY_IDS)


def make_tiny(name, shortcut_type='B', **kwargs):
    """An architecture, narrow and shallow."""
    stages = len(ARCHITECTURES[name].layers)
    shape = {'layers': (1, 2, 1, 1)[:stages], 'widths': (16, 18, 21, 24)[:stages]}
    model = timm.create_model(name, shortcut_type=shortcut_type, **shape, **kwargs)
    return model.eval() if 'pretrained' in kwargs else randomise(model)


@pytest.fixture
def tiny(request):
    return make_tiny(*request.param)


def images(*shape, seed=1):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


X = images(2, 3, 16, 16)


def hooked(model, x):
    """What the modules that feature_info names return in a forward pass."""
    seen = []
    hooks = [
        model.get_submodule(info['module']).register_forward_hook(lambda m, args, out: seen.append(out.clone()))
        for info in model.feature_info
    ]
    with torch.no_grad():
        model(x)
    for hook in hooks:
        hook.remove()
    return seen


def close(a, b):
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


# The model API


@every_tiny
def test_features_and_head(tiny):
    with torch.no_grad():
        features = tiny.forward_features(X)
        assert torch.equal(features, tiny.act(tiny.norm(hooked(tiny, X)[-1])))
        assert features.shape == (2, tiny.num_features, *[16 // tiny.feature_info[-1]['reduction']] * 2)
        pooled = tiny.forward_head(features, pre_logits=True)
        close(pooled, features.mean((2, 3)))
        assert pooled.shape[1] == tiny.head_hidden_size
        assert torch.equal(tiny.forward_head(features), tiny.fc(pooled))
        assert torch.equal(tiny(X), tiny.fc(pooled))


@every_tiny
def test_forward_intermediates(tiny):
    maps = hooked(tiny, X)
    last = len(maps) - 1
    assert [info['num_chs'] for info in tiny.feature_info] == [m.shape[1] for m in maps]
    assert [info['reduction'] for info in tiny.feature_info] == [16 // m.shape[2] for m in maps]
    with torch.no_grad():
        for indices, expected in (
            (None, range(last + 1)),
            (1, [last]),
            (3, range(last - 2, last + 1)),
            ([0, 2], [0, 2]),
            ([-2], [last - 1]),
            ((0,), [0]),
        ):
            features, intermediates = tiny.forward_intermediates(X, indices)
            assert all(torch.equal(a, maps[i]) for a, i in zip(intermediates, expected, strict=True))
            assert torch.equal(features, tiny.forward_features(X))
            alone = tiny.forward_intermediates(X, indices, intermediates_only=True, stop_early=True)
            assert all(torch.equal(a, b) for a, b in zip(alone, intermediates, strict=True))
        normed = tiny.forward_intermediates(X, norm=True, intermediates_only=True)
        assert all(torch.equal(a, b) for a, b in zip(normed, [*maps[:-1], tiny.forward_features(X)], strict=True))
        ran = []
        for name in (*(f'layer{i}' for i in range(1, last + 1)), 'norm'):
            tiny.get_submodule(name).register_forward_hook(lambda m, args, out, name=name: ran.append(name))
        features, _ = tiny.forward_intermediates(X, [1], stop_early=True)
        assert ran == ['layer1']
        assert torch.equal(features, maps[1])
    for unusable in ({'indices': [last + 1]}, {'indices': last + 2}):
        with pytest.raises(AssertionError, match='out of range'):
            tiny.forward_intermediates(X, **unusable)
    with pytest.raises(ValueError, match="must be 'NCHW', not 'NLC'"):
        tiny.forward_intermediates(X, output_fmt='NLC')


@pytest.mark.parametrize('name', ['cifar_resnet20', 'preact_resnet20', 'preact_resnet164', 'preact_resnet18'])
def test_without_norms_activations_change_no_map(name):
    """A norm copies; where it is an identity, an activation in place would change what came before it."""
    model = make_tiny(name, norm_layer=nn.Identity)
    maps = hooked(model, X)
    with torch.no_grad():
        assert all(map(torch.equal, model.forward_intermediates(X, intermediates_only=True), maps))


@every_tiny
def test_prune_intermediate_layers(tiny):
    maps, last = hooked(tiny, X), len(tiny.feature_info) - 1
    with torch.no_grad():
        logits, features = tiny(X), tiny.forward_features(X)
        for index in range(last + 1):
            pruned = copy.deepcopy(tiny)
            assert pruned.prune_intermediate_layers([0, index]) == [0, index]
            stages = {name.partition('.')[0] for name in pruned.state_dict()} - {'conv1', 'bn1', 'norm'}
            assert stages == {f'layer{i}' for i in range(1, index + 1)}  # fc is gone too
            close(pruned.forward_intermediates(X, [0, index], intermediates_only=True), [maps[0], maps[index]])
            assert torch.equal(pruned(X), features if index == last else maps[index])
            assert pruned.num_features == pruned(X).shape[1]
        kept = copy.deepcopy(tiny)
        kept.prune_intermediate_layers(1, prune_head=False)
        assert torch.equal(kept(X), logits)
        tiny.prune_intermediate_layers(1, prune_norm=True, prune_head=False)
        assert torch.equal(tiny(X), tiny.forward_head(maps[-1]))


@every_tiny
def test_pruned_models_use_all_their_parameters(tiny):
    """Else distributed training would wait for gradients that never come."""
    for index in range(len(tiny.feature_info)):
        pruned = copy.deepcopy(tiny).train()
        pruned.prune_intermediate_layers([index])
        pruned.forward_intermediates(X, [index], norm=True, intermediates_only=True)[0].sum().backward()
        assert all(p.grad is not None for p in pruned.parameters())


@pytest.mark.parametrize(('name', 'shortcut_type'), TINY, ids=TINY_IDS)
def test_features_only(name, shortcut_type):
    model = make_tiny(name, shortcut_type)
    maps = hooked(model, X)
    for kwargs, expected in (
        ({}, range(len(maps))),
        ({'out_indices': (1, 3)}, (1, 3)),
        ({'out_indices': (-1,)}, (len(maps) - 1,)),
        ({'out_indices': 2}, (len(maps) - 2, len(maps) - 1)),
        ({'feature_cls': 'dict'}, range(len(maps))),
        ({'feature_cls': 'getter', 'out_indices': (0, 2)}, (0, 2)),
        ({'feature_cls': 'hook'}, range(len(maps))),
        ({'feature_cls': 'fx', 'out_indices': (1, 2)}, (1, 2)),
    ):
        if kwargs.get('feature_cls') == 'fx':
            pytest.importorskip('torchvision')
        weights = {'pretrained': True, 'pretrained_cfg_overlay': {'state_dict': model.state_dict()}}
        net = make_tiny(name, shortcut_type, features_only=True, **weights, **kwargs)
        assert net.feature_info.channels() == [maps[i].shape[1] for i in expected]
        assert net.feature_info.reduction() == [16 // maps[i].shape[2] for i in expected]
        with torch.no_grad():
            out = net(X)
        close(list(out.values()) if isinstance(out, dict) else out, [maps[i] for i in expected])


@every_tiny
def test_classifier(tiny):
    assert tiny.get_classifier() is tiny.fc
    with torch.no_grad():
        features = tiny.forward_features(X)
        tiny.reset_classifier(4)
        assert tiny.num_classes == tiny.get_classifier().out_features == 4
        close(tiny(X), tiny.fc(features.mean((2, 3))))
        tiny.reset_classifier(4, 'max')
        close(tiny(X), tiny.fc(features.amax((2, 3))))
        tiny.reset_classifier(5)  # keeps the pooling
        close(tiny(X), tiny.fc(features.amax((2, 3))))
        tiny.reset_classifier(3, 'catavgmax')
        assert tiny.head_hidden_size == 2 * tiny.num_features
        close(tiny(X), tiny.fc(torch.cat([features.mean((2, 3)), features.amax((2, 3))], 1)))
        tiny.reset_classifier(0, 'avg')
        close(tiny(X), features.mean((2, 3)))
        tiny.reset_classifier(0, '')
        assert torch.equal(tiny(X), features)
    tiny.double().reset_classifier(2, 'avg')
    assert tiny.fc.weight.dtype == torch.float64
    assert not tiny.fc.training


@pytest.mark.parametrize('name', ['cifar_resnet18', 'cifar_resnet20', 'preact_resnet20', 'preact_resnet50'])
def test_group_matcher(name):
    """The stem, then each block (coarse: each stage), then the head; the final norm with the last block."""
    model = timm.create_model(name, device='meta')
    blocks = [f'layer{s + 1}.{i}' for s, n in enumerate(ARCHITECTURES[name].layers) for i in range(n)]
    stages = [info['module'] for info in model.feature_info[1:]]
    for coarse, inner in ((False, blocks), (True, stages)):
        groups = group_parameters(model, model.group_matcher(coarse))
        names = [n for group in groups.values() for n in group]
        assert sorted(names) == sorted(n for n, _ in model.named_parameters())  # each once
        assert [*groups] == list(range(len(inner) + 2))
        assert set(groups[0]) == {n for n in names if n.startswith(('conv1.', 'bn1.'))}
        for i, part in enumerate(inner, start=1):
            assert {n for n in groups[i] if not n.startswith('norm.')} == {n for n in names if n.startswith(f'{part}.')}
        assert {'fc.weight', 'fc.bias'} <= set(groups[len(inner) + 1])
    from timm.optim import param_groups_layer_decay

    rates = {
        n: group['lr_scale'] for group in param_groups_layer_decay(model, layer_decay=0.5) for n in _names(model, group)
    }
    assert rates['fc.weight'] == 1
    assert rates[f'{blocks[-1]}.conv1.weight'] == 0.5
    assert rates.get('norm.weight', 0.5) == 0.5
    assert rates['conv1.weight'] == 0.5 ** (len(blocks) + 1)


def _names(model, group):
    return [name for name, p in model.named_parameters() if any(p is q for q in group['params'])]


@every_tiny
def test_gradient_checkpointing(tiny):
    """Same outputs and gradients, and each block runs a second time in the backward pass."""
    runs = []
    first = tiny.layer1[0].conv1
    first.register_forward_hook(lambda m, args, out: runs.append(1))

    def step(checkpointing, call):
        tiny.set_grad_checkpointing(checkpointing)
        tiny.zero_grad()
        runs.clear()
        out = call(tiny.train())
        out.square().mean().backward()
        return out.detach(), [p.grad for p in tiny.parameters() if p.grad is not None], len(runs)

    for call in (
        lambda m: m(X),
        lambda m: m.forward_intermediates(X, intermediates_only=True)[-1],
    ):
        out, grads, once = step(False, call)
        same, same_grads, twice = step(True, call)
        assert (once, twice) == (1, 2)
        assert torch.equal(out, same)
        assert all(torch.equal(a, b) for a, b in zip(grads, same_grads, strict=True))


@every_tiny
def test_init_weights(tiny):
    before = copy.deepcopy(tiny.state_dict())
    tiny.init_weights()
    for key, tensor in tiny.state_dict().items():
        if tensor.ndim == 4:
            assert not torch.equal(tensor, before[key])
    lasts = [block.get_submodule(block.last) for block in tiny.modules() if hasattr(block, 'last')]
    assert len(lasts) == len([*tiny.layer1, *tiny.layer2, *tiny.layer3, *getattr(tiny, 'layer4', [])])
    assert not any(last.weight.any() for last in lasts)
    tiny.init_weights(zero_init_last=False)
    assert all(last.weight.any() for last in lasts if isinstance(last, nn.Conv2d))
    tiny.to('meta').init_weights()  # nothing to write to; it must not mind


def test_activation_and_norm_by_name():
    model = make_tiny('preact_resnet20', act_layer='silu', norm_layer='groupnorm1')
    kinds = {type(m).__name__ for m in model.modules()}
    assert {'SiLU', 'GroupNorm1'} <= kinds
    assert not kinds & {'ReLU', 'BatchNorm2d'}
    assert model(X).isfinite().all()


# Compilers


scripting = pytest.mark.skipif(sys.version_info >= (3, 14), reason='TorchScript does not run on Python 3.14')


@scripting
@every_tiny
def test_scripted(tiny, tmp_path):
    with torch.no_grad():
        scripted = torch.jit.script(tiny)
        close(scripted(X), tiny(X))
        scripted.save(str(tmp_path / 'model.pt'))
        close(torch.jit.load(str(tmp_path / 'model.pt'))(images(1, 3, 9, 11)), tiny(images(1, 3, 9, 11)))


@scripting
@every_tiny
def test_traced_with_jit(tiny):
    """PyTorch traces, then checks the trace without gradients: both must give one graph."""
    for context in (torch.enable_grad(), torch.no_grad()):
        with context:
            close(torch.jit.trace(tiny, X)(images(1, 3, 9, 11)), tiny(images(1, 3, 9, 11)))


@every_tiny
def test_traced_with_fx(tiny):
    with torch.no_grad():
        traced = torch.fx.symbolic_trace(tiny)
        close(traced(X), tiny(X))
        close(traced(images(1, 3, 9, 11)), tiny(images(1, 3, 9, 11)))


@scripting
@pytest.mark.filterwarnings("ignore:The TorchScript type system doesn't support instance-level annotations")
@every_tiny
def test_traced_with_fx_then_scripted(tiny):
    """PyTorch's own GraphModule is what the filtered warning is about."""
    with torch.no_grad():
        close(torch.jit.script(torch.fx.symbolic_trace(tiny))(X), tiny(X))


@every_tiny
def test_exported(tiny):
    """With any batch size; an exported program also runs on other images than those it was made with."""
    dynamic = {'x': {0: torch.export.Dim('batch')}}
    program = torch.export.export(tiny, (X,), dynamic_shapes=dynamic)
    with torch.no_grad():
        close(program.module()(images(5, 3, 16, 16, seed=2)), tiny(images(5, 3, 16, 16, seed=2)))


@every_tiny
def test_compiled(tiny):
    torch._dynamo.reset()
    compiled = torch.compile(tiny, fullgraph=True, backend='eager')
    with torch.no_grad():
        close(compiled(X), tiny(X))
    tiny.train()
    tiny(X).sum().backward()
    grads = [p.grad.clone() for p in tiny.parameters()]
    tiny.zero_grad()
    compiled(X).sum().backward()
    close([p.grad for p in tiny.parameters()], grads)


def _depth(name):
    row = ARCHITECTURES[name]
    return sum(row.layers) * (2 if row.block == 'basic' else 3)


def _kind(name):
    row = ARCHITECTURES[name]
    return row.family.network, row.block, len(row.layers)


#: of each kind of network the deepest up to 56 layers; the next deeper ones take much longer
DEEPEST = {_kind(name): name for name in sorted(ARCHITECTURES, key=_depth) if _depth(name) <= 56}


@pytest.mark.parametrize('name', DEEPEST.values())
def test_compiles_without_graph_breaks(name):
    """The deepest network of each kind; narrow, since the width makes no difference to the graph."""
    torch._dynamo.reset()
    widths = (8,) * len(ARCHITECTURES[name].layers)
    model = randomise(timm.create_model(name, widths=widths, stem_width=8))
    x = images(1, 3, 8, 8)
    with torch.no_grad():
        close(torch.compile(model, fullgraph=True, backend='eager')(x), model(x))


@pytest.mark.skipif(not (shutil.which('gcc') or shutil.which('clang')), reason='inductor needs a C++ compiler')
@pytest.mark.parametrize(('name', 'shortcut_type'), [('cifar_resnet20', 'A'), ('preact_resnet164', 'B')])
def test_compiled_with_inductor(name, shortcut_type):
    torch._dynamo.reset()
    model = make_tiny(name, shortcut_type)
    with torch.no_grad():
        close(torch.compile(model, fullgraph=True)(X), model(X))


@every_tiny
def test_channels_last(tiny):
    with torch.no_grad():
        expected = tiny(X)
        tiny = tiny.to(memory_format=torch.channels_last)
        x = X.to(memory_format=torch.channels_last)
        close(tiny(x), expected)
        assert tiny.forward_features(x).is_contiguous(memory_format=torch.channels_last)


@every_tiny
def test_bf16(tiny):
    """Autocast, and a network that is bf16 itself."""
    with torch.no_grad():
        expected = tiny(X)
        with torch.autocast('cpu', torch.bfloat16):
            autocast = tiny(X)
        cast = tiny.to(torch.bfloat16)(X.bfloat16())
    for out in (autocast, cast):
        assert out.dtype == torch.bfloat16
        assert (out - expected).norm() < 0.05 * expected.norm()


# The registry


def test_list_models():
    def ours(prefix):
        return {name for name in ARCHITECTURES if name.startswith(prefix)}

    for prefix in ('cifar_resnet', 'preact_resnet', 'wide_resnet'):
        assert ours(prefix) <= set(timm.list_models(f'{prefix}*'))
    assert set(timm.list_models(module='cifar_resnet')) == ours('cifar_resnet')
    assert set(timm.list_models(module='preact_resnet')) == ours('preact_resnet') | ours('wide_resnet')
    assert not ARCHITECTURES.keys() & set(timm.list_models(module='resnet'))
    assert {'cifar_resnet', 'preact_resnet'} <= set(timm.list_modules())
    assert timm.list_models('cifar_resnet?') == ['cifar_resnet8']


def test_list_pretrained_is_the_catalog():
    ours = [
        name
        for module in ('cifar_resnet', 'preact_resnet')
        for name in timm.list_models(module=module, pretrained=True, include_tags=True)
    ]
    assert sorted(ours) == sorted(WEIGHTS)
    assert not set(WEIGHTS) ^ {n for n in timm.list_pretrained() if n.partition('.')[0] in ARCHITECTURES}


@pytest.mark.parametrize('name', ARCHITECTURES)
def test_default_cfg(name):
    cls, row = network_class(name), ARCHITECTURES[name]
    cfg = get_pretrained_cfg(name)
    assert is_model_in_modules(name, [cls.__module__.rpartition('.')[2]])
    assert (cfg.architecture, cfg.input_size, cfg.num_classes) == (name, (3, 32, 32), 10)
    assert (cfg.crop_pct, cfg.interpolation, cfg.fixed_input_size) == (1.0, 'bicubic', False)
    assert (cfg.first_conv, cfg.classifier) == ('conv1', 'fc')
    assert cfg.origin_url == row.paper
    assert cfg.paper_ids == f'arXiv:{row.paper.rpartition("/")[2]}'
    if not tags(name):
        assert (cfg.mean, cfg.std) == ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
        assert not cfg.has_weights
        with pytest.raises(RuntimeError, match='No pretrained weights exist'):
            timm.create_model(name, pretrained=True)
    model = timm.create_model(name, layers=(1,) * len(row.layers), device='meta')
    assert type(model) is cls
    assert model.default_cfg['architecture'] == name
    assert model.forward_features(torch.empty(1, 3, 32, 32, device='meta')).shape[2:] == cfg.pool_size
    config = timm.data.resolve_data_config(model=model)
    assert (config['input_size'], config['crop_pct'], config['mean']) == ((3, 32, 32), 1.0, cfg.mean)


def test_no_model_of_timm_is_overwritten(run_python):
    code = 'import json, timm; print(json.dumps({n: timm.model_entrypoint(n).__module__ for n in timm.list_models()}))'
    without = json.loads(run_python(code, RESNET_HUB_AUTOLOAD='0').stdout)
    assert len(without) > 1000
    assert not ARCHITECTURES.keys() & without.keys()
    assert {n: timm.model_entrypoint(n).__module__ for n in timm.list_models() if n not in ARCHITECTURES} == without
    assert without.keys() | ARCHITECTURES.keys() == set(timm.list_models())


# Weights


class Source:
    """A way to weights: what to hand to create_model, and the tensors that it should find."""

    def __init__(self, name, file, **kwargs):
        self.name, self.file, self.kwargs = name, file, kwargs
        self.state = load_file(file)

    def create(self, **kwargs):
        return timm.create_model(self.name, pretrained=True, **self.kwargs, **kwargs)


@pytest.fixture(params=['file', 'half', 'A', *BUNDLED])
def source(request, tmp_path):
    """Each row of the catalog that needs no network, and files of one's own."""
    if request.param in BUNDLED:
        return Source(request.param, weights_file(request.param))
    options = {'shortcut_type': 'A'} if request.param == 'A' else {}
    state = randomise(timm.create_model('preact_resnet20', **options)).state_dict()
    if request.param == 'half':
        state = {k: v.half() if v.ndim > 1 else v for k, v in state.items()}
    save_file(state, tmp_path / 'random.safetensors')
    overlay = {'file': str(tmp_path / 'random.safetensors')}
    return Source('preact_resnet20', tmp_path / 'random.safetensors', pretrained_cfg_overlay=overlay, **options)


def assert_loaded(model, state, dtype=torch.float32, but=''):
    own = model.state_dict()
    assert own.keys() >= {k for k in state if not but or not k.startswith(but)}
    for key, tensor in own.items():
        assert tensor.device.type == 'cpu', key
        if not but or not key.startswith(but):
            assert tensor.dtype == (dtype if tensor.is_floating_point() else torch.int64), key
            assert torch.equal(tensor, state[key].to(tensor.dtype)), key


def assert_fresh(layer):
    """Initialised as torch does: uniform, up to one over the root of the inputs."""
    bound = layer.in_features**-0.5
    for tensor in (layer.weight, layer.bias):
        assert tensor.isfinite().all()
        assert tensor.abs().max() <= bound
    assert layer.weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.1)


def test_pretrained(source):
    model = source.create()
    assert_loaded(model, source.state)
    assert model.training
    assert all(p.requires_grad for p in model.parameters())


def test_pretrained_with_other_classes(source):
    model = source.create(num_classes=33)
    assert_loaded(model, source.state, but='fc.')
    assert model.fc.out_features == model.num_classes == 33
    assert_fresh(model.fc)
    headless = source.create(num_classes=0)
    assert_loaded(headless, {k: v for k, v in source.state.items() if not k.startswith('fc.')})
    x = images(2, 3, 8, 8)
    with torch.no_grad():
        close(headless.eval()(x), source.create().eval().forward_features(x).mean((2, 3)))


def test_pretrained_with_other_channels(source):
    """timm adds the colours up for grey images, and repeats them for more channels, in the precision of the file."""
    grey = source.create(in_chans=1)
    assert_loaded(grey, source.state, but='conv1.')
    original = source.state['conv1.weight'].float()
    torch.testing.assert_close(grey.conv1.weight, original.sum(1, keepdim=True), rtol=1e-3, atol=1e-3)
    six = source.create(in_chans=6)
    assert_loaded(six, source.state, but='conv1.')
    torch.testing.assert_close(six.conv1.weight, original.repeat(1, 2, 1, 1) / 2, rtol=1e-3, atol=1e-3)


def test_pretrained_features(source):
    net = source.create(features_only=True).eval()
    x = images(2, 3, 8, 8)
    with torch.no_grad():
        for out, expected in zip(net(x), hooked(source.create().eval(), x), strict=True):
            close(out, expected)


def test_pretrained_in_another_type(source):
    for dtype in (torch.bfloat16, torch.float16, torch.float64):
        assert_loaded(source.create(dtype=dtype), source.state, dtype)


def test_pretrained_on_a_device(source):
    assert_loaded(source.create(device='cpu'), source.state)
    assert all(tensor.is_meta for tensor in source.create(device='meta').state_dict().values())


def test_pretrained_weights_are_the_models_own(source):
    """The tensors of the file are taken over, not the file: training changes neither it nor another model."""
    before = source.file.read_bytes()
    model, other = source.create(), source.create()
    with torch.no_grad():
        for tensor in model.parameters():
            tensor.fill_(7)
    assert_loaded(other, source.state)
    assert source.file.read_bytes() == before


def test_pretrained_through_the_script_arguments(source):
    """As timm's train.py and validate.py do: the tag then is inside a dict, or in a cfg object."""
    args = resolve_model_input_args(source.name, **source.kwargs)
    assert isinstance(args['pretrained_cfg'], dict)
    assert_loaded(timm.create_model(**args, pretrained=True), source.state)
    plain = timm.create_model(**args)
    assert str(plain) == str(source.create())
    grey = timm.create_model(**resolve_model_input_args(source.name, {'in_chans': 1}, **source.kwargs), pretrained=True)
    assert grey.conv1.in_channels == 1


def test_save_for_hf_and_back(source, tmp_path):
    """timm's own export writes the arguments that the row or the user chose; what it reads is the same network."""
    model = source.create(num_classes=7, in_chans=1).eval()
    timm.models.save_for_hf(model, str(tmp_path / 'out'), safe_serialization=True)
    for kwargs in ({}, {'dtype': torch.float64}):
        again = timm.create_model(f'local-dir:{tmp_path}/out', pretrained=True, **kwargs).eval()
        assert str(again) == str(model)
        assert_loaded(again, model.state_dict(), kwargs.get('dtype', torch.float32))
    args = json.loads((tmp_path / 'out' / 'config.json').read_text())['model_args']
    assert args.get('shortcut_type', 'B') == ('A' if any(isinstance(m, PadShortcut) for m in model.modules()) else 'B')


def test_ones_own_file_wins(source, tmp_path):
    model = randomise(source.create(), seed=5)
    save_file(model.state_dict(), tmp_path / 'own.safetensors')
    options = {**source.kwargs, 'pretrained_cfg_overlay': {'file': str(tmp_path / 'own.safetensors')}}
    assert_loaded(timm.create_model(source.name, pretrained=True, **options), model.state_dict())
    options.pop('pretrained_cfg_overlay')
    own = timm.create_model(source.name, checkpoint_path=str(tmp_path / 'own.safetensors'), **options)
    assert_loaded(own, model.state_dict())


def test_ones_own_url_goes_past_the_weights_in_the_package(tmp_path):
    model = randomise(timm.create_model('cifar_resnet20'))
    torch.save(model.state_dict(), tmp_path / 'own.pth')
    overlay = {'url': (tmp_path / 'own.pth').as_uri()}
    options = {'cache_dir': tmp_path, 'pretrained_cfg_overlay': overlay}
    assert_loaded(timm.create_model('cifar_resnet20', pretrained=True, **options), model.state_dict())


def test_state_dict_in_the_cfg(source):
    state = {k: v.clone() for k, v in source.state.items()}
    options = {**source.kwargs, 'pretrained_cfg_overlay': {'state_dict': state}}
    model = timm.create_model(source.name, pretrained=True, **options)
    with torch.no_grad():
        model.conv1.weight.fill_(7)
    assert all(torch.equal(state[k], source.state[k]) for k in state)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda state: state.pop('layer2.1.conv2.weight'), r'Missing key.*layer2\.1\.conv2\.weight'),
        (lambda state: state.update(extra=torch.zeros(1)), r'Unexpected key.*extra'),
        (lambda state: state.update({'fc.bias': torch.zeros(11)}), r'size mismatch for fc\.bias'),
    ],
)
def test_files_that_do_not_fit_are_refused(change, message, tmp_path):
    """Taking tensors over is as strict as copying them; nothing missing is initialised in silence."""
    state = dict(timm.create_model('cifar_resnet20').state_dict())
    change(state)
    save_file(state, tmp_path / 'bad.safetensors')
    with pytest.raises(RuntimeError, match=f'(?s){message}'):
        overlay = {'file': str(tmp_path / 'bad.safetensors')}
        timm.create_model('cifar_resnet20', pretrained=True, pretrained_cfg_overlay=overlay)


@pytest.mark.parametrize('name', WEIGHTS)
def test_catalog_rows(name):
    """By tag, as timm's scripts do, with a cfg: the network that the row says, with its classes and constants."""
    row, (architecture, _, tag) = WEIGHTS[name], name.partition('.')
    cls, shape = network_class(architecture), ARCHITECTURES[architecture]
    classes = len(row.data.classes)
    shallow = {'layers': (1,) * len(shape.layers), 'device': 'meta'}
    expected = str(cls(**{**shape.model_args(), **row.model_args, **shallow, 'num_classes': classes}))
    by_tag = timm.create_model(name, **shallow)
    ways = [
        by_tag,
        timm.create_model(**resolve_model_input_args(name), **shallow),
        timm.create_model(architecture, pretrained_cfg=get_pretrained_cfg(name), **shallow),
        timm.create_model(architecture, pretrained_cfg=tag, **shallow),
    ]
    if tag == tags(architecture)[0]:
        ways.append(timm.create_model(architecture, **shallow))
        assert not row.model_args  # else pretrained=True and False would build different networks
        assert row.dataset == 'cifar10'
    assert {str(model) for model in ways} == {expected}
    cfg = by_tag.pretrained_cfg
    assert (cfg['tag'], cfg['num_classes'], cfg['label_names']) == (tag, classes, row.data.classes)
    assert (cfg['mean'], cfg['std']) == (row.mean or row.data.mean, row.std or row.data.std)


def test_traits_and_arguments_of_a_changed_network(tmp_path):
    """What timm knows of a network after its classifier and pooling changed, and what it writes to build it again."""
    model = timm.create_model('wide_resnet16_2', in_chans=1, shortcut_type='A', conv_drop_rate=0.3)
    model.reset_classifier(7, 'max')
    traits, config = timm.models.get_model_traits(model), timm.models.get_model_input_config(model)
    assert (traits['in_chans'], traits['num_classes']) == (1, 7)
    assert config == {'input_size': (1, 32, 32), 'fixed_input_size': False, 'first_conv': 'conv1'}
    args = timm.models.get_model_args(model)
    assert args == {'in_chans': 1, 'num_classes': 7, 'global_pool': 'max', 'shortcut_type': 'A'}  # no rates of dropout
    timm.models.save_for_hf(randomise(model), str(tmp_path / 'out'), safe_serialization=True)
    again = timm.create_model(f'local-dir:{tmp_path}/out', pretrained=True).eval()
    x = images(2, 1, 16, 16)
    with torch.no_grad():
        assert torch.equal(again(x), model(x))


def test_cfgs_say_where_weights_are_in_fields_that_timm_reads():
    """timm takes a url for an address of HTTP alone; for the Hub it has a field of its own."""
    for name, row in WEIGHTS.items():
        cfg = get_pretrained_cfg(name)
        found = {key: getattr(cfg, key) for key in ('url', 'file', 'hf_hub_id') if getattr(cfg, key)}
        if row.path and row.path.is_file():  # in the package or in the clone
            assert found == {'file': str(row.path)}
        elif row.repo_id:
            assert found == {'hf_hub_id': row.repo_id}
        else:
            assert found == {'url': row.url}
            assert found['url'].startswith('https://')
        assert timm.models.is_model_pretrained(name)


@pytest.mark.parametrize('key', ['file', 'url'])
def test_ones_own_weights_go_past_those_of_the_table(key, tmp_path):
    name = next(name for name, row in WEIGHTS.items() if row.path and not row.in_package)
    model = randomise(timm.create_model(name))
    torch.save(model.state_dict(), tmp_path / 'own.pth')
    own = str(tmp_path / 'own.pth') if key == 'file' else (tmp_path / 'own.pth').as_uri()
    options = {'cache_dir': tmp_path, 'pretrained_cfg_overlay': {key: own}}
    assert_loaded(timm.create_model(name, pretrained=True, **options), model.state_dict())


def test_ones_own_file_goes_past_a_row(tmp_path):
    """No download, whatever the row says; its arguments stay. Nor is there one for tensors at hand."""
    name = next(name for name, row in WEIGHTS.items() if row.url and row.model_args == {'shortcut_type': 'A'})
    model = randomise(timm.create_model(name))
    save_file(model.state_dict(), tmp_path / 'own.safetensors')
    for overlay in ({'file': str(tmp_path / 'own.safetensors')}, {'state_dict': model.state_dict()}):
        own = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay)
        assert_loaded(own, model.state_dict())
    timm.models.save_for_hf(own, str(tmp_path / 'out'), safe_serialization=True)  # writes the row's arguments
    assert_loaded(timm.create_model(f'local-dir:{tmp_path}/out', pretrained=True), model.state_dict())


def test_private_names_of_timm_are_used_in_two_places():
    """`test_forward_intermediates`, `test_save_for_hf_and_back` and those of the registration fail if timm changes them."""
    files = {path for path in (ROOT / 'resnet_hub').rglob('*.py') if re.search(r'timm[.\w]*\._', path.read_text())}
    assert files == {ROOT / 'resnet_hub' / name for name in ('_registration.py', 'models/timm_api.py')}
