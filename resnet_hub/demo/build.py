"""Write the folder of the demo page: its files, the networks as ONNX, and the data about them."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from resnet_hub.data.sources import read_labelled
from resnet_hub.demo.energy import PERCENT, Threshold, measure_threshold, read_thresholds
from resnet_hub.demo.runtime import FILES, runtime_folder
from resnet_hub.exporting.export import export
from resnet_hub.registry.loading import load_model
from resnet_hub.runtimes.exported import ExportedNetwork
from resnet_hub.tables.datasets import DATASETS
from resnet_hub.tables.weights import WEIGHTS
from resnet_hub.utils.errors import InputError

DATA_FILE = 'demo.json'
_PAGE = files('resnet_hub.demo') / 'page'
_MODELS = 2  #: largest number of networks on a page
_FILTERS = ('bilinear', 'bicubic', 'lanczos')  #: the filters of page/resize.js
#: the example pictures; each is in the public domain (CC0)
_EXAMPLES = (
    {'file': 'examples/cat.jpg', 'title': 'a cat', 'credit': 'Stéfan van der Walt (CC0)'},
    {'file': 'examples/cameraman.jpg', 'title': 'a man with a camera', 'credit': 'Lav Varshney (CC0)'},
    {'file': 'examples/coffee.jpg', 'title': 'a cup of coffee', 'credit': 'Rachel Michetti (CC0)'},
)


class Page(NamedTuple):
    """The page that `build_demo` wrote."""

    folder: Path
    size: int  #: bytes of all files
    models: list[dict[str, Any]]  #: the data about each network, as in demo.json


def build_demo(
    models: str | Sequence[str],
    output: str | Path,
    *,
    data: str | Path | None = None,
    runtime: str | Path | None = None,
    force: bool = False,
) -> Page:
    """Write a static page on which one or two networks classify pictures in the browser.

    Any server of static files can serve the folder, and it loads nothing from elsewhere. It is also a static Space for
    the Hub.

    Args:
        models: one or two names of models, see `load_model`, or ONNX files that `export` wrote.
        output: the folder to write.
        data: test images of the networks' classes, in any format that `read_labelled` reads. They determine the energy
            score below which the page says that a picture shows none of the classes. None takes the measured scores of
            our own weights; for other networks the page then never says so.
        runtime: folder with the files of ONNX Runtime Web; None lets npm download them at the first use.
        force: replace the files of an existing page. Other files in the folder stay.

    Returns:
        The folder, its size, and the data about each network.

    Raises:
        InputError: the arguments are unusable, the page cannot run a network, or `output` is not empty.
        ResnetHubError: ONNX Runtime Web cannot be downloaded, or a network cannot be exported.
        MissingExtraError: the packages for ONNX are not installed.
    """
    names = [models] if isinstance(models, str) else list(models)
    if not 1 <= len(names) <= _MODELS:
        raise InputError(f'a page shows one or two models, not {len(names)}')
    output = Path(output)
    if output.exists() and not (output.is_dir() and (force or not any(output.iterdir()))):
        raise InputError(
            f'{output} exists and is not empty: give another folder, or replace the page in it with --force'
        )
    runtime = runtime_folder(runtime)
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix='.demo-') as temporary:
        folder = Path(temporary)
        rows = [_add_model(folder, name, number, data) for number, name in enumerate(names, start=1)]
        _copy_page(folder, runtime)
        content = {'models': rows, 'examples': _EXAMPLES}
        (folder / DATA_FILE).write_text(json.dumps(content, indent=2, ensure_ascii=False) + '\n', encoding='utf-8')
        (folder / 'README.md').write_text(_readme(rows), encoding='utf-8')
        written = [path.relative_to(folder) for path in sorted(folder.rglob('*')) if path.is_file()]
        size = sum((folder / path).stat().st_size for path in written)
        for path in written:
            (output / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).replace(output / path)
    return Page(output, size, rows)


def _add_model(folder: Path, name: str, number: int, data: str | Path | None) -> dict[str, Any]:
    """Write a network into the page's folder, and return the data about it for the page."""
    model: Any = load_model(name, 'cpu')
    cfg = model.pretrained_cfg
    exported = isinstance(model, ExportedNetwork)
    title = _exported_title(model) if exported else _title(name)
    file = folder / 'models' / f'{number}-{re.sub(r"[^A-Za-z0-9._-]+", "-", title)}.onnx'
    file.parent.mkdir(exist_ok=True)
    row = {
        'name': title,
        'file': file.relative_to(folder).as_posix(),
        'classes': _classes(name, cfg, model.num_classes),
        'mean': list(cfg['mean']),
        'std': list(cfg['std']),
        'view': _view(name, model),
    }
    known = WEIGHTS.get(f'{cfg.get("architecture")}.{cfg.get("tag")}') if ':' not in name and not exported else None
    facts = [f'{model.num_classes} classes']
    if not exported:
        facts.append(f'{sum(p.numel() for p in model.parameters()):,} parameters')
    if known:
        facts.append(f'{known.top1:.1f} % right on {DATASETS[known.dataset].title}')
    threshold = _threshold(model, known.name if known else None, data)
    if exported:
        shutil.copyfile(name, file)
    else:
        export(model, file)
    shown = threshold and {**threshold._asdict(), 'percent': PERCENT}
    return {**row, 'facts': ' · '.join(facts), 'threshold': shown, 'license': cfg.get('license')}


def _title(name: str) -> str:
    """Return a name without the path of a local folder."""
    return Path(name).name if name.startswith('local-dir:') else name.removeprefix('hf-hub:')


def _exported_title(model: ExportedNetwork) -> str:
    source = model.metadata.get('source')
    return f'{_title(source) if source else model.path.stem}{" (int8)" if model.metadata.get("int8") else ""}'


def _classes(name: str, cfg: Mapping[str, Any], count: int) -> list[str]:
    labels = list(cfg.get('label_names') or ())
    if len(labels) == count:
        return labels
    return [f'class {number}' for number in range(count)]


def _view(name: str, model: nn.Module) -> dict[str, Any]:
    """Return how the page preprocesses a picture for the network.

    Raises:
        InputError: the page cannot do the network's preprocessing.
    """
    from timm.data import resolve_model_data_config

    if isinstance(model, ExportedNetwork) and (model.path.suffix != '.onnx' or model.takes_pictures):
        raise InputError(f'{name}: a page runs only ONNX files without preprocessing: export it again as such a file')
    cfg = resolve_model_data_config(model)
    channels, height, width = cfg['input_size']
    if channels != 3 or height != width or cfg['interpolation'] not in _FILTERS or cfg['crop_mode'] != 'center':
        raise InputError(
            f'{name}: a page can run networks that take square RGB pictures, cut from the centre and resized by '
            f'{", ".join(_FILTERS)}; this one takes {channels} × {height} × {width}, {cfg["interpolation"]}, '
            f'{cfg["crop_mode"]}'
        )
    return {'size': height, 'resize': int(height / cfg['crop_pct']), 'filter': cfg['interpolation']}


def _threshold(model: Any, weights: str | None, data: str | Path | None) -> Threshold | None:
    if data is None:
        return read_thresholds().get(weights or '')
    classes = tuple(model.pretrained_cfg.get('label_names') or ())
    dataset = next((name for name, row in DATASETS.items() if row.classes == classes), None)
    images = read_labelled(data, 'test', dataset=dataset, need_labels=False)
    return measure_threshold(model, images, f'{DATASETS[dataset].title if dataset else "own"} test pictures')


def _copy_page(folder: Path, runtime: Path) -> None:
    for name in ('index.html', 'style.css', 'icon.svg', 'page.js', 'classify.js', 'resize.js'):
        (folder / name).write_bytes((_PAGE / name).read_bytes())
    for directory, source, names in (
        ('examples', _PAGE / 'examples', [Path(row['file']).name for row in _EXAMPLES]),
        ('onnxruntime', runtime, FILES),
    ):
        (folder / directory).mkdir()
        for name in names:
            (folder / directory / name).write_bytes((source / name).read_bytes())


def _readme(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return README.md, whose metadata make the folder a static Space of the Hub."""
    licenses = {row['license'] for row in rows}
    license = licenses.pop() if len(licenses) == 1 else None
    lines = [
        '---',
        'title: What is on this picture?',
        'emoji: 🔎',
        'colorFrom: indigo',
        'colorTo: blue',
        'sdk: static',
        'app_file: index.html',
        'pinned: false',
        *([f'license: {license.lower()}'] if license else []),
        '---',
        '',
        f'This page tells what is on a picture. It runs {" and ".join(row["name"] for row in rows)} in the browser, by',
        'ONNX Runtime Web (MIT licence, Copyright (c) Microsoft Corporation).',
        '',
        'See it on this machine: `python -m http.server -b localhost` in this folder, then http://localhost:8000.',
        '',
        'Publish it as a Space of the Hub: `hf repos create OWNER/NAME --repo-type space --space-sdk static`, then',
        '`hf upload OWNER/NAME . --repo-type space`.',
        '',
    ]
    return '\n'.join(lines)
