"""The model card: what a person wants to know about weights, out of config.json and evaluation.json.

The same input gives the same text: no time, no path of this machine. The metadata is written and read by
huggingface_hub, so that no text can break it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from resnet_hub.tables.architectures import ARCHITECTURES
from resnet_hub.tables.datasets import DATASETS
from resnet_hub.tables.weights import WEIGHTS, Weights
from resnet_hub.utils.errors import InputError

GITHUB = 'org/repo'  #: this project, for torch.hub
MARK = '<!-- Written by resnet-hub from config.json and evaluation.json. Without this line the card is yours. -->'
#: key of evaluation.json: type and name of the metric in the card, format in its table
METRICS = {
    'top1': ('accuracy', 'top-1 accuracy, %', '.2f'),
    'top5': ('accuracy', 'top-5 accuracy, %', '.2f'),
    'nll': ('nll', 'negative log-likelihood, nats', '.4f'),
}
#: paper: key, authors, title, where and when
_PAPERS = {
    '1512.03385': ('he2016deep', 'He, Kaiming and Zhang, Xiangyu and Ren, Shaoqing and Sun, Jian', 'Deep Residual Learning for Image Recognition', 'CVPR', 2016),
    '1603.05027': ('he2016identity', 'He, Kaiming and Zhang, Xiangyu and Ren, Shaoqing and Sun, Jian', 'Identity Mappings in Deep Residual Networks', 'ECCV', 2016),
    '1605.07146': ('zagoruyko2016wide', 'Zagoruyko, Sergey and Komodakis, Nikos', 'Wide Residual Networks', 'BMVC', 2016),
    '1910.10699': ('tian2020contrastive', 'Tian, Yonglong and Krishnan, Dilip and Isola, Phillip', 'Contrastive Representation Distillation', 'ICLR', 2020),
}  # fmt: skip


def make_card(
    repo_id: str,
    config: Mapping[str, Any],
    results: Sequence[Mapping[str, Any]] = (),
    *,
    license: str | None = None,
    description: str | None = None,
    curves: bool = False,
) -> str:
    """README.md of a repository with the network that `config` describes.

    Args:
        repo_id: where it will be, for the usage examples.
        config: config.json, see `checkpoints.folder.make_config`.
        results: evaluation.json, see `package.read_results`.
        license: SPDX identifier; None: that of the published weights that it is, else unknown.
        description: Markdown, the beginning of the text.
        curves: there is a curves.png beside it.

    Raises:
        InputError: the license is not that of the published weights.
    """
    data = _metadata(repo_id, config, results, license)
    body = '\n\n'.join(
        section.strip() for section in _sections(repo_id, config, results, description, curves) if section
    )
    text = f'---\n{data.to_yaml()}\n---\n\n{body}\n\n{MARK}\n'
    check_card(text, repo_id, config, results)
    return text


def check_card(text: str, repo_id: str, config: Mapping[str, Any], results: Sequence[Mapping[str, Any]]) -> str:
    """Read a card as the Hub does, and compare its license with the publisher's, its metrics with an evaluation.

    Returns:
        the license that it says, '' for none.

    Raises:
        InputError: its metadata is broken, its license is not that of the published weights, or its metrics are not
            those of `results`.
    """
    try:
        data = ModelCard(text).data.to_dict()
        license, found = str(data.get('license', '')), data.get('model-index', ())
    except Exception as error:  # whatever a parser makes of broken metadata
        problem = ' '.join(str(error).split())
        raise InputError(f'the metadata of README.md cannot be read ({problem}); correct it, or remove it') from None
    theirs = published(config)
    if theirs and license.lower() != theirs[1].publisher.license.lower():
        raise InputError(
            f'README.md for {repo_id} says license {license or "nothing"}; these are the weights {theirs[0]}, which are '
            f'under {theirs[1].publisher.license}: correct the card, or remove it to have it written anew'
        )
    said = {
        (result['dataset']['type'], result['dataset'].get('split'), metric.get('name')): metric['value']
        for model in found
        for result in model['results']
        for metric in result['metrics']
    }
    measured = {
        (DATASETS[r['dataset']].repo, r['split'], name): r[key]
        for r in results
        for key, (_, name, _) in METRICS.items()
    }
    if said != measured:
        key = next(key for key in {**measured, **said} if measured.get(key) != said.get(key))
        raise InputError(
            f'README.md for {repo_id} says {said.get(key)} of {", ".join(map(str, key))}; evaluation.json says '
            f'{measured.get(key)}: correct the card, or remove it to have it written anew'
        )
    return license


def published(config: Mapping[str, Any]) -> tuple[str, Weights] | None:
    """The weights of the catalog that a network is, or was converted from, if it is one of them."""
    source = config.get('source', {})
    digests = [f'sha256:{digest}' for digest in (config.get('sha256'), source.get('sha256')) if digest]
    for name, row in WEIGHTS.items():
        if name == source.get('weights') or any(digest.startswith(row.digest) for digest in digests):
            return name, row
    return None


def _metadata(
    repo_id: str, config: Mapping[str, Any], results: Sequence[Mapping[str, Any]], license: str | None
) -> ModelCardData:
    data = ModelCardData(
        license=_license(config, license),
        library_name='timm',
        pipeline_tag='image-classification',
        tags=['image-classification', 'timm', 'transformers', 'resnet-hub', *_datasets(config, results)],
        datasets=[DATASETS[name].repo for name in _datasets(config, results)] or None,
        base_model=_base_model(config),
    )
    if results:
        data.model_name = repo_id.rpartition('/')[2]
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
            for result in results
            for key, (kind, name, _) in METRICS.items()
        ]
    return data


def _license(config: Mapping[str, Any], license: str | None) -> str:
    found = published(config)
    own = found[1].publisher.license if found else 'unknown'
    if found and license and license.lower() != own.lower():
        raise InputError(f'these are the weights {found[0]}, which are under {own}: leave out --license')
    return (license or own).lower()


def _datasets(config: Mapping[str, Any], results: Sequence[Mapping[str, Any]]) -> list[str]:
    """What it was trained on, as far as that is known, and measured on."""
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
    repo_id: str,
    config: Mapping[str, Any],
    results: Sequence[Mapping[str, Any]],
    description: str | None,
    curves: bool,
) -> list[str]:
    return [
        f'# {repo_id.rpartition("/")[2]}',
        description or '',
        _what_it_is(config),
        _figures(results),
        _usage(repo_id, config),
        _training(config, curves),
        _provenance(config),
        _notice(config),
        _citation(config),
    ]


def _what_it_is(config: Mapping[str, Any]) -> str:
    row = ARCHITECTURES[config['architecture']]
    args = {
        k: v for k, v in config.get('model_args', {}).items() if k not in ('num_classes', 'in_chans', 'global_pool')
    }
    changed = ''.join(f', `{_inline(k)}={_inline(repr(v))}`' for k, v in args.items())
    layers, block = args.get('layers', row.layers), _inline(args.get('block', row.block))
    classes = ', '.join(_inline(name) for name in (config.get('label_names') or [])[:10])
    more = ', …' if len(config.get('label_names') or []) > 10 else ''
    return (
        f'`{config["architecture"]}`{changed}: a {row.family.title} for 32×32 images, {sum(layers)} '
        f'{block} blocks, {config["num_classes"]} classes{f" ({classes}{more})" if classes else ""}.'
    )


def _figures(results: Sequence[Mapping[str, Any]]) -> str:
    if not results:
        return ''
    lines = ['| data | split | images | top-1 % | top-5 % | nll |', '| :-- | :-- | --: | --: | --: | --: |']
    for r in results:
        figures = [format(r[key], spec) for key, (_, _, spec) in METRICS.items()]
        lines.append(f'| {r["dataset"]} | {r["split"]} | {r["images"]:,} | {" | ".join(figures)} |')
    return '\n'.join([*lines, '', 'Measured by `resnet-hub evaluate` on the weights of this repository.'])


def _usage(repo_id: str, config: Mapping[str, Any]) -> str:
    channels = config.get('model_args', {}).get('in_chans', 3)
    if channels == 3:
        x = "transform(Image.open('cat.jpg').convert('RGB'))[None]"
    else:
        x = f'torch.rand(1, {channels}, 32, 32)  # normalised images'
    label = "model.pretrained_cfg['label_names'][best]" if config.get('label_names') else 'best'
    blocks = [
        f"""## Use

The architecture comes with [resnet-hub](https://github.com/{GITHUB}): after

```bash
pip install git+https://github.com/{GITHUB}
```

timm and transformers have it, without an import.

```python
import timm
import torch
from PIL import Image

model = timm.create_model('hf-hub:{repo_id}', pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
with torch.inference_mode():
    best = model({x}).argmax().item()
print({label})
```

torch.hub needs no installation:

```python
import torch

model = torch.hub.load('{GITHUB}', '{config['architecture']}', pretrained='hf-hub:{repo_id}', trust_repo=True)
```"""
    ]
    if channels == 3:
        blocks.append(
            f"""transformers:

```python
from transformers import pipeline

classify = pipeline('image-classification', '{repo_id}')
print(classify('cat.jpg'))
```"""
        )
    blocks.append(
        f"""`resnet-hub download {repo_id} -o {repo_id.rpartition('/')[2]}` verifies every file against the digests of the
repository."""
    )
    return '\n\n'.join(blocks)


def _training(config: Mapping[str, Any], curves: bool) -> str:
    if 'recipe' not in config:
        return ''
    recipe = ''.join(f'{_inline(key)} = {json.dumps(value)}\n' for key, value in config['recipe'].items())
    image = '\n\n![loss and learning rate](curves.png)' if curves else ''
    return f'## Training\n\nBy `resnet-hub train` with the recipe\n\n```toml\n{recipe}```{image}'


def _provenance(config: Mapping[str, Any]) -> str:
    cfg, source = config['pretrained_cfg'], config.get('source', {})
    assumed = ', assumed by the number of classes' if config.get('normalisation') == 'assumed' else ''
    lines = [
        f'model.safetensors has SHA-256 `{config["sha256"]}`.',
        f'Images are scaled to 0 … 1 and normalised with mean {tuple(cfg["mean"])} and std {tuple(cfg["std"])}{assumed}.',
    ]
    if source:
        digest = f' (SHA-256 `{_inline(source["sha256"])}`)' if source.get('sha256') else ''
        lines.append(f'Converted by resnet-hub from `{_inline(source.get("name", "a file"))}`{digest}.')
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
    """A value out of a file, for the middle of a line: no line breaks, no Markdown that would end it."""
    return value if isinstance(value, int | float) else ' '.join(str(value).replace('`', "'").replace('|', '/').split())
