"""Compare the speed and memory of resnet-hub with those of the code that people use today.

The sides of a comparison are measured in one run. They take turns, and every other round has the opposite order. A
ratio is the median of the ratios of neighbouring samples. `peers.py` has the code of the other sides; `measuring.py`
takes the samples. The script needs Linux, because it reads /proc.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import re
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import timm
import torch
from measuring import (
    ROOT,
    Clock,
    Comparison,
    Target,
    count_flops,
    describe,
    environment,
    fresh,
    markdown,
    pick,
    run,
    take_turns,
    text,
)
from peers import USUAL, peers_of, plain_openvino, usual_net
from PIL import Image
from torch import Tensor, nn
from tqdm import tqdm

from resnet_hub import ResnetHubError, evaluate, export, optimize, predict
from resnet_hub.data.images import Images
from resnet_hub.data.sources import load_images
from resnet_hub.inference.logits import ieee_convolutions
from resnet_hub.registry.loading import load_model
from resnet_hub.utils.distributed import has_fast_bf16
from resnet_hub.utils.files import replacing, save_weights

OURS = 'resnet-hub'
TRAINED = 'cifar_resnet20.cifar10'
TRAIN = f'{OURS} train'


class Settings(NamedTuple):
    quick: bool = False  #: a smoke test: every section runs, its figures mean nothing
    data: Path | None = None  #: folder with CIFAR-10

    def rounds(self, count: int) -> int:
        return 1 if self.quick else count


# ---------------------------------------------------------------------------------------------- registration

REGISTRATION = """
import importlib.metadata

spent = 0

def timed(function):
    def run(*args, **kwargs):
        global spent
        start = time.perf_counter()
        try:
            return function(*args, **kwargs)
        finally:
            spent += time.perf_counter() - start
    return run

load = timed(importlib.metadata.EntryPoint.load)
importlib.metadata.EntryPoint.load = lambda entry_point: timed(load(entry_point))
import torch
hook, spent = spent, 0
autoload = sys.modules.get('resnet_hub._registration')
assert autoload, 'PyTorch has not called the plug-in: pip install -e . first'
autoload._Watcher.find_spec = timed(autoload._Watcher.find_spec)
start = time.perf_counter()
import timm
seconds = time.perf_counter() - start
assert timm.is_model('cifar_resnet20')
print(json.dumps({'torch': 1000 * hook, 'timm': 100 * spent / (seconds - spent)}))
"""


def registration(settings: Settings) -> Iterator[Comparison]:
    """Measure the time that our hook takes inside an import. The difference of two whole imports would be noise."""
    samples = take_turns('registration', {OURS: lambda: fresh(REGISTRATION)}, settings.rounds(10))
    yield Comparison('added to import torch', 'ms', pick(samples, 'torch'), {OURS: Target('≤', 1)})
    yield Comparison('added to import timm after torch', '%', pick(samples, 'timm'), {OURS: Target('≤', 0.9)})


# ---------------------------------------------------------------------------------------------- loading

LOADED = ('cifar_resnet18', 'cifar_resnet50', 'cifar_resnet152')
LOAD = {
    USUAL: "model = peers.usual_net(name); model.load_state_dict(torch.load(file, weights_only=True)['net'])",
    OURS: "model = timm.create_model(name, pretrained=True, pretrained_cfg_overlay={'file': file})",
}
LOAD_BEGIN = """
import peers, timm, torch
name, file = sys.argv[1:]
held, start = begin()
"""
LOAD_TIMES = """
load = time.perf_counter() - start
with torch.inference_mode():
    model.eval()(torch.zeros(1, 3, 32, 32))
print(json.dumps({'load': load, 'answer': time.perf_counter() - start}))
"""
LOAD_MEMORY = """
tensors = model.state_dict().values()
for tensor in tensors:
    tensor.sum()  # a mapped file takes no memory before it is read
print(json.dumps((status('VmHWM') - held) / sum(tensor.nbytes for tensor in tensors)))
"""


def loading(settings: Settings) -> Iterator[Comparison]:
    """Load a float32 file that the system has in its cache, in new processes. Imports are not counted."""
    for name in LOADED[: 1 if settings.quick else None]:
        with tempfile.TemporaryDirectory() as folder:
            files = {USUAL: f'{folder}/net.pth', OURS: f'{folder}/model.safetensors'}
            torch.save({'net': usual_net(name).state_dict()}, files[USUAL])
            save_weights(files[OURS], timm.create_model(name).state_dict())

            def load(side: str, then: str, name: str = name, files: dict[str, str] = files) -> Callable[[], Any]:
                return lambda: fresh(f'{LOAD_BEGIN}{LOAD[side]}{then}', name, files[side])

            times = take_turns(f'load {name}', {s: load(s, LOAD_TIMES) for s in LOAD}, settings.rounds(5))
            memory = take_turns(f'memory of {name}', {s: load(s, LOAD_MEMORY) for s in LOAD}, 1, warm_up=False)
        yield Comparison(f'load {name}', 's', pick(times, 'load'), {OURS: Target('≤', 0.25)}, USUAL)
        yield Comparison(f'load {name}, first answer', 's', pick(times, 'answer'), {OURS: Target('≤', 0.5)}, USUAL)
        yield Comparison(f'load {name}, peak memory', '× weights', memory, {OURS: Target('≤', 1.2)})


# ---------------------------------------------------------------------------------------------- inference

EAGER, OPTIMIZED, COMPILED, BF16 = 'as created', 'optimize', 'optimize, compile', ', bf16'
OPTIONS: dict[str, dict[str, Any]] = {
    OPTIMIZED: {},
    COMPILED: {'compile': True},
    OPTIMIZED + BF16: {'dtype': torch.bfloat16},
    COMPILED + BF16: {'dtype': torch.bfloat16, 'compile': True},
}


class Net(NamedTuple):
    """A row: a network, a batch size, and the targets of our sides."""

    name: str
    batch: int
    targets: dict[str, Target]


ON_CPU = [
    Net('cifar_resnet18', 32, {EAGER: Target('≥', 0.97), COMPILED: Target('≥', 1.6)}),
    Net('cifar_resnet20', 32, {EAGER: Target('≥', 0.97), COMPILED: Target('≥', 1.5)}),
    Net('preact_resnet18', 32, {EAGER: Target('≥', 0.97)}),
    Net('cifar_resnet18', 1, {COMPILED: Target('≤', 0.65)}),
    Net('cifar_resnet20', 1, {COMPILED: Target('≤', 0.65)}),
]
ON_GPU = [
    Net('cifar_resnet18', 1024, {COMPILED + BF16: Target('≥', 4)}),
    Net('preact_resnet18', 1024, {COMPILED + BF16: Target('≥', 4)}),
]


def inference(settings: Settings) -> Iterator[Comparison]:
    for net in ON_CPU[: 1 if settings.quick else None]:
        yield from speeds(net, torch.device('cpu'), settings)


def gpu(settings: Settings) -> Iterator[Comparison]:
    for net in ON_GPU[: 1 if settings.quick else None]:
        yield from speeds(net, torch.device('cuda'), settings)


def speeds(net: Net, device: torch.device, settings: Settings) -> Iterator[Comparison]:
    """Measure the latency of one image, or the throughput of a batch and its share of the rate of a matrix product."""
    torch.manual_seed(0)
    x = torch.randn(net.batch, 3, 32, 32, device=device)
    model = timm.create_model(net.name, zero_init_last=False).eval()  # zeros would make wrong branches right
    sides = {who: peer.to(device) for who, peer in peers_of(net.name, model).items()}
    sides |= our_sides(model.to(device), x)
    matrices = matrix_product(device)
    what, least = f'{net.name}, batch {net.batch}', 0 if settings.quick else 0.1
    with torch.no_grad(), ieee_convolutions():
        check_logits({side: forward(x) for side, forward in sides.items()})
    with torch.no_grad():
        clocks = {side: Clock(forward, x, least) for side, forward in sides.items()}
        clocks['matrices'] = Clock(matrices.mm, matrices, least)
        times = take_turns(what, clocks, settings.rounds(20), warm_up=False)
    rates = [2 * len(matrices) ** 3 / seconds for seconds in times.pop('matrices')]
    if net.batch == 1:
        latencies = {side: [1000 * seconds for seconds in taken] for side, taken in times.items()}
        yield Comparison(what, 'ms', latencies, net.targets, USUAL)
        return
    throughputs = {side: [net.batch / seconds for seconds in taken] for side, taken in times.items()}
    yield Comparison(what, 'images/s', throughputs, net.targets, USUAL)
    flops = count_flops(sides[USUAL], x)
    shares = {
        side: [100 * flops / seconds / rate for seconds, rate in zip(taken, rates, strict=True)]
        for side, taken in times.items()
        if (BF16 in side) == (matrices.dtype == torch.bfloat16)
    }
    rate = f'{statistics.median(rates) / 1e9:,.0f} GFLOP/s'
    yield Comparison(f'{what}: of the {len(matrices)}³ matrix rate, {rate}', '%', shares)


def our_sides(model: nn.Module, x: Tensor) -> dict[str, Callable[[Tensor], Tensor]]:
    """Return the network as it is created, and every form of it that `optimize` can make on this machine."""
    forms = {side: options for side, options in OPTIONS.items() if BF16 not in side or has_fast_bf16(x.device)}
    return {EAGER: model, **{side: optimize(model, x, **options) for side, options in forms.items()}}


def matrix_product(device: torch.device) -> Tensor:
    """Return a square matrix. The speed of its product with itself shows what the chip can do."""
    if device.type == 'cpu':
        return torch.randn(2048, 2048)
    return torch.randn(8192, 8192, device=device, dtype=torch.bfloat16)


def check_logits(logits: dict[str, Tensor]) -> None:
    """Stop if a side computes other logits than the usual code."""
    right = logits[USUAL].float()
    for side, found in logits.items():
        error = float((found.float() - right).abs().max() / right.abs().max())
        if not error <= (0.05 if BF16 in side else 1e-3):
            raise SystemExit(f'benchmark: {side} gives other logits than {USUAL}, {error:.2g} of the largest apart')


# ---------------------------------------------------------------------------------------------- other runtimes

INT8 = ', int8'
OPENVINO, ONNX_RUNTIME = "optimize, backend='openvino'", 'ONNX Runtime, exported file'
PLAIN, TORCHAO = 'OpenVINO, converted as created', 'optimize, int8 (torchao)'
IN_RUNTIMES = [
    Net('cifar_resnet18', 32, {OPENVINO + INT8: Target('≥', 4)}),
    Net('cifar_resnet20', 32, {OPENVINO + INT8: Target('≥', 4)}),
    Net('preact_resnet18', 32, {OPENVINO + INT8: Target('≥', 4)}),
    Net('preact_resnet20', 32, {OPENVINO + INT8: Target('≥', 4)}),
    Net('cifar_resnet18', 1, {OPENVINO + INT8: Target('≥', 7)}),
    Net('cifar_resnet20', 1, {OPENVINO + INT8: Target('≥', 8)}),
    Net('preact_resnet18', 1, {OPENVINO + INT8: Target('≥', 7)}),
    Net('preact_resnet20', 1, {OPENVINO + INT8: Target('≥', 8)}),
]


def runtimes(settings: Settings) -> Iterator[Comparison]:
    """Compare exported and quantised networks with the usual code, and with OpenVINO as its documentation uses it."""
    for net in IN_RUNTIMES[: 1 if settings.quick else None]:
        torch.manual_seed(0)
        x = torch.randn(net.batch, 3, 32, 32)
        model = timm.create_model(net.name, zero_init_last=False).eval()
        sides: dict[str, Callable[[Tensor], Tensor]] = {
            USUAL: peers_of(net.name, model)[USUAL],
            PLAIN: plain_openvino(model, x, 'f32'),
            PLAIN + BF16: plain_openvino(model, x, 'bf16'),
            OPENVINO: optimize(model, backend='openvino'),
            OPENVINO + BF16: optimize(model, backend='openvino', dtype=torch.bfloat16),
            ONNX_RUNTIME: in_onnx_runtime(model, int8=False),
        }
        with torch.no_grad():
            check_logits({side: forward(x) for side, forward in sides.items()})
        images = torch.randn(100, 3, 32, 32)
        sides[OPENVINO + INT8] = optimize(model, backend='openvino', int8=images)
        if not settings.quick:  # it compiles for half a minute
            sides[TORCHAO] = optimize(model, x, int8=images)
        sides[ONNX_RUNTIME + INT8] = in_onnx_runtime(model, int8=True)
        what = f'{net.name}, batch {net.batch}, other runtimes'
        with torch.no_grad():
            clocks = {side: Clock(forward, x, 0 if settings.quick else 0.1) for side, forward in sides.items()}
            times = take_turns(what, clocks, settings.rounds(20), warm_up=False)
        speeds = {side: [net.batch / seconds for seconds in taken] for side, taken in times.items()}
        yield Comparison(what, 'images/s', speeds, net.targets, USUAL)
        for precision, suffix in (('float32', ''), ('bf16', BF16)):
            plain, ours = PLAIN + suffix, OPENVINO + suffix
            both = {side: speeds[side] for side in (plain, ours)}
            yield Comparison(f'{what}, {precision}', 'images/s', both, {ours: Target('≥', 0.95)}, plain)


def in_onnx_runtime(model: nn.Module, int8: bool) -> nn.Module:
    """Return the ONNX file of a network as a module that runs in ONNX Runtime."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter('ignore')  # there is no accuracy to check
        file = export(
            model, f'{folder}/net.onnx', int8=int8, calibrate=random_images(100) if int8 else None, dynamic_batch=True
        ).path
        return load_model(str(file))


# ---------------------------------------------------------------------------------------------- accuracy


def accuracy(settings: Settings) -> Iterator[Comparison]:
    """Compare the top-1 of trained weights in bfloat16 and in float32."""
    images = load_images('cifar10', 'test', settings.data)
    images = images[:100] if settings.quick else images
    model = load_model(TRAINED, 'cpu')
    cfg: Any = model.pretrained_cfg
    top1 = {
        side: [evaluate(model, images, cfg['mean'], cfg['std'], bf16=bf16).top1]
        for side, bf16 in (('float32', False), ('bf16', True))
    }
    yield Comparison(f'top-1 of {TRAINED} on {len(images):,} test images', '%', top1)


PRECISE = ('--no-bf16', '--bf16')


def precision(settings: Settings) -> Iterator[Comparison]:
    """Train the same short recipe and seeds in bfloat16 and in float32, and compare the top-1 on held-out images."""
    epochs, seeds = (1, 1) if settings.quick else (5, 3)
    recipe = ['--model', 'cifar_resnet8', '--epochs', epochs, '--warmup-epochs', 0, '--holdout', 5000]

    def held_out_top1(option: str, seed: int) -> float:
        with tempfile.TemporaryDirectory() as output:
            where = ['--data', settings.data.resolve(), '-o', output]
            run(sys.executable, '-m', 'resnet_hub', 'train', *where, *recipe, '--seed', seed, option)
            with open(Path(output) / 'history.csv', encoding='utf-8') as file:
                return float([*csv.DictReader(file)][-1]['holdout_top1'])

    progress = tqdm(range(seeds), 'precision', leave=False)
    pairs = [[held_out_top1(option, seed) for option in PRECISE] for seed in progress]
    top1 = {f'{TRAIN} {option}': list(found) for option, found in zip(PRECISE, zip(*pairs, strict=True), strict=True)}
    yield Comparison(f'held-out top-1 of cifar_resnet8, {epochs} epochs, {seeds} seeds', '%', top1)


# ---------------------------------------------------------------------------------------------- predict

PREDICT = """
import contextlib, importlib, io
from resnet_hub.cli import main
image, modules = sys.argv[1:]
for module in open(modules).read().split():  # what a run imports
    with contextlib.suppress(Exception):
        importlib.import_module(module)
start = time.perf_counter()
with contextlib.redirect_stdout(io.StringIO()):
    code = main(['predict', image, '--device', 'cpu'])
seconds = time.perf_counter() - start
assert code == 0
print(json.dumps({'seconds': seconds, 'modules': [*sys.modules]}))
"""
IMPORT = 'import timm'
READY = 'the network on ready tensors'


def predict_image(settings: Settings) -> Iterator[Comparison]:
    """Classify one picture: without the imports, and as a whole process beside one that only imports timm."""
    cat = ROOT / 'tests' / 'images' / 'cat.jpg'
    with tempfile.NamedTemporaryFile('w+') as modules:
        modules.write('\n'.join(fresh(PREDICT, cat, modules.name)['modules']))
        modules.flush()
        samples = take_turns('predict', {OURS: lambda: fresh(PREDICT, cat, modules.name)}, settings.rounds(5))
    yield Comparison('resnet-hub predict cat.jpg', 's', pick(samples, 'seconds'), {OURS: Target('≤', 0.15)})
    sides = {IMPORT: ('-c', IMPORT), OURS: ('-m', 'resnet_hub', 'predict', cat, '--device', 'cpu')}

    def seconds(*arguments: Any) -> float:
        start = time.perf_counter()
        run(sys.executable, *arguments)
        return time.perf_counter() - start

    samples = take_turns('predict', {s: partial(seconds, *command) for s, command in sides.items()}, settings.rounds(5))
    yield Comparison('resnet-hub predict cat.jpg, with imports', 's', samples, baseline=IMPORT)


def predict_folder(settings: Settings) -> Iterator[Comparison]:
    """Classify the files of a folder, and compare with the network, as created and optimised, on tensors in memory."""
    count = 500 if settings.quick else 10_000
    model = load_model(TRAINED, 'cpu')
    optimized = optimize(model)
    batches = torch.randn(count, 3, 32, 32).split(256)

    def classify_tensors(network: nn.Module) -> None:
        with torch.inference_mode():
            for x in batches:
                network(x)

    def rate(work: Callable[..., Any], *arguments: Any) -> float:
        start = time.perf_counter()
        work(*arguments)
        return count / (time.perf_counter() - start)

    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f'{number:05}.png' for number in range(count)]
        for path, pixels in zip(paths, random_images(count).pixels.numpy(), strict=True):
            Image.fromarray(pixels).save(path)
        sides = {
            READY: lambda: rate(classify_tensors, model),
            f'{READY}, {OPTIMIZED}': lambda: rate(classify_tensors, optimized),
            OURS: lambda: rate(lambda: list(predict(model, paths))),
        }
        samples = take_turns('predict a folder', sides, settings.rounds(3))
    yield Comparison(f'predict {count:,} PNG files', 'images/s', samples, {OURS: Target('≥', 0.7)}, READY)


def random_images(count: int) -> Images:
    pixels = torch.randint(256, (count, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return Images(pixels, torch.arange(count) % 10)


# ---------------------------------------------------------------------------------------------- training

TRAIN_USUAL = """
import peers
from resnet_hub.data.sources import load_images
name, folder, epochs, device = sys.argv[1:]
print(json.dumps(peers.train_usual(name, load_images('cifar10', 'train', folder), int(epochs), device)))
"""


class Training(NamedTuple):
    """A row: a network, its batch size, and how much faster than the usual loop it should train."""

    name: str
    images: int
    target: Target


TRAINING = {
    'cpu': Training('cifar_resnet20', 1920, Target('≥', 1.5)),
    'cuda': Training('cifar_resnet18', 50_000, Target('≥', 5)),
}


def training(settings: Settings) -> Iterator[Comparison]:
    """Measure all epochs but the first one, which warms up. Each run has a process of its own."""
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    row, epochs = TRAINING[device], 2 if settings.quick else 3
    with tempfile.TemporaryDirectory() as folder:
        write_parquet(Path(folder) / 'train-00000.parquet', random_images(256 if settings.quick else row.images))

        def usual() -> float:
            return statistics.mean(fresh(TRAIN_USUAL, row.name, folder, epochs, device)[1:])

        def ours(*options: str) -> float:
            recipe = ['--model', row.name, '--epochs', epochs, '--warmup-epochs', 0, '--batch-size', 128]
            with tempfile.TemporaryDirectory() as output:
                where = ['--data', folder, '-o', output, '--device', device]
                log = run(sys.executable, '-m', 'resnet_hub', 'train', *where, *recipe, *options).stderr
            return statistics.mean(map(float, re.findall(r'images_per_second (\S+)', log)[1:]))

        sides = {USUAL: usual, TRAIN: ours, f'{TRAIN} --no-bf16': lambda: ours('--no-bf16')}
        if device == 'cuda':
            sides[f'{TRAIN} --compile'] = lambda: ours('--compile')
        samples = take_turns('train', sides, settings.rounds(3), warm_up=False)
    yield Comparison(f'train {row.name}, batch 128', 'images/s', samples, {TRAIN: row.target}, USUAL)


def write_parquet(path: Path, images: Images) -> None:
    """Write images as parquet, in the schema of the Hub's uoft-cs/cifar10."""
    import pyarrow
    import pyarrow.parquet

    encoded = []
    for pixels in images.pixels.numpy():
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, format='PNG')
        encoded.append({'bytes': buffer.getvalue(), 'path': None})
    pyarrow.parquet.write_table(pyarrow.table({'img': encoded, 'label': images.labels.tolist()}), path)


# ---------------------------------------------------------------------------------------------- conversion

CONVERTED = 'cifar_resnet152'
LEAST = 'torch.load + save_file'
CONVERT = {
    LEAST: "save_file(torch.load(source, weights_only=True)['net'], target)",
    OURS: "convert_checkpoint(source, target, dataset='cifar10')",
}
CONVERT_BEGIN = """
import os, timm, torch
from safetensors.torch import save_file
from resnet_hub.conversion.convert import convert_checkpoint
source, target = sys.argv[1:]
held, start = begin()
"""
CONVERT_END = """
seconds, peak = time.perf_counter() - start, status('VmHWM')
print(json.dumps({'seconds': seconds, 'memory': (peak - held) / os.path.getsize(source)}))
"""


def conversion(settings: Settings) -> Iterator[Comparison]:
    """Compare conversion with the least that any conversion must do: load the file, and save its tensors."""
    with tempfile.TemporaryDirectory() as folder:
        source = f'{folder}/net.pth'
        torch.save({'net': timm.create_model(CONVERTED).state_dict()}, source)

        def convert(side: str) -> Any:
            with tempfile.TemporaryDirectory() as target:
                return fresh(f'{CONVERT_BEGIN}{CONVERT[side]}{CONVERT_END}', source, f'{target}/out')

        samples = take_turns('convert', {side: lambda s=side: convert(s) for side in CONVERT}, settings.rounds(3))
    yield Comparison(f'convert {CONVERTED}', 's', pick(samples, 'seconds'), baseline=LEAST)
    yield Comparison(f'convert {CONVERTED}, peak memory', '× file', pick(samples, 'memory'))


# ---------------------------------------------------------------------------------------------- the command line


def _nothing(settings: Settings) -> str:
    return ''


def has_export_extra() -> bool:
    return all(find_spec(package) for package in ('onnx', 'onnxscript', 'onnxruntime', 'openvino', 'torchao'))


class Section(NamedTuple):
    """A row: a section, which can be measured alone."""

    measure: Callable[[Settings], Iterable[Comparison]]
    summary: str
    lacks: Callable[[Settings], str] = _nothing  #: what keeps it from being measured here


SECTIONS = {
    'registration': Section(registration, 'what the plug-in adds to import torch and import timm'),
    'loading': Section(loading, 'weights from a local file, and a first answer'),
    'inference': Section(inference, 'forward passes on the processor'),
    'gpu': Section(gpu, 'forward passes on a GPU', lambda s: '' if torch.cuda.is_available() else 'a GPU'),
    'runtimes': Section(
        runtimes,
        'exported and int8 networks on the processor',
        lambda s: '' if has_export_extra() else 'the extra export',
    ),
    'accuracy': Section(accuracy, 'trained weights in bf16 and in float32', lambda s: '' if s.data else '--data'),
    'precision': Section(precision, 'training in bf16 and in float32', lambda s: '' if s.data else '--data'),
    'predict': Section(predict_image, 'resnet-hub predict on one picture'),
    'folder': Section(predict_folder, 'predict on a folder of pictures'),
    'training': Section(training, 'resnet-hub train, on a GPU where there is one'),
    'conversion': Section(conversion, 'resnet-hub convert'),
}
EXAMPLES = """sections:
{}

examples:
  python scripts/maintenance/benchmark.py --data cifar10/ --json scripts/maintenance/benchmark.json
  python scripts/maintenance/benchmark.py --only inference loading --json scripts/maintenance/benchmark.json
  python scripts/maintenance/benchmark.py --quick
  python scripts/maintenance/benchmark.py --markdown scripts/maintenance/benchmark.json
"""


def main() -> None:
    listed = '\n'.join(f'  {name:<14}{section.summary}' for name, section in SECTIONS.items())
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES.format(listed), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        '--only', nargs='+', choices=SECTIONS, metavar='SECTION', help='these; default: all that can be'
    )
    parser.add_argument('--quick', action='store_true', help='a smoke test: one round of the first rows')
    parser.add_argument(
        '--data', type=Path, metavar='DIR', help="folder with CIFAR-10's parquet files, for accuracy and precision"
    )
    parser.add_argument('--json', type=Path, metavar='FILE', help='put the sections into it as they are done')
    parser.add_argument('--markdown', type=Path, metavar='FILE', help='measure nothing; print such a file as a table')
    args = parser.parse_args()
    try:
        if args.markdown:
            print(markdown(json.loads(args.markdown.read_text(encoding='utf-8'))))
            return
        settings = Settings(args.quick, args.data)
        lacking = {name: section.lacks(settings) for name, section in SECTIONS.items()}
        for name in args.only or ():
            if lacking[name]:
                parser.error(f'{name} needs {lacking[name]}')
        if args.json and args.json.exists():
            json.loads(args.json.read_text(encoding='utf-8'))  # a broken file is found before the work
        print(describe(environment()))
        for name in args.only or [name for name in SECTIONS if not lacking[name]]:
            measure(name, settings, args.json)
    except (FileNotFoundError, json.JSONDecodeError, ResnetHubError) as error:
        parser.exit(2, f'benchmark: {error}\n')


def measure(name: str, settings: Settings, file: Path | None) -> None:
    """Measure a section, print its table, and write it into the file."""
    comparisons = [comparison.to_dict() for comparison in SECTIONS[name].measure(settings)]
    section = {'environment': environment(), 'quick': settings.quick, 'comparisons': comparisons}
    print(f'\n{text(comparisons)}', flush=True)
    if file:
        results = json.loads(file.read_text(encoding='utf-8')) if file.exists() else {}
        results[name] = section
        ordered = {known: results[known] for known in SECTIONS if known in results}
        with replacing(file) as temporary:
            temporary.write_text(json.dumps(ordered, indent=1, ensure_ascii=False) + '\n', encoding='utf-8')


if __name__ == '__main__':
    main()
