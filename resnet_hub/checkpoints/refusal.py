"""How a file is refused: in one line that names the tensor, what it shows and what to do."""

from __future__ import annotations

import re
from typing import Any, NoReturn

from resnet_hub.checkpoints import layouts
from resnet_hub.utils.errors import InputError

OTHER = 'it is of another network than ours; use it with the code that trained it'
INCOMPLETE = 'the file is incomplete; take another copy'


def refuse(message: str) -> NoReturn:
    raise InputError(' '.join(message.split()))


def show(key: object) -> str:
    """A name out of a file, short and on one line."""
    text = str(key)
    text = text if text.isprintable() else ascii(text)
    return text if len(text) <= 90 else f'{text[:60]}…{text[-25:]}'


def refuse_tensor(key: str, detail: str = '') -> NoReturn:
    """Refuse a tensor that no network of ours has, and say what it hints at."""
    key = key.lstrip('.')
    hint = next((what for pattern, what in layouts.OTHER_NETWORKS if re.search(pattern, key)), 'an unknown layer')
    refuse(f'{show(key)}{detail} belongs to no network of ours; it shows {hint}: {OTHER}')


def refuse_shape(key: str, found: Any, expected: str, grouped: bool = False) -> NoReturn:
    found = tuple(found)
    hint = ''
    if grouped and len(found) == 4 and f'({found[0]}, ' in expected and f', {found[2]}, {found[3]})' in expected:
        hint = ' (a grouped convolution, as in ResNeXt, or pruned channels?)'
    refuse(f'{show(key)} has shape {found}, where {expected} was expected{hint}: {OTHER}')
