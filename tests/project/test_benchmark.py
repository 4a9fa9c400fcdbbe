"""The benchmark compares what is equal, and its figures are those of its samples; nothing here looks at a time."""

import json
import sys

import pytest
import timm
import torch
from torch import nn

from tests.conftest import ROOT
from tests.oracles import randomise

sys.path.append(str(ROOT / 'scripts' / 'maintenance'))  # as for `python scripts/maintenance/benchmark.py`
import benchmark
import peers
from measuring import Comparison, Target, fresh, markdown, take_turns, text


@pytest.mark.parametrize('name', [*peers.NETS])
def test_peers_compute_what_our_networks_do(name):
    ours = randomise(timm.create_model(name))
    found = peers.peers_of(name, ours)
    assert {who for who, peer in peers.PEERS.items() if name in peer.names} == found.keys() >= {peers.USUAL}
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        for peer in found.values():
            torch.testing.assert_close(peer(x), ours(x), rtol=1e-4, atol=1e-4)


def test_a_side_with_other_logits_is_not_compared():
    right = torch.tensor([[1.0, -2.0]])
    benchmark.check_logits({peers.USUAL: right, 'same': right + 1e-5, f'rough{benchmark.BF16}': right + 0.01})
    with pytest.raises(SystemExit, match='wrong gives other logits'):
        benchmark.check_logits({peers.USUAL: right, 'wrong': right + 0.01})
    with pytest.raises(SystemExit, match='nan gives other logits'):
        benchmark.check_logits({peers.USUAL: right, 'nan': right * torch.nan})


def test_floating_point_operations():
    """By hand: 2 · outputs · inputs of each."""
    net = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False), nn.Flatten(), nn.Linear(8 * 4 * 4, 10))
    expected = 2 * (8 * 4 * 4) * (3 * 3 * 3) + 2 * 10 * (8 * 4 * 4)
    assert benchmark.count_flops(net, torch.zeros(5, 3, 8, 8)) == 5 * expected


def test_sides_take_turns():
    calls = []
    sides = {side: lambda s=side: calls.append(s) or len(calls) for side in 'abc'}
    assert take_turns('', sides, rounds=2) == {'a': [4, 9], 'b': [5, 8], 'c': [6, 7]}
    assert ''.join(calls) == 'cba' + 'abc' + 'cba'
    calls.clear()
    assert take_turns('', sides, rounds=1, warm_up=False) == {'a': [1], 'b': [2], 'c': [3]}


def compare(baseline='theirs', targets=None):
    samples = {'theirs': [1.0, 2.0, 10.0], 'ours': [3.0, 4.0, 30.0]}
    return Comparison('work', 'images/s', samples, targets or {}, baseline).to_dict()


def test_a_ratio_is_the_median_of_neighbours():
    """3/1, 4/2, 30/10; the ratio of the medians would be 4/2."""
    ours, theirs = compare()['sides']['ours'], compare()['sides']['theirs']
    assert (ours['ratios'], ours['ratio'], ours['median']) == ([3.0, 2.0, 3.0], 3.0, 4.0)
    assert theirs == {'samples': [1.0, 2.0, 10.0], 'median': 2.0}
    assert 'ratio' not in compare(baseline=None)['sides']['ours']


@pytest.mark.parametrize(
    ('baseline', 'target', 'met'),
    [
        ('theirs', Target('≥', 3.0), True),
        ('theirs', Target('≥', 3.1), False),
        ('theirs', Target('≤', 3.0), True),
        ('theirs', Target('≤', 2.9), False),
        (None, Target('≥', 4.0), True),
        (None, Target('≤', 3.9), False),
    ],
)
def test_targets_are_of_the_ratio_or_else_of_the_median(baseline, target, met):
    result = compare(baseline, {'ours': target})
    assert result['sides']['ours']['met'] is met
    verdict = f'{target.sign} {target.limit:g}{" ×" if baseline else ""}: {"met" if met else "not met"}'
    assert text([result]).splitlines()[2].endswith(verdict)


def section(**changes):
    environment = {
        'versions': {'torch': '9.9'},
        'python': '3.99',
        'processor': 'Abacus',
        'cores': 2,
        'threads': 1,
        'gpu': None,
    }
    comparisons = [compare(targets={'ours': Target('≥', 3.0)})]
    return {'environment': {**environment, **changes}, 'quick': False, 'comparisons': comparisons}


def test_markdown():
    lines = markdown({'loading': section(), 'predict': section(), 'gpu': section(gpu='Loom')}).splitlines()
    assert lines[0] == 'Loading, predict: Python 3.99, torch 9.9; Abacus, 2 cores, 1 threads.'
    assert lines[2] == 'Gpu: Python 3.99, torch 9.9; Abacus, 2 cores, 1 threads, Loom.'
    assert len({line.count('|') for line in lines[4:]}) == 1
    assert lines[6:8] == [
        '| work (images/s) | theirs | 2 | 1 to 10 |  |  |  |',
        '|  | ours | 4 | 3 to 30 | 3 × | 2 to 3 | ≥ 3 ×: met |',
    ]
    assert len(lines) == 6 + 3 * 2
    brief = markdown({'loading': section(), 'predict': section()}, brief=True).splitlines()
    assert brief[4:] == ['| work (images/s) | ours | 4 | 3 to 30 | 3 × | 2 to 3 | ≥ 3 ×: met |'] * 2


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, 'argv', ['benchmark.py', *map(str, arguments)])
    benchmark.main()


def test_a_section_joins_those_that_are_in_the_file(tmp_path, monkeypatch, capsys):
    file = tmp_path / 'results.json'
    file.write_text(json.dumps({'conversion': section()}))
    run(monkeypatch, '--quick', '--only', 'registration', '--json', file)
    results = json.loads(file.read_text())
    assert [*results] == ['registration', 'conversion'] and results['conversion'] == json.loads(json.dumps(section()))
    assert results['registration']['quick']
    torch_line, timm_line = results['registration']['comparisons']
    assert torch_line['sides']['resnet-hub']['median'] > 0 and 0 < timm_line['sides']['resnet-hub']['median'] < 100
    assert f'torch {torch.__version__.partition("+")[0]}' in capsys.readouterr().out
    run(monkeypatch, '--markdown', file)
    assert 'Registration (quick): ' in capsys.readouterr().out


def test_speeds(monkeypatch):
    """All that needs no compiler, on the CPU."""
    monkeypatch.setattr(
        benchmark, 'OPTIONS', {side: o for side, o in benchmark.OPTIONS.items() if not o.get('compile')}
    )
    monkeypatch.setattr(benchmark, 'matrix_product', lambda device: torch.randn(64, 64))
    net = benchmark.Net('cifar_resnet20', 2, {benchmark.OPTIMIZED: Target('≥', 0)})
    throughput, share = benchmark.speeds(net, torch.device('cpu'), benchmark.Settings(quick=True))
    assert throughput.samples.keys() >= {peers.USUAL, 'pytorchcv', benchmark.EAGER, benchmark.OPTIMIZED}
    result = throughput.to_dict()['sides'][benchmark.OPTIMIZED]
    assert result['met'] and result['ratio'] > 0
    assert share.samples.keys() == {side for side in throughput.samples if benchmark.BF16 not in side}
    (latency,) = benchmark.speeds(net._replace(batch=1), torch.device('cpu'), benchmark.Settings(quick=True))
    assert latency.unit == 'ms'


def test_runtimes(monkeypatch):
    for package in ('onnxscript', 'onnxruntime', 'openvino'):
        pytest.importorskip(package)
    monkeypatch.setattr(benchmark, 'IN_RUNTIMES', [benchmark.Net('cifar_resnet20', 2, {})])
    everything, float32, bf16 = benchmark.runtimes(benchmark.Settings(quick=True))
    assert everything.samples.keys() >= {peers.USUAL, benchmark.PLAIN, benchmark.OPENVINO + benchmark.INT8}
    assert float32.samples.keys() == {benchmark.PLAIN, benchmark.OPENVINO}
    assert bf16.samples.keys() == {side + benchmark.BF16 for side in float32.samples}


def test_the_usual_loop_trains(tmp_path):
    """On the very files that `resnet-hub train` is given."""
    benchmark.write_parquet(tmp_path / 'train-00000.parquet', benchmark.random_images(256))
    speeds = fresh(benchmark.TRAIN_USUAL, 'cifar_resnet20', tmp_path, 2, 'cpu')
    assert len(speeds) == 2 and min(speeds) > 0


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--only', 'accuracy'], 'accuracy needs --data'),
        (['--only', 'gpu'], 'gpu needs a GPU'),
        (['--only', 'speed'], "invalid choice: 'speed'"),
        (['--only', 'accuracy', '--data', 'nowhere'], 'nowhere: no such file or folder'),
        (['--markdown', 'nothing.json'], 'nothing.json'),
        (['--markdown', ROOT / 'LICENSE'], 'benchmark: '),
    ],
)
def test_unusable_options(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    with pytest.raises(SystemExit) as stopped:
        run(monkeypatch, *arguments)
    assert stopped.value.code == 2
    output = capsys.readouterr()
    assert message in output.err.splitlines()[-1]
