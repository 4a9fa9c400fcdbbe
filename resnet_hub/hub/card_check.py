"""Read and check model cards, ours and those that people wrote or edited."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from huggingface_hub import ModelCard

from resnet_hub.tables.datasets import DATASETS
from resnet_hub.tables.weights import WEIGHTS, Weights
from resnet_hub.utils.errors import InputError

MARK = '<!-- Written by resnet-hub from config.json and evaluation.json. Without this line the card is yours. -->'
#: key of evaluation.json: type and name of the metric in the card's metadata, heading and format in its table
METRICS = {
    'top1': ('accuracy', 'top-1 accuracy, %', 'top-1 %', '.2f'),
    'top5': ('accuracy', 'top-5 accuracy, %', 'top-5 %', '.2f'),
    'nll': ('nll', 'negative log-likelihood, nats', 'NLL', '.4f'),
    'ece': ('ece', 'expected calibration error, %', 'ECE %', '.2f'),
}
REQUIRED_METRICS = ('top1', 'top5', 'nll')  #: older evaluations have no others
#: the part of a card that comes from `--description`
DESCRIPTION = re.compile(r'<!-- description -->\n(.*?)\n<!-- /description -->', re.DOTALL)


def is_own_card(text: str) -> bool:
    """Return whether a person wrote or edited a card: it has text after its metadata, and lacks the line `MARK`."""
    return text.lstrip().startswith('---') and MARK not in text and bool(_body(text))


def _body(text: str) -> str:
    """Return the text after the metadata of a card."""
    return re.sub(r'\A\s*---.*?^---\s*$', '', text, flags=re.DOTALL | re.MULTILINE).strip()


def read_license(text: str) -> str | None:
    """Return the license in the metadata of a card; None if it is 'unknown' or missing, or cannot be read."""
    try:
        license = str(_read(text).license or 'unknown').lower()
    except InputError:
        return None
    return None if license == 'unknown' else license


def read_description(text: str) -> str | None:
    """Return the description in a card that `make_card` wrote; None if it has none."""
    found = DESCRIPTION.search(text)
    return found[1] if found else None


def _read(text: str, name: str = 'README.md') -> Any:
    """Read the metadata of a card with huggingface_hub.

    Raises:
        InputError: huggingface_hub cannot read it.
    """
    try:
        return ModelCard(text).data
    except Exception as error:  # of many types, from the YAML parser and from huggingface_hub
        problem = ' '.join(str(error).split())
        raise InputError(f'the metadata of {name} cannot be read ({problem}); correct it, or remove it') from error


def check_card(
    text: str, config: Mapping[str, Any], results: Sequence[Mapping[str, Any]], name: str = 'README.md'
) -> str:
    """Check that a card contradicts neither the publisher's license nor an evaluation.

    A card may have more or fewer figures than the evaluation.

    Args:
        text: the card.
        config: config.json of the network.
        results: entries of evaluation.json.
        name: name of the card in error messages.

    Returns:
        The license in the card; '' if there is none.

    Raises:
        InputError: the metadata is broken, the license is not that of the published weights, or a metric differs from
            the one in `results`.
    """
    data = _read(text, name)
    license = str(data.license or '')
    theirs = published(config)
    if theirs and license.lower() != theirs[1].publisher.license.lower():
        raise InputError(
            f'{name} says license {license or "nothing"}; these are the weights {theirs[0]}, which are under '
            f'{theirs[1].publisher.license}: correct the card, or remove it to have it written anew'
        )
    said = {(r.dataset_type, r.dataset_split, r.metric_name): r.metric_value for r in data.eval_results or ()}
    for result in (result for result in results if result['dataset'] in DATASETS):
        for key, (_, metric, *_) in METRICS.items():
            value = said.get((DATASETS[result['dataset']].repo, result['split'], metric))
            if key in result and value not in (None, result[key]):
                raise InputError(
                    f'{name} says {value} of {result["dataset"]}, {result["split"]}, {metric}; evaluation.json says '
                    f'{result[key]}: correct the card, or remove it to have it written anew'
                )
    return license


def published(config: Mapping[str, Any]) -> tuple[str, Weights] | None:
    """Return the name and row of the published weights that a network has or was converted from; None for others."""
    source = config.get('source', {})
    digests = [f'sha256:{digest}' for digest in (config.get('sha256'), source.get('sha256')) if digest]
    for name, row in WEIGHTS.items():
        if name == source.get('weights') or any(digest.startswith(row.digest) for digest in digests):
            return name, row
    return None
