"""Export a network: fold its norms, write the file, and check that the file computes the same logits."""

from __future__ import annotations

import logging
import tempfile
import warnings
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from resnet_hub.data.images import Images
from resnet_hub.data.labelled import LabelledImages
from resnet_hub.data.sources import read_labelled
from resnet_hub.exporting.metadata import describe
from resnet_hub.exporting.options import Options
from resnet_hub.exporting.preprocessing import Preprocessing
from resnet_hub.inference.evaluate import find_source, labels_for
from resnet_hub.inference.logits import compute_outputs, encoded
from resnet_hub.inference.optimize import CALIBRATION_IMAGES, optimize
from resnet_hub.inference.transform import make_transform, normalise_like
from resnet_hub.registry.loading import load_model
from resnet_hub.runtimes.exported import ExportedNetwork, load_exported
from resnet_hub.runtimes.formats import FORMATS, find_format, format_of
from resnet_hub.utils.errors import InputError, ResnetHubError

_logger = logging.getLogger(__name__)
FLOAT_TOLERANCE = 1e-4  #: largest error of a float32 file, relative to the largest logit


@dataclass(frozen=True)
class Export:
    """The file that `export` wrote, and the results of its check."""

    path: Path
    format: str  #: 'onnx', 'openvino', 'pt2' or 'executorch'
    int8: bool
    size: int  #: bytes of all files that belong to it
    norms_left: int  #: number of batch norms that could not be folded into a convolution
    logit_error: float  #: largest difference from the network's logits, relative to the largest logit
    top1: float | None = None  #: % of the check images that the file classifies correctly
    network_top1: float | None = None  #: % of the check images that the network classifies correctly
    changed: float | None = None  #: % of the check images that file and network classify differently


def export(
    model: str | nn.Module,
    output: str | Path,
    to: str | None = None,
    *,
    int8: bool = False,
    calibrate: str | Path | Images | None = None,
    check: str | Path | Images | None = None,
    tolerance: float = 0.5,
    dynamic_batch: bool = False,
    with_preprocessing: bool = False,
    dataset: str | None = None,
    force: bool = False,
) -> Export:
    """Write a network as a file for another runtime.

    The file appears only after its own runtime has run it: the logits of random images must be within 1e-4 of the
    largest logit, or, for int8, the top-1 accuracy on `check` within `tolerance` of the network's.

    Args:
        model: a network with a timm `pretrained_cfg`, or its name, see `load_model`.
        output: the file to write; or a folder, in which the file is called model.onnx, model.xml, model.pt2 or model.pte.
        to: 'onnx', 'openvino', 'pt2' or 'executorch'; None takes the format of the suffix of `output`.
        int8: quantise weights and activations to 8 bits; needs `calibrate`.
        calibrate: images that give the ranges of the activations: a folder of pictures, or anything that
            `read_labelled` reads (its training split), or loaded images. 300 of them are used. Do not take test images.
        check: labelled images to measure file and network on: anything that `read_labelled` reads (its test split), or
            loaded images.
        tolerance: how many points of top-1 an int8 file may lose on `check`.
        dynamic_batch: the file takes any number of images at once; else one.
        with_preprocessing: the file takes one picture, uint8 (H, W, 3) of any size, and gives its logits and
            probabilities (1, classes).
        dataset: data set of `calibrate` and `check`; None chooses it by the classes of the network.
        force: replace an existing file.

    Returns:
        The path of the file, and the results of its check.

    Raises:
        InputError: unusable arguments, an existing output, or a network that the format cannot hold or whose logits are
            not finite.
        ResnetHubError: the file does not compute what the network does.
        MissingExtraError: the tools of the format are not installed.
    """
    name = model if isinstance(model, str) else type(model).__name__
    path, to = _target(output, to, force)
    if int8 and calibrate is None:
        raise InputError('int8 needs calibrate, a folder of training images, which set the ranges of the activations')
    if calibrate is not None and not int8:
        raise InputError('calibrate sets the ranges for int8: add --int8, or leave out --calibrate')
    if with_preprocessing and dynamic_batch:
        raise InputError('with_preprocessing takes one picture at a time: leave out dynamic_batch')
    writer = _import_writer(to)
    network = load_model(model, 'cpu') if isinstance(model, str) else model
    if isinstance(network, ExportedNetwork):
        raise InputError(f'{name} is already an exported file: export the network from which it was made')
    cfg: Any = network.pretrained_cfg

    def read(data: str | Path | Images, split: str, need_labels: bool = True) -> Images | LabelledImages:
        if isinstance(data, Images):
            return data
        source, known = find_source({**cfg, 'num_classes': network.num_classes}, data, dataset)
        return read_labelled(source, split, dataset=known, need_labels=need_labels)

    calibration = None
    if int8 and calibrate is not None:
        calibration = _calibration(network, read(calibrate, 'train', need_labels=False))
    test_images = None if check is None else read(check, 'test')
    folded = optimize(network).model.to(memory_format=torch.contiguous_format)
    channels = getattr(network, 'in_chans', 3)
    options = Options(
        torch.randn(2 if dynamic_batch else 1, channels, *cfg['input_size'][1:]),
        dynamic_batch,
        Preprocessing(cfg).eval() if with_preprocessing else None,
        calibration,
        describe(
            network,
            name,
            writer.PACKAGES,
            int8=int8,
            preprocessing=with_preprocessing,
            dynamic_batch=dynamic_batch,
        ),
    )
    with torch.no_grad():
        if not folded(options.example).isfinite().all():
            raise InputError(f'{name} itself gives logits that are not finite (nan or inf): check its weights')
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix='.export-') as folder:
        written = Path(folder, path.name)
        _logger.info('%s: converting %s', path.name, name)
        with torch.no_grad():
            writer.write(folded, written, options)
        _logger.info('%s: comparing the file with the network', path.name)
        exported = load_exported(written)
        report = Export(
            path,
            to,
            int8,
            sum(file.stat().st_size for file in Path(folder).iterdir()),
            sum(isinstance(module, nn.BatchNorm2d) for module in folded.modules()),
            _logit_error(network, exported),
            **_compare(network, exported, test_images),
        )
        _judge(report, tolerance)
        del exported  # a runtime may hold its file open
        for file in sorted(Path(folder).iterdir(), key=lambda file: file.name == path.name):
            file.replace(path.parent / file.name)  # the main file comes last
    return report


def _target(output: str | Path, to: str | None, force: bool) -> tuple[Path, str]:
    """Return the path of the file to write, and its format."""
    output = Path(output)
    to = to or format_of(output)
    if to is None:
        raise InputError(f'the suffix of {output} shows no format: choose one with --to: {", ".join(FORMATS)}')
    suffix = find_format(to).suffix
    if format_of(output) not in (None, to):
        raise InputError(f'{output} does not end with {suffix}, the suffix of {FORMATS[to].title}')
    path = output if format_of(output) else output / f'model{suffix}'
    if path.exists() and not force:
        raise InputError(f'{path} exists already: give another name, or --force')
    return path, to


def _import_writer(to: str) -> Any:
    return import_module(f'resnet_hub.exporting.{to}')


def _calibration(network: nn.Module, images: Images | LabelledImages) -> Tensor:
    """Return calibration images, preprocessed for the network, float32 (N, 3, H, W)."""
    transform = make_transform(network, normalize=False)
    in_order = bool((images.labels.diff() >= 0).all())  # class after class, or without labels
    step = max(1, len(images) // CALIBRATION_IMAGES) if in_order else 1
    chosen = encoded(images[: step * CALIBRATION_IMAGES : step])
    pixels = [torch.as_tensor(transform(chosen.open(index))) for index in range(len(chosen))]
    return normalise_like(network, torch.stack(pixels)).contiguous()


@torch.no_grad()
def _logit_error(network: nn.Module, exported: ExportedNetwork) -> float:
    """Return the largest difference between the logits of both, relative to the largest logit."""
    generator = torch.Generator().manual_seed(0)
    channels, size = exported.in_chans or 3, tuple(exported.pretrained_cfg['input_size'][1:])
    if channels == 3:
        x = normalise_like(network, torch.randint(256, (3, 3, *size), dtype=torch.uint8, generator=generator))
    else:
        x = torch.randn(3, channels, *size, generator=generator)
    expected, found = network.eval()(x), exported(x)
    if found.shape != expected.shape:
        raise ResnetHubError(f'the file gives logits of the shape {tuple(found.shape)}, not {tuple(expected.shape)}')
    return float((found - expected).abs().max() / expected.abs().max())


def _compare(network: nn.Module, exported: ExportedNetwork, images: Images | LabelledImages | None) -> dict[str, float]:
    """Measure the network and the file on the check images."""
    if images is None:
        return {}
    labels = labels_for(network, images, exported.num_classes)
    expected, found = (compute_outputs(model, images).logits.argmax(1) for model in (network, exported))
    return {
        'top1': _percent(found == labels),
        'network_top1': _percent(expected == labels),
        'changed': _percent(found != expected),
    }


def _percent(hits: Tensor) -> float:
    return round(100 * float(hits.double().mean()), 4)


def _judge(report: Export, tolerance: float) -> None:
    """Refuse a file that computes other logits than the network.

    Raises:
        ResnetHubError: the logits differ, or the int8 file loses too much accuracy.
    """
    if not report.int8 and not report.logit_error <= FLOAT_TOLERANCE:
        raise ResnetHubError(
            f'{FORMATS[report.format].title} computes other logits than PyTorch: they differ by {report.logit_error:.1e} '
            f'of the largest logit, more than {FLOAT_TOLERANCE}; nothing was written. Try another format'
        )
    if report.top1 is None or report.network_top1 is None:
        if report.int8:
            warnings.warn(
                'the accuracy of the int8 file was not measured: give test images as check (--check)', stacklevel=3
            )
        return
    lost = report.network_top1 - report.top1
    if lost > tolerance:
        raise ResnetHubError(
            f'int8 loses {lost:.2f} points of top-1 ({report.network_top1:.2f} to {report.top1:.2f} %), more than '
            f'{tolerance}; nothing was written. Allow more, or export without int8'
        )
