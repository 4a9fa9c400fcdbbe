"""Write model cards: the README.md of a network on the Hub or in a folder.

A card is made only from config.json and evaluation.json, and the same input gives the same text. huggingface_hub writes
and reads the metadata, so that no text can break it.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping, Sequence
from typing import Any

from huggingface_hub import EvalResult, ModelCardData
from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression

from resnet_hub.hub.card_check import MARK, METRICS, check_card, published
from resnet_hub.tables.architectures import ARCHITECTURES
from resnet_hub.tables.datasets import DATASETS
from resnet_hub.tables.weights import REPOSITORY
from resnet_hub.utils.errors import InputError

_logger = logging.getLogger(__name__)
_HUB, _LOCAL = 'hf-hub:', 'local-dir:'
_LICENSES = ('unknown', 'other')  #: names that the Hub accepts besides the identifiers of SPDX
#: arXiv number: BibTeX key, authors, title, venue, year
_PAPERS = {
    '1512.03385': ('he2016deep', 'He, Kaiming and Zhang, Xiangyu and Ren, Shaoqing and Sun, Jian', 'Deep Residual Learning for Image Recognition', 'CVPR', 2016),
    '1603.05027': ('he2016identity', 'He, Kaiming and Zhang, Xiangyu and Ren, Shaoqing and Sun, Jian', 'Identity Mappings in Deep Residual Networks', 'ECCV', 2016),
    '1605.07146': ('zagoruyko2016wide', 'Zagoruyko, Sergey and Komodakis, Nikos', 'Wide Residual Networks', 'BMVC', 2016),
    '1910.10699': ('tian2020contrastive', 'Tian, Yonglong and Krishnan, Dilip and Isola, Phillip', 'Contrastive Representation Distillation', 'ICLR', 2020),
}  # fmt: skip


def make_card(
    source: str,
    config: Mapping[str, Any],
    results: Sequence[Mapping[str, Any]] | None = None,
    *,
    license: str | None = None,
    description: str | None = None,
    curves: bool = False,
) -> str:
    """Return the README.md of the network that `config` describes.

    Args:
        source: timm's name of the network, for the usage examples: 'hf-hub:OWNER/NAME' or 'local-dir:FOLDER'.
        config: config.json, see `weights.folder.make_config`.
        results: evaluation.json, see `package.read_results`. None takes the figures in config.json that a conversion
            measured.
        license: SPDX identifier. None takes that of the published weights if the network has these, else 'unknown'.
        description: Markdown for the beginning of the text.
        curves: whether there is a curves.png beside the card.

    Raises:
        InputError: the license is not that of the published weights.
    """
    results = measured_by_conversion(config) if results is None else results
    data = _metadata(source, config, results, license)
    sections = _sections(source, config, results, description, curves)
    body = '\n\n'.join(section.strip() for section in sections if section)
    text = f'---\n{data.to_yaml()}\n---\n\n{body}\n\n{MARK}\n'
    check_card(text, config, results)
    return text


def measured_by_conversion(config: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the figures that `resnet-hub convert --check` measured, like evaluation.json; [] if there are none."""
    return [{'split': 'test', **config['measured']}] if 'measured' in config else []


def _metadata(
    source: str, config: Mapping[str, Any], results: Sequence[Mapping[str, Any]], license: str | None
) -> ModelCardData:
    data = ModelCardData(
        license=_license(config, license),
        library_name='timm',
        pipeline_tag='image-classification',
        tags=['image-classification', 'timm', 'transformers', 'resnet-hub', *_datasets(config, results)],
        datasets=[DATASETS[name].repo for name in _datasets(config, results)] or None,
        base_model=_base_model(config),
    )
    known = [result for result in results if result['dataset'] in DATASETS]  # the Hub knows no others
    if known:
        data.model_name = _title(source)
        data.eval_results = [
            EvalResult(
                task_type='image-classification',
                dataset_type=DATASETS[result['dataset']].repo,
                dataset_name=result['dataset'],
                dataset_config=DATASETS[result['dataset']].folder,
                dataset_split=result['split'],
                metric_type=kind,
                metric_value=result[key],
                metric_name=name,
            )
            for result in known
            for key, (kind, name, *_) in METRICS.items()
            if key in result
        ]
    return data


def _license(config: Mapping[str, Any], license: str | None) -> str:
    found = published(config)
    own = found[1].publisher.license if found else 'unknown'
    if found and license and license.lower() != own.lower():
        raise InputError(f'these are the weights {found[0]}, which are under {own}: leave out --license')
    if license and license.lower() not in _LICENSES:
        try:
            canonicalize_license_expression(license)
        except InvalidLicenseExpression:
            _logger.warning('SPDX knows no license %r (https://spdx.org/licenses); it is written as it is', license)
    return (license or own).lower()


def _title(source: str) -> str:
    return re.split('[:/]', source)[-1]


def _datasets(config: Mapping[str, Any], results: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the names of the data sets on which a network was trained, if they are known, and measured."""
    found = published(config)
    trained = found[1].dataset if found else config.get('recipe', {}).get('dataset')
    names = tuple(config.get('label_names') or ())
    by_classes = [name for name, dataset in DATASETS.items() if dataset.classes == names]
    return list(
        dict.fromkeys(name for name in (trained, *by_classes, *(r['dataset'] for r in results)) if name in DATASETS)
    )


def _base_model(config: Mapping[str, Any]) -> str | None:
    found = re.fullmatch(r'hf-hub:([\w.-]+/[\w.-]+)(@.*)?', config.get('source', {}).get('name', ''), re.ASCII)
    return found[1] if found else None


def _sections(
    source: str,
    config: Mapping[str, Any],
    results: Sequence[Mapping[str, Any]],
    description: str | None,
    curves: bool,
) -> list[str]:
    return [
        f'# {_title(source)}',
        f'<!-- description -->\n{description.strip()}\n<!-- /description -->' if description else '',
        _what_it_is(config),
        _figures(results),
        _usage(source, config),
        _training(config, curves),
        _provenance(config),
        _notice(config),
        _citation(config),
    ]


def _what_it_is(config: Mapping[str, Any]) -> str:
    row, (_, height, width) = ARCHITECTURES[config['architecture']], config['pretrained_cfg']['input_size']
    args = {
        k: v for k, v in config.get('model_args', {}).items() if k not in ('num_classes', 'in_chans', 'global_pool')
    }
    changed = ''.join(f', `{_inline(k)}={_inline(repr(v))}`' for k, v in args.items())
    layers, block = args.get('layers', row.layers), _inline(args.get('block', row.block))
    classes = ', '.join(_inline(name) for name in (config.get('label_names') or [])[:10])
    more = ', …' if len(config.get('label_names') or []) > 10 else ''
    return (
        f'`{config["architecture"]}`{changed}: a {row.family.title} for {height}×{width} images, {sum(layers)} '
        f'{block} blocks, {config["num_classes"]} classes{f" ({classes}{more})" if classes else ""}.'
    )


def _figures(results: Sequence[Mapping[str, Any]]) -> str:
    if not results:
        return ''
    shown = [key for key in METRICS if any(key in result for result in results)]
    headings = ['data', 'split', 'images', *(METRICS[key][2] for key in shown)]
    lines = [f'| {" | ".join(headings)} |', f'| :-- | :-- {"| --: " * (len(headings) - 2)}|']
    for result in results:
        figures = [format(result[key], METRICS[key][3]) if key in result else '' for key in shown]
        lines.append(f'| {result["dataset"]} | {result["split"]} | {result["images"]:,} | {" | ".join(figures)} |')
    note = (
        'Measured by `resnet-hub evaluate` on these very weights, in float32. NLL is the mean negative log-likelihood'
    )
    calibration = ', ECE the expected calibration error over 15 bins' if 'ece' in shown else ''
    return '\n'.join([*lines, '', f'{note} in nats{calibration}.'])


def _usage(source: str, config: Mapping[str, Any]) -> str:
    channels, height, width = config['pretrained_cfg']['input_size']
    if channels == 3:
        x = "transform(Image.open('cat.jpg').convert('RGB'))[None]"
    else:
        x = f'torch.rand(1, {channels}, {height}, {width})  # normalised images'
    label = "model.pretrained_cfg['label_names'][best]" if config.get('label_names') else 'best'
    blocks = [
        f"""## Use

The network is part of [resnet-hub](https://github.com/{REPOSITORY}), which adds it to timm and transformers:

```bash
pip install git+https://github.com/{REPOSITORY}
```

No further import is needed:

```python
import timm
import torch
from PIL import Image

model = timm.create_model('{source}', pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
with torch.inference_mode():
    best = model({x}).argmax().item()
print({label})
```"""
    ]
    if source.startswith(_HUB):
        blocks += _usage_on_the_hub(source.removeprefix(_HUB), config['architecture'], channels)
    return '\n\n'.join(blocks)


def _usage_on_the_hub(repo_id: str, architecture: str, channels: int) -> list[str]:
    """Return the examples for a repository: torch.hub, transformers (only for RGB images), download."""
    torch_hub = f"""torch.hub needs no installation of resnet-hub:

```python
import torch

model = torch.hub.load('{REPOSITORY}', '{architecture}', pretrained='hf-hub:{repo_id}', trust_repo=True)
```"""
    transformers = f"""With transformers:

```python
from transformers import pipeline

classify = pipeline('image-classification', '{repo_id}')
print(classify('cat.jpg'))
```"""
    command = f'resnet-hub download {repo_id} -o {_title(repo_id)}'
    download = f'`{command}` downloads the files and compares each with the digest that the Hub lists.'
    return [torch_hub, *([transformers] if channels == 3 else []), download]


def _training(config: Mapping[str, Any], curves: bool) -> str:
    if 'recipe' not in config:
        return ''
    recipe = ''.join(f'{_inline(key)} = {json.dumps(value)}\n' for key, value in config['recipe'].items())
    image = '\n\n![The training loss of each epoch](curves.png)' if curves else ''
    return f'## Training\n\nTrained by `resnet-hub train` with this recipe:\n\n```toml\n{recipe}```{image}'


def _provenance(config: Mapping[str, Any]) -> str:
    cfg, source = config['pretrained_cfg'], config.get('source', {})
    assumed = ' (assumed from the number of classes)' if config.get('normalisation') == 'assumed' else ''
    lines = [
        f'model.safetensors has the SHA-256 `{config["sha256"]}`.',
        f'The pixels are scaled to 0 … 1, then normalised with the mean {tuple(cfg["mean"])} and the standard deviation '
        f'{tuple(cfg["std"])}{assumed}.',
    ]
    if source:
        digest = f' (SHA-256 `{_inline(source["sha256"])}`)' if source.get('sha256') else ''
        layout = f', layout {_inline(source["layout"])}' if source.get('layout') else ''
        lines.append(f'Converted by resnet-hub from `{_inline(source.get("name", "a file"))}`{digest}{layout}.')
        lines += [f'Assumed: {_inline(text)}.' for text in source.get('assumptions', ())]
        lines += [f'Left out: {_inline(k)} ({_inline(why)}).' for k, why in source.get('dropped', {}).items()]
    return '## Provenance\n\n' + '\n'.join(f'- {line}' for line in lines)


def _notice(config: Mapping[str, Any]) -> str:
    found = published(config)
    notice = found[1].publisher.notice if found else ''
    return notice and f'## Third-party notice\n\n{notice}'


def _citation(config: Mapping[str, Any]) -> str:
    paper = ARCHITECTURES[config['architecture']].paper
    if paper.rpartition('/')[2] not in _PAPERS:
        return f'## Citation\n\n{paper}'
    key, authors, title, venue, year = _PAPERS[paper.rpartition('/')[2]]
    return f"""## Citation

```bibtex
@inproceedings{{{key},
  author = {{{authors}}},
  title = {{{title}}},
  booktitle = {{{venue}}},
  year = {{{year}}},
  url = {{{paper}}}
}}
```"""


def _inline(value: object) -> Any:
    """Return a value from a file in a form that cannot end the line of Markdown around it."""
    return value if isinstance(value, int | float) else ' '.join(str(value).replace('`', "'").replace('|', '/').split())
