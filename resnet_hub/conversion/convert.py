"""Convert a checkpoint of any code base to a folder that timm and transformers load.

The steps are: rename the tensors and build the network (`checkpoints.recognise`); list the assumptions, which keys and
shapes do not show, with the evidence for them; measure the accuracy if the user gives images; write the folder.
"""

from __future__ import annotations

import io
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from resnet_hub.checkpoints.layouts import find_layout, to_layout
from resnet_hub.checkpoints.read import read
from resnet_hub.checkpoints.recognise import recognise, separate
from resnet_hub.conversion.assumptions import Assumption, check_names, list_assumptions, refuse_contradicted
from resnet_hub.conversion.facts import Constants, Options, find_constants, find_weights, read_config
from resnet_hub.conversion.sources import full_name, local_file, public_name
from resnet_hub.data.sources import load_images
from resnet_hub.hub.card import make_card
from resnet_hub.inference.evaluate import Metrics, evaluate
from resnet_hub.models import ResidualNet
from resnet_hub.utils.errors import InputError
from resnet_hub.utils.files import encode, replacing
from resnet_hub.weights.folder import CARD_FILE, CONFIG_FILE, make_config, new_folder, write_folder


@dataclass(frozen=True)
class Conversion:
    """The result of `convert_checkpoint`: the network that was found, and where it was written."""

    path: Path  #: the folder that was written, or with `to` the file
    architecture: str
    model_args: dict[str, Any]  #: arguments that differ from those of the architecture
    num_classes: int
    in_chans: int  #: number of channels of the images
    layout: str  #: the layout of the source, or examples of its keys
    source: str  #: name of the source, without folders of this machine
    sha256: str  #: SHA-256 of the source file, in hexadecimal
    weights: str | None  #: name of the published weights if the source is one of them
    container: str | None = None  #: with `to`: the key of the state dict in the file; None if there is none
    mean: tuple[float, ...] = ()  #: normalisation, one number for each channel, for pixels scaled to 0 … 1
    std: tuple[float, ...] = ()
    label_names: tuple[str, ...] = ()  #: names of the classes; () if they are unknown
    dropped: dict[str, str] = field(default_factory=dict)  #: tensors of the file that are not in the result, and why
    notes: list[str] = field(default_factory=list)  #: what was done besides renaming
    assumptions: list[Assumption] = field(default_factory=list)  #: what the file does not show
    metrics: Metrics | None = None  #: accuracy on the images of `check`


def convert_checkpoint(
    source: str | Path,
    output: str | Path,
    *,
    dataset: str | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    labels: str | Path | None = None,
    key: str | None = None,
    check: str | Path | None = None,
    assume: Collection[str] = (),
    force: bool = False,
    to: str | None = None,
) -> Conversion:
    """Convert a checkpoint of any code base to a model folder, or with `to` to one file of another code base.

    Args:
        source: a file, a URL, 'local-dir:FOLDER', 'hf-hub:OWNER/NAME' or 'hf-hub:OWNER/NAME@REVISION', or the name of
            pretrained weights.
        output: the folder to write, or with `to` the file. It is written completely or not at all.
        dataset: 'cifar10', 'cifar100' or 'svhn': gives the normalisation and the names of the classes.
        mean: mean of the images, one number for each channel, for pixels scaled to 0 … 1. None takes it from `dataset`,
            from a config.json of timm beside the file, or from the data set with this number of classes.
        std: standard deviation of the images, like `mean`.
        labels: a text file with the name of one class on each line; None takes the names from the places of `mean`.
        key: name of the network to take if the file has several.
        check: a folder with the data set's test images. The accuracy is measured on them, and a network near chance is
            refused. A good accuracy outweighs all other evidence.
        assume: names in `conversion.assumptions.NAMES` to accept although the file contradicts them.
        force: replace an existing output.
        to: write the keys of another code base: a name in `checkpoints.layouts.LAYOUTS`, such as 'kuangliu'. Only `key`,
            `assume` and `force` can be combined with it.

    Returns:
        The network that was found, and where it was written.

    Raises:
        InputError: the source cannot be read or is another network, or an option does not fit.
        ResnetHubError: the Hub or the publisher's server cannot be reached or refuses the request.
        MissingExtraError: `check` needs a package of the extra 'train' that is not installed.
    """
    output, source = Path(output), full_name(source)
    layout = find_layout(to) if to is not None else None
    options = Options(dataset, mean, std, labels)
    if layout:
        if unused := [f'--{name}' for name, value in {**vars(options), 'check': check}.items() if value is not None]:
            raise InputError(f'--to {to} writes only keys and tensors: leave out {", ".join(unused)}')
        if output.is_dir():
            raise InputError(f'{output} is a directory: with --to, give the file to write')
    check_names(assume)
    if output.exists() and not force:
        raise InputError(f'{output} exists already: give another output or --force')

    with local_file(source) as path:
        content = read(path)
        found = recognise(content.tree, key)
        network = found.network
        weights = find_weights(source, content, network)
        config = read_config(path, content.sha256, network)
    architecture, model_args = network.architecture()
    result = Conversion(
        path=output,
        architecture=architecture,
        model_args=model_args,
        num_classes=network.num_classes,
        in_chans=network.in_chans,
        layout=found.layout,
        source=public_name(source),
        sha256=content.sha256,
        weights=weights,
        dropped=found.dropped,
        notes=[*(f'objects of {name} are read as plain dicts' for name in content.classes), *found.notes],
        assumptions=list_assumptions(found, weights),
    )
    del content
    if check is None:
        refuse_contradicted(result.assumptions, assume)
    state_dict = separate(found.state_dict)
    if layout:
        container = layout.container if output.suffix != '.safetensors' else ''
        _write_file(output, to_layout(state_dict, network, to or ''), container)
        return replace(result, container=container or None)

    constants = find_constants(found, weights, config, options)
    metrics = None
    if check is not None:
        metrics = _measure(found.model, constants, check)
        if metrics.top1 < _halfway(network.num_classes):
            refuse_contradicted(result.assumptions, assume, f'; top-1 of {metrics.top1:.2f} % does not outweigh that')
    result = replace(
        result,
        mean=constants.mean,
        std=constants.std,
        label_names=constants.label_names,
        assumptions=[*result.assumptions, *constants.assumptions],
        metrics=metrics,
    )
    _write_folder(result, state_dict, constants, found.counters, force)
    return result


def _halfway(num_classes: int) -> float:
    """Return the top-1 accuracy in % that is halfway between guessing and 100 %."""
    return (100 + 100 / num_classes) / 2


def _measure(model: ResidualNet, constants: Constants, folder: str | Path) -> Metrics:
    """Measure the accuracy on the test images.

    Raises:
        InputError: the accuracy is near chance, which means below three times that of guessing. Then the tensors belong
            to another network with the same keys and shapes, or the images to another data set.
    """
    if constants.dataset is None or model.in_chans != 3:
        shape = f'{model.num_classes} classes and {model.in_chans} channels'
        raise InputError(f'no data set of {shape} is known to check with: leave out --check')
    images = load_images(constants.dataset, 'test', folder)
    metrics = evaluate(model.float(), images, constants.mean, constants.std)
    chance = 100 / model.num_classes
    if metrics.top1 < min(3 * chance, _halfway(model.num_classes)):
        raise InputError(
            f'top-1 is {metrics.top1:.2f} % on {constants.dataset}, near the chance of {chance:.2f} %: the file is of '
            'another network with the same tensors, or was trained on other data; nothing was written'
        )
    return metrics


def _write_file(output: Path, state_dict: Mapping[str, Tensor], container: str) -> None:
    if output.suffix == '.safetensors':
        data = encode(state_dict)
    else:
        buffer = io.BytesIO()
        torch.save({container: state_dict} if container else state_dict, buffer)
        data = buffer.getvalue()
    with replacing(output) as path:
        path.write_bytes(data)


def _write_folder(
    result: Conversion, state_dict: dict[str, Tensor], constants: Constants, counters: bool, force: bool
) -> None:
    provenance: dict[str, Any] = {
        'normalisation': constants.normalisation,
        'source': {
            'name': result.source,
            **({'weights': result.weights} if result.weights else {}),
            'sha256': result.sha256,
            'layout': result.layout,
            'assumptions': [*result.notes, *map(str, result.assumptions)],
            **({'dropped': result.dropped} if result.dropped else {}),
            **({} if counters else {'num_batches_tracked': 'not in the source, 0 here'}),
        },
    }
    if result.metrics:
        provenance['measured'] = {'dataset': constants.dataset, **result.metrics.to_dict()}
    floats = {tensor.dtype for tensor in state_dict.values() if tensor.is_floating_point()}
    config = make_config(
        result.architecture,
        mean=result.mean,
        std=result.std,
        num_classes=result.num_classes,
        in_chans=result.in_chans,
        image_size=constants.image_size,
        label_names=result.label_names or None,
        model_args=result.model_args,
        # float16 weights are loaded into a float32 network, so that it does not compute in the dtype of the file
        dtype=torch.float64 if floats == {torch.float64} else torch.float32,
        **provenance,
    )
    with new_folder(result.path, force) as folder:
        write_folder(folder, state_dict, config)
        config = json.loads((folder / CONFIG_FILE).read_text(encoding='utf-8'))  # with the digest of the weights
        card = make_card(f'local-dir:{result.path.name}', config)
        (folder / CARD_FILE).write_text(card, encoding='utf-8')
