"""Run an exported network with other programs, and print how far their logits are from PyTorch's and how fast they are.

    python scripts/maintenance/readers.py [NAME]

NAME is one of our weights, by default cifar_resnet20.cifar10. Readers that are not installed are left out; the names of
their packages are in `READERS`. Every reader gets a file for exactly 1 image and one for exactly 32 images.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import torch
from measuring import Clock
from torch import Tensor, nn

from resnet_hub import load_model, optimize
from resnet_hub.exporting.options import INPUT, LOGITS

Run = Callable[[Any], Any]  # from images, float32 (N, 3, 32, 32), to logits (N, classes); both are NumPy arrays
THREADS = 1  #: so that no reader waits for another program on a busy machine
BATCHES = (1, 32)
SECONDS, ROUNDS = 0.1, 7


def write_onnx(network: nn.Module, x: Tensor, folder: Path) -> Path:
    import onnx

    from resnet_hub.inference.onnx import convert

    onnx.save(convert(network, x, INPUT, LOGITS, None), folder / 'net.onnx')
    return folder / 'net.onnx'


def onnx_runtime(network: nn.Module, x: Tensor, folder: Path) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = THREADS
    session = onnxruntime.InferenceSession(str(write_onnx(network, x, folder)), options)
    return lambda images: session.run(None, {INPUT: images})[0]


def openvino(network: nn.Module, x: Tensor, folder: Path) -> Run:
    import openvino

    hints = {'INFERENCE_PRECISION_HINT': 'f32', 'INFERENCE_NUM_THREADS': THREADS}
    compiled = openvino.compile_model(str(write_onnx(network, x, folder)), 'CPU', hints)
    return lambda images: compiled(images)[0]


def opencv(network: nn.Module, x: Tensor, folder: Path) -> Run:
    import cv2

    cv2.setNumThreads(THREADS)
    net = cv2.dnn.readNetFromONNX(str(write_onnx(network, x, folder)))

    def run(images: Any) -> Any:
        net.setInput(images)
        return net.forward()

    return run


def tract(network: nn.Module, x: Tensor, folder: Path) -> Run:
    import tract

    runnable = tract.onnx().load(str(write_onnx(network, x, folder))).into_model().into_runnable()
    return lambda images: runnable.run([images])[0].to_numpy()


def mnn(network: nn.Module, x: Tensor, folder: Path) -> Run:
    import MNN.expr
    import MNN.nn

    target = str(folder / 'net.mnn')
    command('mnnconvert', '-f', 'ONNX', '--modelFile', write_onnx(network, x, folder), '--MNNModel', target)
    config = {'backend': 'CPU', 'numThread': THREADS, 'precision': 'high'}
    runtime = MNN.nn.create_runtime_manager((config,))
    net = MNN.nn.load_module_from_file(target, [INPUT], [LOGITS], runtime_manager=runtime)
    shape = list(x.shape)

    def run(images: Any) -> Any:
        given = MNN.expr.placeholder(shape, MNN.expr.NCHW)
        given.write(images)
        return MNN.expr.convert(net.forward([given])[0], MNN.expr.NCHW).read()

    return run


def ncnn(network: nn.Module, x: Tensor, folder: Path) -> Run:
    import ncnn

    shape = ','.join(map(str, x.shape))
    command('pnnx', write_onnx(network, x, folder), f'inputshape=[{shape}]', 'fp16=0', folder=folder)
    net = ncnn.Net()
    net.opt.num_threads = THREADS
    for option in ('use_fp16_packed', 'use_fp16_storage', 'use_fp16_arithmetic', 'use_bf16_storage'):
        setattr(net.opt, option, False)
    net.load_param(str(folder / 'net.ncnn.param'))
    net.load_model(str(folder / 'net.ncnn.bin'))

    def run_one(image: Any) -> Any:
        extractor = net.create_extractor()
        extractor.input('in0', ncnn.Mat(image))
        return np.array(extractor.extract('out0')[1])

    return lambda images: np.stack([run_one(image) for image in images])  # ncnn has no batches


def executorch(network: nn.Module, x: Tensor, folder: Path) -> Run:
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower
    from executorch.runtime import Runtime

    exported = torch.export.export(network, (x,))
    program = to_edge_transform_and_lower(exported, partitioner=[XnnpackPartitioner()]).to_executorch().buffer
    loaded = Runtime.get().load_program(program)
    method = loaded.load_method('forward')
    return lambda images, held=(program, loaded): method.execute([torch.from_numpy(images)])[0].numpy()


def litert(network: nn.Module, x: Tensor, folder: Path) -> Run:
    import litert_torch
    from ai_edge_litert.interpreter import Interpreter

    litert_torch.convert(network, (x,)).export(str(folder / 'net.tflite'))
    interpreter = Interpreter(str(folder / 'net.tflite'), num_threads=THREADS)
    interpreter.allocate_tensors()
    given, found = interpreter.get_input_details()[0]['index'], interpreter.get_output_details()[0]['index']

    def run(images: Any) -> Any:
        interpreter.set_tensor(given, images)
        interpreter.invoke()
        return interpreter.get_tensor(found)

    return run


class Reader(NamedTuple):
    """A row: a program that reads what resnet-hub exports."""

    open: Callable[[nn.Module, Tensor, Path], Run]  #: from the network, a batch, and an empty folder
    packages: tuple[str, ...]  #: on PyPI; the version is that of the first
    reads: str


READERS = {
    'ONNX Runtime': Reader(onnx_runtime, ('onnxruntime',), 'ONNX'),
    'OpenVINO': Reader(openvino, ('openvino',), 'ONNX'),
    'OpenCV `dnn`': Reader(opencv, ('opencv-python-headless',), 'ONNX'),
    'tract': Reader(tract, ('tract',), 'ONNX'),
    'MNN': Reader(mnn, ('MNN',), 'ONNX'),
    'ncnn': Reader(ncnn, ('ncnn', 'pnnx'), 'ONNX, through pnnx'),
    'ExecuTorch': Reader(executorch, ('executorch',), 'pt2'),
    'LiteRT': Reader(litert, ('ai-edge-litert', 'litert-torch'), 'pt2, through litert-torch'),
}


def command(name: str, *arguments: Any, folder: Path | None = None) -> None:
    """Run a program of this Python's environment."""
    path = Path(sys.executable).parent / name
    subprocess.run([str(path), *map(str, arguments)], check=True, capture_output=True, cwd=folder)


def versions(packages: tuple[str, ...]) -> list[str] | None:
    """Return the versions of packages; None if one is not installed."""
    try:
        return [version(package) for package in packages]
    except PackageNotFoundError:
        return None


def speed(run: Run, x: Tensor) -> float:
    """Return images per second: the median of `ROUNDS` rounds of at least `SECONDS` seconds."""
    clock = Clock(lambda images: run(images.numpy()), x, SECONDS)
    return median(len(x) / clock() for _ in range(ROUNDS))


def main(name: str = 'cifar_resnet20.cifar10') -> None:
    torch.set_num_threads(THREADS)
    network = optimize(load_model(name, 'cpu')).model.to(memory_format=torch.contiguous_format)
    print('| reader | version | reads | logits off | images/s at 1 | at 32 |\n| :-- | :-- | :-- | --: | --: | --: |')
    for title, reader in READERS.items():
        found = versions(reader.packages)
        if not found:
            print(f'{title} is not installed: pip install {" ".join(reader.packages)}', file=sys.stderr)
            continue
        errors, speeds = [], []
        for count in BATCHES:
            x = torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(0))
            with tempfile.TemporaryDirectory() as folder, torch.no_grad():
                run, expected = reader.open(network, x, Path(folder)), network(x).numpy()
                errors.append(np.abs(run(x.numpy()) - expected).max() / np.abs(expected).max())
                speeds.append(f'{speed(run, x):,.0f}')
        print(f'| {title} | {found[0]} | {reader.reads} | {max(errors):.0e} | {speeds[0]} | {speeds[1]} |', flush=True)


if __name__ == '__main__':
    main(*sys.argv[1:])
