"""Checkpoints of other authors: the same function, or a refusal in one line."""

import hashlib
import itertools
import json
import re
import shutil
import zipfile
from functools import partial

import pytest
import timm
import torch
import torchvision
from pytorchcv.model_provider import get_model
from safetensors.torch import load_file

from resnet_hub import InputError, ResnetHubError, convert_checkpoint
from resnet_hub.checkpoints.layouts import LAYOUTS, cannot_hold, to_layout
from resnet_hub.checkpoints.recognise import recognise
from resnet_hub.conversion import convert as convert_module
from resnet_hub.conversion.assumptions import Assumption
from resnet_hub.hub.package import prepare
from resnet_hub.models import CifarResNet, PreActResNet
from resnet_hub.tables.datasets import DATASETS
from resnet_hub.tables.weights import WEIGHTS
from tests.conftest import ROOT
from tests.hub.fixtures import clients, hub, server  # noqa: F401
from tests.oracles import Net, forward, randomise

IMAGENET = {'mean': (0.485, 0.456, 0.406), 'std': (0.229, 0.224, 0.225)}
CIFAR = {'mean': (0.4914, 0.4822, 0.4465), 'std': (0.247, 0.243, 0.261)}
SHARP = {'mean': (0.4914, 0.4822, 0.4465), 'std': (0.2023, 0.1994, 0.2010)}
LANDSCAPE = {'mean': [x / 255 for x in (125.3, 123.0, 113.9)], 'std': [x / 255 for x in (63.0, 62.1, 66.7)]}
OPTION_A = {'shortcut_type': 'A'}

#: file, architecture, arguments, normalisation, top-1 on 1,000 test images as `tests.oracles.forward` measured it
REAL = [
    ('resnet32-d509ac18.th', 'cifar_resnet32', OPTION_A, IMAGENET, 92.7),
    ('resnet44-014dd654.th', 'cifar_resnet44', OPTION_A, IMAGENET, 93.7),
    ('cifar10_resnet20-4118986f.pt', 'cifar_resnet20', {}, SHARP, 92.9),
    ('losslandscape_resnet56.t7', 'cifar_resnet56', {}, LANDSCAPE, 94.2),
    ('mhaq_resnet20.th', 'cifar_resnet20', OPTION_A, CIFAR, 91.5),
    ('mhaq_resnet20_namespace.th', 'cifar_resnet20', OPTION_A, CIFAR, 92.6),
    ('advrob_resnet20.pth', 'cifar_resnet20', {}, IMAGENET, 88.8),
]


@pytest.mark.parametrize(
    ('file', 'architecture', 'model_args', 'normalisation', 'top1'), REAL, ids=[r[0] for r in REAL]
)
def test_real_checkpoints(file, architecture, model_args, normalisation, top1, thousand_images, published, tmp_path):
    source = published / file
    result = convert_checkpoint(source, tmp_path / 'net', **normalisation, check=thousand_images)
    assert (result.architecture, result.model_args) == (architecture, model_args)
    assert result.metrics.top1 == top1
    model = timm.create_model(f'local-dir:{tmp_path / "net"}', pretrained=True)
    assert model.pretrained_cfg['mean'] == pytest.approx(normalisation['mean'])
    assert all(p.dtype == torch.float32 for p in model.parameters())


def test_a_check_measures_all_test_images(data_root, published, tmp_path):
    source = published / 'cifar10_resnet20-4118986f.pt'
    metrics = convert_checkpoint(source, tmp_path / 'net', **SHARP, check=data_root).metrics
    assert (metrics.top1, metrics.images) == (92.60, 10_000)


@pytest.mark.parametrize(
    ('file', 'message'),
    [
        ('layerfolding_prefold_resnet20.ckpt', r'layer1\.0\.alpha1\.alpha .* learnt activation'),
        ('planetaryring_resnet20.pt', r'conv2\.0\.conv3\.weight .*no place in a network of basic blocks'),
    ],
)
def test_other_networks_are_refused_by_name(file, message, published, tmp_path):
    with pytest.raises(InputError, match=message) as caught:
        convert_checkpoint(published / file, tmp_path / 'net')
    assert '\n' not in str(caught.value) and not list(tmp_path.iterdir())


def test_a_plain_net_is_not_read_as_option_a(thousand_images, published, tmp_path):
    """Its keys are those of option A; its norms' statistics are not, and neither is its accuracy."""
    source = published / 'losslandscape_resnet56_noshort.t7'
    with pytest.raises(InputError, match='a plain net, without shortcuts'):
        convert_checkpoint(source, tmp_path / 'net', **LANDSCAPE)
    with pytest.raises(InputError, match=r'near the chance of 10\.00 %'):
        convert_checkpoint(source, tmp_path / 'net', **LANDSCAPE, check=thousand_images)
    assert not list(tmp_path.iterdir())


def test_a_good_accuracy_outweighs_all_evidence(thousand_images, tmp_path, monkeypatch):
    """No real network is known whose statistics are wrong about it, so the evidence is made up."""
    evidence = [Assumption('relu', 'the activations are ReLU', 'contradicted', 'they are tanh')]
    monkeypatch.setattr(convert_module, 'list_assumptions', lambda *args: evidence)
    with pytest.raises(
        InputError, match=r'they are tanh\..*add --assume relu, or measure it on test images with --check'
    ):
        convert_checkpoint('cifar_resnet8.cifar10', tmp_path / 'net')
    assert convert_checkpoint('cifar_resnet8.cifar10', tmp_path / 'net', check=thousand_images).metrics.top1 > 80


PYTORCHCV = [
    ('resnet20_cifar10', 'cifar_resnet20', {}),
    ('resnet56_cifar100', 'cifar_resnet56', {}),
    ('resnet164bn_cifar10', 'cifar_resnet164', {}),
    ('preresnet20_cifar10', 'preact_resnet20', {}),
    ('preresnet164bn_cifar100', 'preact_resnet164', {}),
    ('wrn16_10_svhn', 'wide_resnet16_10', {}),
]


def compare(network, reference, size=32):
    """Equal logits of networks or functions in float64, to 1e-9 of the largest."""
    x = torch.randn(1, 3, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    with torch.inference_mode():
        ours, theirs = network(x), reference(x)
    assert (ours - theirs).abs().max() <= 1e-9 * theirs.abs().max()


def load(folder):
    """A converted folder in float64, as timm makes it."""
    model = timm.create_model(f'local-dir:{folder}', pretrained=False).double()
    model.load_state_dict(load_file(folder / 'model.safetensors'), strict=True)
    return model.eval()


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize(('theirs', 'architecture', 'model_args'), PYTORCHCV, ids=[row[0] for row in PYTORCHCV])
def test_pytorchcv_computes_the_same(theirs, architecture, model_args, tmp_path):
    reference = randomise(get_model(theirs).double())
    torch.save(reference.state_dict(), tmp_path / 'theirs.pth')
    with zipfile.ZipFile(tmp_path / 'theirs.zip', 'w') as archive:  # as its release files are
        archive.write(tmp_path / 'theirs.pth', 'theirs.pth')
    result = convert_checkpoint(tmp_path / 'theirs.zip', tmp_path / 'net')
    assert (result.architecture, result.model_args) == (architecture, model_args)
    assert result.layout.startswith('osmr')
    assert json.loads((tmp_path / 'net' / 'config.json').read_text())['dtype'] == 'float64'
    compare(load(tmp_path / 'net'), reference)


@pytest.mark.parametrize('make', [partial(timm.create_model, 'resnet18'), torchvision.models.resnet18])
def test_resnets_of_others_with_a_small_stem_compute_the_same(make, tmp_path):
    reference = make(num_classes=10)
    reference.conv1, reference.maxpool = torch.nn.Conv2d(3, 64, 3, 1, 1, bias=False), torch.nn.Identity()
    reference = randomise(reference.double())
    torch.save(reference.state_dict(), tmp_path / 'theirs.pth')
    result = convert_checkpoint(tmp_path / 'theirs.pth', tmp_path / 'net', dataset='cifar10')
    assert (result.architecture, result.model_args, result.layout) == ('cifar_resnet18', {}, 'native')
    compare(load(tmp_path / 'net'), reference)


@pytest.mark.parametrize('layout', LAYOUTS)
def test_every_layout_computes_what_the_equations_say(layout, tmp_path):
    row, compared = LAYOUTS[layout], 0
    for family, cls in (('v1', CifarResNet), ('v2', PreActResNet)):
        for block, shortcut, final in itertools.product(('basic', 'bottleneck'), 'AB', (False, True)):
            layers = (1, 2, 1, 1)[: row.only.get('stages', 4)]
            args = {'final_norm': final} if family == 'v2' else {}
            if final and family == 'v1':
                continue
            widths = (4, 8, 12, 20)[: len(layers)]
            model = randomise(cls(block, layers, widths, stem_width=4, shortcut_type=shortcut, **args).double())
            network = recognise(model.state_dict()).network
            if cannot_hold(row, network):
                continue
            torch.save({'model': to_layout(model.state_dict(), network, layout)}, tmp_path / 'net.pth')
            convert_checkpoint(tmp_path / 'net.pth', tmp_path / 'net', dataset='cifar10', force=True)
            net = Net(family, block, layers, shortcut, bool(args.get('final_norm')))
            state = model.state_dict()
            compare(load(tmp_path / 'net'), lambda x, net=net, state=state: forward(net, state, x), size=16)
            compared += 1
    assert compared


def test_sources_besides_files(checkpoint, tmp_path):
    url = checkpoint.as_uri()
    assert convert_checkpoint(url, tmp_path / 'a', dataset='cifar10').source == 'net.pth'
    for other in (url + 'x', 'http://127.0.0.1:9/net.pth', 'http://127.0.0.1:9/my net.pth'):
        with pytest.raises(ResnetHubError, match='cannot be fetched') as caught:
            convert_checkpoint(other, tmp_path / 'b')
        assert caught.value.exit_code == 1
    assert convert_checkpoint(f'local-dir:{tmp_path / "a"}', tmp_path / 'b', dataset='cifar10').layout == 'native'
    with pytest.raises(InputError, match=r'has no model\.safetensors'):
        convert_checkpoint(f'local-dir:{tmp_path}', tmp_path / 'c')


def test_what_is_published_holds_no_signature_and_no_folder(checkpoint, hub, server, tmp_path):  # noqa: F811
    hub.plant('me/net', {'net.pth': checkpoint.read_bytes()})
    address = f'{server.url}/me/net/resolve/main/net.pth'
    for source in (f'{address}?signature=secret#secret', checkpoint, str(checkpoint)):
        convert_checkpoint(source, tmp_path / 'out', dataset='cifar10', force=True)
        config, readme = ((tmp_path / 'out' / name).read_text() for name in ('config.json', 'README.md'))
        assert json.loads(config)['source']['name'] in (address, 'net.pth')
        assert 'secret' not in config + readme and str(tmp_path) not in config + readme


def test_a_repository_on_the_hub(checkpoint, hub, clients, tmp_path):  # noqa: F811
    """Its one checkpoint, of whatever name; a failure that passes is waited out."""
    data = checkpoint.read_bytes()
    hub.plant('me/net', {'README.md': b'# A net', 'weights/net.pth': data})
    hub.fail(503, 'GET /cdn/')
    done = clients.command('convert', 'hf-hub:me/net', '-o', tmp_path / 'a', '--dataset', 'cifar10')
    assert done.code == 0 and f'{tmp_path / "a"}: cifar_resnet8, 10 classes' in done.out, done
    first = hub.head('me/net')
    hub.plant('me/net', {'other.pth': data})
    done = clients.command('convert', f'hf-hub:me/net@{first}', '-o', tmp_path / 'first', '--dataset', 'cifar10')
    assert done.code == 0, done
    refused = {
        'me/net': (2, r'hf-hub:me/net must hold one checkpoint \(it has .*other\.pth.*\): give the URL of the file'),
        'me/none': (1, r'hf-hub:me/none: no such repository, or a private one'),
        'no-such/net/name': (2, 'a repository is called OWNER/NAME'),
    }
    for repo, (code, message) in refused.items():
        done = clients.command('convert', f'hf-hub:{repo}', '-o', tmp_path / 'b')
        assert done.code == code and re.search(message, done.err) and len(done.err.splitlines()) == 1, done
    assert not (tmp_path / 'b').exists()


def test_config_json_beside_a_pickle_says_what_it_knows(checkpoint, hub, clients, tmp_path):  # noqa: F811
    """As timm's own export writes both: constants and names come along, and an option still wins."""
    cfg = {'mean': [0.4] * 3, 'std': [0.3] * 3}
    config = {'architecture': 'cifar_resnet8', 'num_classes': 10, 'label_names': [*'abcdefghij'], 'pretrained_cfg': cfg}
    data = checkpoint.read_bytes()
    hub.plant('me/net', {'pytorch_model.bin': data, 'config.json': json.dumps(config).encode()})
    strange = {
        'bert': {'model_type': 'bert'},
        'other': {**config, 'architecture': 'cifar_resnet20'},
        'classes': {**config, 'num_classes': 100},
        'zeros': {**config, 'pretrained_cfg': {**cfg, 'std': [0] * 3}},
        'guess': {**config, 'normalisation': 'assumed'},
        'vit': {**config, 'architecture': 'vit_tiny_patch16_224'},
        'args': {**config, 'model_args': {'shortcut_type': 'A'}},
        'digest': {**config, 'sha256': '0' * 64},
    }
    for name, content in strange.items():
        hub.plant(f'me/{name}', {'pytorch_model.bin': data, 'config.json': json.dumps(content).encode()})
    theirs = {**config, 'architecture': 'resnet18'}  # with its stem replaced
    hub.plant('me/theirs', {'pytorch_model.bin': data, 'config.json': json.dumps(theirs).encode()})
    for repo, options, mean, names in (
        ('me/theirs', [], 0.4, [*'abcdefghij']),
        ('me/net', [], 0.4, [*'abcdefghij']),
        ('me/net', ['--mean', 0.5, 0.5, 0.5, '--std', 0.2, 0.2, 0.2], 0.5, [*'abcdefghij']),
        ('me/net', ['--dataset', 'svhn'], DATASETS['svhn'].mean[0], [*'0123456789']),
        *((f'me/{name}', [], DATASETS['cifar10'].mean[0], list(DATASETS['cifar10'].classes)) for name in strange),
    ):
        done = clients.command('convert', f'hf-hub:{repo}', '-o', tmp_path / 'out', '--json', '--force', *options)
        assert done.code == 0, done
        result = json.loads(done.out)
        assert result['mean'][0] == mean and result['label_names'] == names
        beside = [item for item in result['assumptions'] if 'config.json beside the file' in item['evidence']]
        assert bool(beside) is (mean == 0.4)


def test_config_json_of_a_run_says_the_size_of_its_images(checkpoint, tmp_path):
    cfg = {'mean': [0.4] * 3, 'std': [0.3] * 3, 'input_size': [3, 48, 48]}
    config = {'architecture': 'cifar_resnet8', 'num_classes': 10, 'pretrained_cfg': cfg, 'recipe': {'size': 0}}
    (tmp_path / 'config.json').write_text(json.dumps(config))
    convert_checkpoint(shutil.copyfile(checkpoint, tmp_path / 'checkpoint.pt'), tmp_path / 'net')
    model = timm.create_model(f'local-dir:{tmp_path / "net"}', pretrained=True)
    cfg = model.pretrained_cfg
    assert (*cfg['input_size'], *cfg['mean']) == (3, 48, 48, 0.4, 0.4, 0.4)


def test_a_training_state_with_two_networks_is_described_in_few_lines(checkpoint, command, tmp_path):
    state = torch.load(checkpoint, weights_only=True)['net']
    averaged = {name: tensor.clone() for name, tensor in state.items()}
    torch.save({'model': state, 'ema': averaged, 'rng': torch.zeros(3)}, tmp_path / 'two.pt')
    done = command('convert', tmp_path / 'two.pt', '-o', tmp_path / 'net', '--key', 'ema', '--dataset', 'cifar10')
    assert [line for line in done.out.splitlines() if 'dropped' in line] == [
        '  dropped: rng, outside of the network',
        f'  dropped: model.* ({len(state)} tensors), outside of the network',
    ]
    assert done.out.endswith(f"load it with timm.create_model('local-dir:{tmp_path / 'net'}', pretrained=True)\n")


def test_options_that_do_not_fit(checkpoint, tmp_path):
    (tmp_path / 'two.txt').write_text('a\nb\n')
    cases = [
        ({'mean': (0.5,) * 3}, 'both --mean and --std'),
        ({'mean': (125.0,) * 3, 'std': (60.0,) * 3}, 'divide by 255'),
        ({'mean': (0.5,), 'std': (0.2,)}, 'needs 3 numbers, one for each input channel'),
        ({'mean': (0.5,) * 3, 'std': (0.0,) * 3}, 'must be positive'),
        ({'dataset': 'cifar100'}, 'cifar100 has 100 classes, but the checkpoint has 10'),
        ({'dataset': 'mnist'}, 'unknown data set'),
        ({'labels': tmp_path / 'two.txt'}, '2 labels, but the checkpoint has 10 classes'),
        ({'labels': tmp_path / 'none.txt'}, 'cannot read the labels'),
        ({'key': 'ema'}, "no network 'ema'"),
        ({'check': tmp_path}, 'no labelled images'),
        (
            {'to': 'kuangliu', 'check': tmp_path, 'dataset': 'cifar10'},
            'only keys and tensors: leave out --dataset, --check',
        ),
    ]
    for options, message in cases:
        with pytest.raises(InputError, match=message):
            convert_checkpoint(checkpoint, tmp_path / 'out', **options)
    assert not (tmp_path / 'out').exists()


def test_other_classes_and_channels_need_their_normalisation(tmp_path):
    model = timm.create_model('cifar_resnet8', num_classes=7, in_chans=1)
    torch.save(model.state_dict(), tmp_path / 'net.pth')
    with pytest.raises(InputError, match='normalisation of a network with 7 classes and 1 input channels is unknown'):
        convert_checkpoint(tmp_path / 'net.pth', tmp_path / 'out')
    (tmp_path / 'names.txt').write_text('\n'.join('abcdefg'))
    convert_checkpoint(tmp_path / 'net.pth', tmp_path / 'out', mean=[0.5], std=[0.3], labels=tmp_path / 'names.txt')
    loaded = timm.create_model(f'local-dir:{tmp_path / "out"}', pretrained=True)
    assert list(loaded.pretrained_cfg['mean']) == [0.5] and loaded.conv1.in_channels == 1
    assert loaded.pretrained_cfg['label_names'] == list('abcdefg')
    assert all(
        torch.equal(a, b) for a, b in zip(loaded.state_dict().values(), model.state_dict().values(), strict=True)
    )


def test_ten_classes_of_grey_images_are_not_cifar10(tmp_path):
    torch.save(timm.create_model('cifar_resnet8', in_chans=1).state_dict(), tmp_path / 'net.pth')
    grey = {'mean': [0.13], 'std': [0.31]}
    result = convert_checkpoint(tmp_path / 'net.pth', tmp_path / 'out', **grey)
    assert not result.label_names and not any(item.name == 'labels' for item in result.assumptions)
    for options in ({}, {'dataset': 'cifar10'}):
        with pytest.raises(InputError, match='no data set of 10 classes and 1 channels is known to check with'):
            convert_checkpoint(tmp_path / 'net.pth', tmp_path / 'b', **grey, **options, check=tmp_path)


def test_a_network_that_normalises_its_input_itself(tmp_path):
    state = {f'1.{key}': tensor for key, tensor in timm.create_model('cifar_resnet8').state_dict().items()}
    constants = {'0.mean': torch.tensor([0.49, 0.48, 0.45]), '0.std': torch.tensor([0.25, 0.24, 0.26])}
    torch.save({**state, **constants}, tmp_path / 'net.pth')
    for options in ({}, {'mean': (0.49, 0.48, 0.45), 'std': (0.25, 0.24, 0.26)}, {'mean': [0] * 3, 'std': [1] * 3}):
        result = convert_checkpoint(tmp_path / 'net.pth', tmp_path / 'out', force=True, **options)
        assert result.mean == pytest.approx((0.49, 0.48, 0.45))
    with pytest.raises(InputError, match='normalises its input itself'):
        convert_checkpoint(tmp_path / 'net.pth', tmp_path / 'out', force=True, **IMAGENET)


def test_what_is_written_says_where_it_comes_from_and_is_the_same_each_time(checkpoint, tmp_path):
    results = [convert_checkpoint(checkpoint, tmp_path / name, dataset='cifar10') for name in ('a', 'b')]
    first, second = ({p.name: p.read_bytes() for p in (tmp_path / name).iterdir()} for name in ('a', 'b'))
    assert first['model.safetensors'] == second['model.safetensors'] and first['config.json'] == second['config.json']
    config = json.loads(first['config.json'])
    digest = hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    assert config['source']['sha256'] == results[0].sha256 == digest
    assert config['sha256'] == hashlib.sha256(first['model.safetensors']).hexdigest()
    assert config['normalisation'] == 'given' and len(config['label_names']) == 10
    assert 'model_args' not in config and str(tmp_path) not in first['config.json'].decode()
    assert digest in first['README.md'].decode()


def test_counters_are_carried_or_remembered_as_missing(checkpoint, tmp_path):
    content = torch.load(checkpoint, weights_only=True)
    for tensor in content['net'].values():
        if not tensor.is_floating_point():
            tensor.fill_(77)
    torch.save(content, tmp_path / 'counted.pth')
    convert_checkpoint(tmp_path / 'counted.pth', tmp_path / 'a', dataset='cifar10')
    assert int(load_file(tmp_path / 'a' / 'model.safetensors')['bn1.num_batches_tracked']) == 77
    assert 'num_batches_tracked' not in json.loads((tmp_path / 'a' / 'config.json').read_text())['source']
    torch.save({k: v for k, v in content['net'].items() if v.is_floating_point()}, tmp_path / 'bare.pth')
    convert_checkpoint(tmp_path / 'bare.pth', tmp_path / 'b', dataset='cifar10')
    assert int(load_file(tmp_path / 'b' / 'model.safetensors')['bn1.num_batches_tracked']) == 0
    assert 'num_batches_tracked' in json.loads((tmp_path / 'b' / 'config.json').read_text())['source']


def test_half_precision_stays_on_disk_and_tied_tensors_come_apart(checkpoint, tmp_path):
    content = torch.load(checkpoint, weights_only=True)['net']
    content = {k: v.half() if v.ndim > 1 else v for k, v in content.items()}
    content['layer1.0.conv2.weight'] = content['layer1.0.conv1.weight']
    content['fc.weight'] = torch.cat([content['fc.weight']] * 2)[:10]
    torch.save(content, tmp_path / 'half.pth')
    convert_checkpoint(tmp_path / 'half.pth', tmp_path / 'out', dataset='cifar10')
    written = load_file(tmp_path / 'out' / 'model.safetensors')
    assert all(torch.equal(written[key], content[key]) and written[key].dtype == content[key].dtype for key in written)
    model = timm.create_model(f'local-dir:{tmp_path / "out"}', pretrained=True)
    assert model.conv1.weight.dtype == torch.float32


@pytest.mark.parametrize('ending', ['pth', 'safetensors'])
def test_our_weights_to_another_layout_and_back(ending, tmp_path):
    convert_checkpoint('cifar_resnet20.cifar10', tmp_path / f'theirs.{ending}', to='kuangliu')
    result = convert_checkpoint(tmp_path / f'theirs.{ending}', tmp_path / 'back', dataset='cifar10')
    assert result.layout.startswith('kuangliu')
    back = timm.create_model(f'local-dir:{tmp_path / "back"}', pretrained=True).state_dict()
    ours = timm.create_model('cifar_resnet20.cifar10', pretrained=True).state_dict()
    assert back.keys() == ours.keys() and all(torch.equal(back[key], ours[key]) for key in ours)


@pytest.fixture
def checkpoint(tmp_path):
    torch.manual_seed(0)
    model = timm.create_model('cifar_resnet8')
    torch.save({'net': model.state_dict(), 'acc': 90.0}, tmp_path / 'net.pth')
    return tmp_path / 'net.pth'


def test_an_existing_output_is_kept(checkpoint, tmp_path):
    convert_checkpoint(checkpoint, tmp_path / 'out')
    before = (tmp_path / 'out' / 'config.json').read_bytes()
    with pytest.raises(InputError, match='exists already'):
        convert_checkpoint(checkpoint, tmp_path / 'out', mean=(0.5,) * 3, std=(0.5,) * 3)
    assert (tmp_path / 'out' / 'config.json').read_bytes() == before
    convert_checkpoint(checkpoint, tmp_path / 'out', mean=(0.5,) * 3, std=(0.5,) * 3, force=True)
    assert json.loads((tmp_path / 'out' / 'config.json').read_text())['pretrained_cfg']['mean'] == [0.5] * 3


def test_the_normalisation_is_the_catalogs_the_options_or_a_stated_guess(checkpoint, tmp_path, published):
    guessed = convert_checkpoint(checkpoint, tmp_path / 'a')
    assert any('by the number of classes' in item.evidence for item in guessed.assumptions)
    assert json.loads((tmp_path / 'a' / 'config.json').read_text())['normalisation'] == 'assumed'
    known = published / 'resnet32-d509ac18.th'
    for options in ({}, IMAGENET, {'dataset': 'cifar10'}):
        result = convert_checkpoint(known, tmp_path / 'b', **options, force=True)
        assert result.mean == IMAGENET['mean'] and result.weights == 'cifar_resnet32.akamaster_cifar10'
    for options in ({'mean': (0.5,) * 3, 'std': (0.5,) * 3}, {'dataset': 'svhn'}):
        with pytest.raises(InputError, match=r'the file is cifar_resnet32\.akamaster_cifar10.*leave out --'):
            convert_checkpoint(known, tmp_path / 'c', **options)
    assert 'Copyright (c) 2018, Yerlan Idelbayev' in (tmp_path / 'b' / 'README.md').read_text()


@pytest.mark.parametrize('place', [0.5, 0.9, 1])
def test_a_flipped_bit_in_tensor_data_is_found_by_the_digest(place, checkpoint, tmp_path, command):
    convert_checkpoint(checkpoint, tmp_path / 'net', dataset='cifar10')
    weights = tmp_path / 'net' / 'model.safetensors'
    data = bytearray(weights.read_bytes())
    data[int(place * (len(data) - 1))] ^= 4
    weights.write_bytes(data)
    timm.create_model(f'local-dir:{tmp_path / "net"}', pretrained=True)  # notices nothing
    cat = ROOT / 'tests' / 'images' / 'cat.jpg'
    done = command('predict', cat, '--model', f'local-dir:{tmp_path / "net"}', expect=2)
    assert 'does not have the digest that config.json gives' in done.err and len(done.err.splitlines()) == 1


def test_a_file_of_the_catalog_in_a_zip_has_the_catalogs_constants(checkpoint, tmp_path, monkeypatch):
    """As osmr publishes his: the SHA-1 of his rows is that of the file inside."""
    with zipfile.ZipFile(tmp_path / 'net.pth.zip', 'w') as archive:
        archive.write(checkpoint, 'net.pth')
    name = 'cifar_resnet20.osmr_svhn'
    row = WEIGHTS[name]._replace(digest=f'sha1:{hashlib.sha1(checkpoint.read_bytes()).hexdigest()}')
    monkeypatch.setitem(WEIGHTS, name, row)
    result = convert_checkpoint(tmp_path / 'net.pth.zip', tmp_path / 'net')
    assert result.mean == row.mean and result.label_names == tuple('0123456789')
    card = prepare(tmp_path / 'net', 'me/net').card
    assert 'license: mit\n' in card and 'Oleg Sémery' in card.partition('## Third-party notice')[2]
    with pytest.raises(InputError, match=rf'the weights {name}, which are under MIT'):
        prepare(tmp_path / 'net', 'me/net', license='apache-2.0')
    (tmp_path / 'net' / 'README.md').write_text('---\nlicense: apache-2.0\n---\nMine.\n')
    with pytest.raises(InputError, match=r'says license apache-2\.0; these are the weights'):
        prepare(tmp_path / 'net', 'me/net')


def test_a_name_without_a_tag_and_a_name_that_is_misspelt(tmp_path, command):
    done = command('convert', 'cifar_resnet8', '-o', tmp_path / 'net.pth', '--to', 'kuangliu')
    assert "the file holds {'net': state dict}" in done.out
    assert set(torch.load(tmp_path / 'net.pth', weights_only=True)) == {'net'}
    for name in ('cifar_resnet8.cifar1', 'cifar_resnt8'):
        done = command('convert', name, '-o', tmp_path / 'other', expect=2)
        assert 'did you mean' in done.err and 'cifar_resnet8' in done.err


def test_on_the_command_line(checkpoint, tmp_path, command):
    result = json.loads(command('convert', checkpoint, '-o', tmp_path / 'out', '--dataset', 'cifar10', '--json').out)
    assert result['architecture'] == 'cifar_resnet8' and result['sha256']
    (tmp_path / 'file').touch()
    done = command('convert', checkpoint, '-o', tmp_path / 'file' / 'net', expect=1)
    assert 'File exists' in done.err and len(done.err.splitlines()) == 1
    assert 'exists already' in command('convert', checkpoint, '-o', tmp_path / 'out', expect=2).err
    assert (
        'use one of native, akamaster, kuangliu'
        in command('convert', checkpoint, '-o', 'x', '--to', 'none', expect=2).err
    )
