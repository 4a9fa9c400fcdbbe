"""A checkpoint from anywhere to a folder that timm and transformers load, proven before it is written.

read.py reads without running anything, recognise.py finds the network and puts its tensors under our names, facts.py
finds what a state dict cannot say (normalisation, label names); here follow the check on images and the writing.
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import torch
from torch import Tensor

from resnet_hub.checkpoints import layouts
from resnet_hub.checkpoints.folder import CONFIG_FILE, PICKLE_FILE, WEIGHTS_FILE, make_config, new_folder, write_folder
from resnet_hub.checkpoints.native import prove, separate
from resnet_hub.checkpoints.network import Network
from resnet_hub.checkpoints.read import PICKLES, read
from resnet_hub.checkpoints.recognise import Recognised, recognise
from resnet_hub.checkpoints.refusal import show
from resnet_hub.conversion.facts import Facts, find_facts, find_row, read_beside
from resnet_hub.inference.evaluate import Metrics
from resnet_hub.models import ResidualNet
from resnet_hub.tables.weights import WEIGHTS
from resnet_hub.utils.errors import InputError
from resnet_hub.utils.files import encode, replacing
from resnet_hub.weights.fetch import fetch

_HUB = 'hf-hub:'
_HUB_FILES = (WEIGHTS_FILE, PICKLE_FILE)


@dataclass(frozen=True)
class Conversion:
    """What a checkpoint turned out to be, and where the result is."""

    path: Path
    architecture: str
    model_args: dict[str, Any]
    num_classes: int
    in_chans: int
    layout: str  #: how the source spells its keys
    source: str
    sha256: str  #: of the source file
    weights: str | None  #: what the catalog calls it
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    label_names: tuple[str, ...] = ()
    dropped: dict[str, str] = field(default_factory=dict)  #: tensors of the file that are not in the result, and why
    assumptions: list[str] = field(default_factory=list)  #: what the file does not show
    metrics: Metrics | None = None  #: on the images of `check`


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
    force: bool = False,
    to: str | None = None,
) -> Conversion:
    """Convert a checkpoint of any known spelling to a model folder, or with `to` to one file of another layout.

    Args:
        source: a file, a URL, 'hf-hub:OWNER/NAME' or 'hf-hub:OWNER/NAME@REVISION', or the name of pretrained weights.
        output: the folder to write, or with `to` the file; it appears whole or not at all.
        dataset: 'cifar10', 'cifar100' or 'svhn': normalisation and label names, unless said otherwise.
        mean, std: normalisation of the images, scaled to 0 … 1; else that of a config.json of timm's beside the file.
        labels: a text file with the name of one class per line; else likewise.
        key: the network to take from a file with several.
        check: a folder with the data set's images: measure the result, and refuse one near chance.
        force: replace what `output` has.
        to: a layout to write instead of ours: a key of `checkpoints.layouts.LAYOUTS`, such as 'kuangliu'; of the other
            options, `key` and `force` go with it.

    Raises:
        InputError: the source cannot be read, or is another network, or an option does not fit.
        ResnetHubError: the Hub or the publisher's server refuses it or cannot be reached.
        MissingExtraError: `check` needs a package of the extra 'train'.
    """
    output = Path(output)
    layout = layouts.find_layout(to) if to is not None else None
    if layout is not None:
        _check_unused(to or '', dataset=dataset, mean=mean, std=std, labels=labels, check=check)
    _check_output(output, force, folder=layout is None)
    with local_file(source) as path:
        content = read(path)
        known = find_row(source, content)
        found = recognise(content.tree, key, attested=bool(known))
        beside = read_beside(path, found.network)
    network = found.network
    architecture, model_args = network.architecture()
    common: dict[str, Any] = {
        'architecture': architecture,
        'model_args': model_args,
        'num_classes': network.num_classes,
        'in_chans': network.in_chans,
        'layout': found.layout,
        'source': _public_name(source),
        'weights': known,
        'sha256': content.sha256,
        'dropped': found.dropped,
    }
    state_dict = separate(found.state_dict)
    if layout is not None:
        _write_file(output, write_layout(state_dict, network, to or ''), layout)
        return Conversion(path=output, **common, assumptions=found.assumptions)

    model = prove(network, state_dict)
    facts = find_facts(found, known, beside, dataset, mean, std, labels)
    metrics = None if check is None else _measure(model, facts, check)
    result = Conversion(
        path=output,
        **common,
        mean=facts.mean,
        std=facts.std,
        label_names=facts.label_names,
        assumptions=[*found.assumptions, *facts.assumptions],
        metrics=metrics,
    )
    _write(result, state_dict, found, facts, force)
    return result


# ----------------------------------------------------------------------------------------------------- what comes in


def _public_name(source: str | Path) -> str:
    """What a source is called in what is published: without this machine's folders, and signatures in addresses."""
    text, parts = str(source), urlsplit(str(source))
    if text.startswith(_HUB) or text in WEIGHTS:
        return text
    if parts.scheme in ('http', 'https'):
        return parts._replace(query='', fragment='').geturl()
    return Path(parts.path if parts.scheme == 'file' else text).name


@contextmanager
def local_file(source: str | Path) -> Iterator[Path]:
    """The file that a source stands for, fetched if it lies elsewhere."""
    text = str(source)
    if text.startswith(_HUB):
        yield _from_hub(text.removeprefix(_HUB))
    elif text in WEIGHTS:
        yield fetch(text)
    elif urlsplit(text).scheme in ('http', 'https', 'file'):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / (Path(urlsplit(text).path).name or 'checkpoint')
            try:
                torch.hub.download_url_to_file(text, str(path), progress=False)
            except (OSError, ValueError, RuntimeError, HTTPException) as error:
                raise InputError(f'cannot download {text}: {error}; check the address') from None
            yield path
    else:
        yield Path(source)


def _from_hub(repo: str) -> Path:
    """The one checkpoint of a repository."""
    from huggingface_hub import hf_hub_download, list_repo_files

    from resnet_hub.utils.hub_client import ask

    repo_id, _, revision = repo.partition('@')  # as timm has it

    def fetch() -> Path:
        names = list_repo_files(repo_id, revision=revision or None)
        candidates = [name for name in _HUB_FILES if name in names]
        candidates = candidates[:1] or [name for name in names if name.endswith((*PICKLES, '.safetensors'))]
        if len(candidates) != 1:
            listed = ', '.join(candidates[:5]) or 'none'
            raise InputError(f'{_HUB}{repo} must hold one checkpoint (it has {listed}): give the URL of the file')
        if CONFIG_FILE in names:  # read where it lies beside the weights
            hf_hub_download(repo_id, CONFIG_FILE, revision=revision or None)
        return Path(hf_hub_download(repo_id, candidates[0], revision=revision or None))

    return ask(f'{_HUB}{repo}', fetch)


def _measure(model: ResidualNet, facts: Facts, folder: str | Path) -> Metrics:
    """Accuracy on the test images.

    Raises:
        InputError: it is near chance, that is below three times that of guessing: the weights are then read into
            another network than their own (or the images are of another data set).
    """
    from resnet_hub.data.sources import load_images
    from resnet_hub.inference.evaluate import evaluate

    if facts.dataset is None or model.in_chans != 3:
        shape = f'{model.num_classes} classes and {model.in_chans} channels'
        raise InputError(f'no data set of {shape} is known to check with: leave out --check')
    images = load_images(facts.dataset, 'test', folder)
    metrics = evaluate(model, images, facts.mean, facts.std)
    chance = 100 / model.num_classes
    if metrics.top1 < min(3 * chance, (100 + chance) / 2):
        raise InputError(
            f'top-1 is {metrics.top1:.2f} % on {facts.dataset}, near the chance of {chance:.2f} %: the file is of '
            'another network with the same tensors, or of other data; nothing was written'
        )
    return metrics


# ------------------------------------------------------------------------------------------------------ what goes out


def write_layout(state_dict: Mapping[str, Tensor], network: Network, layout: str) -> dict[str, Tensor]:
    """A native state dict under the keys of a layout: the inverse of `recognise`.

    Raises:
        InputError: the layout has no place for this network.
    """
    row = layouts.find_layout(layout)
    facts = (network.family, network.block, len(network.layers), network.shortcut_type, network.final_norm)
    reason = layouts.cannot_hold(row, *facts)
    if reason:
        fitting = ', '.join(name for name, other in layouts.LAYOUTS.items() if not layouts.cannot_hold(other, *facts))
        raise InputError(f'layout {layout} cannot hold this network, {reason}; use one of {fitting}')
    return layouts.rename(state_dict, row)


def _check_unused(layout: str, **options: Any) -> None:
    given = [f'--{name}' for name, value in options.items() if value is not None]
    if given:
        raise InputError(f'--to {layout} writes keys and tensors alone: leave out {", ".join(given)}')


def _check_output(output: Path, force: bool, folder: bool) -> None:
    if not folder and output.is_dir():
        raise InputError(f'{output} is a directory: with --to, give the file to write')
    if output.exists() and not force:
        raise InputError(f'{output} exists already: give another output or --force')


def _write_file(output: Path, state_dict: dict[str, Tensor], layout: layouts.Layout) -> None:
    if output.suffix == '.safetensors':
        data = encode(state_dict)
    else:
        buffer = io.BytesIO()
        torch.save({layout.container: state_dict} if layout.container else state_dict, buffer)
        data = buffer.getvalue()
    with replacing(output) as path:
        path.write_bytes(data)


def _write(result: Conversion, state_dict: dict[str, Tensor], found: Recognised, facts: Facts, force: bool) -> None:
    floats = [tensor.dtype for tensor in state_dict.values() if tensor.is_floating_point()]
    provenance: dict[str, Any] = {
        'normalisation': facts.normalisation,
        'source': {
            'name': result.source,
            **({'weights': result.weights} if result.weights else {}),
            'sha256': result.sha256,
            'layout': result.layout,
            'assumptions': result.assumptions,
            **({'dropped': result.dropped} if result.dropped else {}),
            **({} if found.counters else {'num_batches_tracked': 'not in the source, 0 here'}),
        },
    }
    if result.metrics:
        provenance['measured'] = {'dataset': facts.dataset, **result.metrics.to_dict()}
    config = make_config(
        result.architecture,
        mean=facts.mean,
        std=facts.std,
        num_classes=result.num_classes,
        in_chans=result.in_chans,
        label_names=facts.label_names or None,
        model_args=result.model_args,
        # networks of half precision are read into float32 ones: the file's precision is not that of the arithmetic
        dtype=torch.float64 if set(floats) == {torch.float64} else torch.float32,
        **provenance,
    )
    with new_folder(result.path, force) as folder:
        write_folder(folder, state_dict, config)
        (folder / 'README.md').write_text(_readme(result, facts), encoding='utf-8')


def _readme(result: Conversion, facts: Facts) -> str:
    args = ', '.join(f'{name}={value!r}' for name, value in result.model_args.items())
    lines = [
        f'# {result.architecture}',
        '',
        f'Converted by resnet-hub from `{result.source}` (SHA-256 `{result.sha256}`), layout {result.layout}.',
        '',
        '```python',
        'import timm',
        '',
        f"model = timm.create_model('local-dir:{result.path.name}', pretrained=True)",
        '```',
        '',
        f'- Network: {result.architecture}{f" with {args}" if args else ""}, {result.num_classes} classes, '
        f'{result.in_chans} input channels',
        f'- Normalisation ({facts.normalisation}): mean {facts.mean}, std {facts.std}',
    ]
    if result.metrics:
        lines.append(
            f'- Top-1 {result.metrics.top1:.2f} % on the {result.metrics.images} test images of {facts.dataset}'
        )
    lines += [f'- Assumed: {text}' for text in result.assumptions]
    lines += [f'- Left out: {show(name)} ({why})' for name, why in result.dropped.items()]
    lines += ['', facts.notice] if facts.notice else []
    return '\n'.join(lines) + '\n'
