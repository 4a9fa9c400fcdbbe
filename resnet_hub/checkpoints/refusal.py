"""Refuse a file with one line: which tensor is wrong, what it shows, and what to do."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NoReturn

from resnet_hub.checkpoints.vocabulary import OTHER_NETWORKS
from resnet_hub.utils.errors import InputError

OTHER = 'the file holds a different network; use it with the code that trained it'
INCOMPLETE = 'the file is incomplete; take another copy'


def refuse(message: str) -> NoReturn:
    """Raise InputError with a message on one line."""
    raise InputError(' '.join(message.split()))


def show(key: object) -> str:
    """Return a name from a file, shortened and on one line."""
    text = str(key)
    text = text if text.isprintable() else ascii(text)
    return text if len(text) <= 90 else f'{text[:60]}…{text[-25:]}'


def first_line(error: object, limit: int = 160) -> str:
    """Return the beginning of an error message on one line, without torch's advice to run the pickle."""
    text = str(error)
    if 'WeightsUnpickler error:' in text:
        text = text.partition('WeightsUnpickler error:')[2].strip().partition('\n')[0]
    text = ' '.join(text.split()) or type(error).__name__
    return text if len(text) <= limit else text[:limit] + ' …'


def find_hint(key: str) -> str:
    """Return the kind of network that the name of a tensor shows; '' if it shows none."""
    return next((what for pattern, what in OTHER_NETWORKS if re.search(pattern, key)), '')


def refuse_tensor(key: str, shape: Sequence[int], where: str = 'any network of ours') -> NoReturn:
    """Refuse a tensor that no network of ours has, and name the kind of network that it shows."""
    hint = find_hint(key) or 'an unknown layer'
    refuse(f'{show(key)} of shape {tuple(shape)} has no place in {where}; it shows {hint}: {OTHER}')


def refuse_shape(key: str, found: Sequence[int], expected: Sequence[int]) -> NoReturn:
    """Refuse a tensor whose shape differs from the one that the network needs."""
    found, expected, hint = tuple(found), tuple(expected), ''
    if found[2:] == (7, 7):
        hint = ' (an ImageNet ResNet?)'
    elif len(found) == len(expected) == 4 and found[0] == expected[0] and found[2:] == expected[2:]:
        hint = ' (a grouped convolution, as in ResNeXt, or pruned channels?)'
    elif len(found) == len(expected) == 2 and found[0] == expected[0]:
        hint = ' (another pooling, or an unknown layer before the classifier?)'
    refuse(f'{show(key)} has shape {found}, but {expected} was expected{hint}: {OTHER}')
