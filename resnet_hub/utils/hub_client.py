"""What stands between us and the Hub's client: bounded waiting, bounded repetition, one line for every failure."""

from __future__ import annotations

import errno
import json
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import get_session

from resnet_hub.utils.errors import InputError, ResnetHubError

_T = TypeVar('_T')
TIMEOUT = 60.0  #: seconds that the Hub may be silent; the client itself waits for ever
_PAUSES = (1, 3)  #: seconds before an operation is tried again
_LONGEST_PAUSE = 60
_PASSING = {408, 412, 429, 500, 502, 503, 504}  #: answers that may be others next time; 412: somebody else committed
_NO_SPACE = {errno.ENOSPC, errno.EFBIG, errno.EDQUOT}


class DamagedError(ResnetHubError):
    """What arrived is not what was sent."""


def ask(what: str, operation: Callable[[], _T]) -> _T:
    """Run an operation on the Hub that may be repeated as a whole; again where its failure may pass.

    The client repeats some requests by itself (LFS transfers, listings of files), others it sends once: a commit,
    the creation of a repository, its description, a download that is answered by 5xx or comes with the wrong length.

    Args:
        what: what it is about, the beginning of the error: a repository.
        operation: finds out by itself what is left to do.

    Raises:
        InputError, ResnetHubError: one line for any failure that is not a bug.
    """
    for pause in (*_PAUSES, None):
        try:
            with _time_limit():
                return operation()
        except Exception as error:
            if pause is None or not _may_pass(error):
                line = _explain(error)
                if line is None:
                    raise
                kind = InputError if isinstance(error, HFValidationError) else ResnetHubError
                raise kind(f'{what}: {line}') from None
            time.sleep(min(max(pause, _retry_after(error)), _LONGEST_PAUSE))
    raise AssertionError('unreachable')


@contextmanager
def _time_limit() -> Iterator[None]:
    """Most requests of the client have no limit, some say so explicitly: what they lack is set as they leave."""
    session = get_session()
    before = session.event_hooks
    session.event_hooks = {**before, 'request': [*before.get('request', ()), _limit]}
    try:
        yield
    finally:
        session.event_hooks = before


def _limit(request: Any) -> None:
    given = request.extensions.get('timeout', {})
    limits = {kind: given.get(kind) or TIMEOUT for kind in ('connect', 'read', 'write', 'pool')}
    request.extensions['timeout'] = limits


def _cause(error: BaseException) -> BaseException:
    """The failure of a request, out of what the client wraps around it."""
    wrapped = isinstance(error, LocalEntryNotFoundError) or _is_failed_transfer(error)
    return _cause(error.__cause__) if wrapped and error.__cause__ else error


def _is_failed_transfer(error: BaseException) -> bool:
    return isinstance(error, RuntimeError) and str(error).startswith('Error while uploading')


def _is_refused_transfer(error: BaseException) -> bool:
    """The store found other bytes than the digest that was announced."""
    return _is_failed_transfer(error) and _status(_cause(error)) in (400, 422)


def _status(error: BaseException) -> int | None:
    return error.response.status_code if isinstance(error, HfHubHTTPError) else None


def is_network(error: BaseException) -> bool:
    """An error of httpx, which huggingface_hub 2 imports as httpx2, or what Xet makes of its own."""
    of_httpx = any(base.__module__.startswith('httpx') for base in type(error).__mro__)
    of_xet = isinstance(error, ConnectionError | TimeoutError) and not isinstance(error, OfflineModeIsEnabled)
    return _status(error) is None and (of_httpx or of_xet)


def _in_client(error: BaseException) -> bool:
    """Whether it comes out of the client, or out of Xet, which has no frames of Python."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return bool(frames) and frames[-1].f_globals['__name__'].startswith('huggingface_hub')


def _is_garbled(error: BaseException) -> bool:
    """An answer that is no JSON, or lacks what the client looks up in it."""
    decoding = isinstance(error, json.JSONDecodeError | UnicodeDecodeError)
    return decoding or (isinstance(error, KeyError) and _in_client(error))


def _is_broken_transfer(error: BaseException) -> bool:
    """As Xet tells of whatever is neither the network's nor the token's failure."""
    return type(error) is RuntimeError and _in_client(error)


def _may_pass(error: BaseException) -> bool:
    cause = _cause(error)
    wrong_length = isinstance(cause, OSError) and 'Consistency check failed' in str(cause)
    passing = _status(cause) in _PASSING or _is_refused_transfer(error) or wrong_length
    return isinstance(cause, DamagedError) or passing or is_network(cause) or _is_garbled(cause)


def _retry_after(error: BaseException) -> int:
    cause = _cause(error)
    value = cause.response.headers.get('Retry-After', '') if isinstance(cause, HfHubHTTPError) else ''
    return int(value) if value.isdigit() else 0


def _explain(error: BaseException) -> str | None:
    """What happened and what to do, in one line; None for what is no failure of the Hub, the network or the disk."""
    if _is_refused_transfer(error):
        return 'what arrived at the Hub is not what was sent; run it again'
    error = _cause(error)
    for kind, sentence in _SENTENCES:
        if isinstance(error, kind):
            return sentence
    status = _status(error)
    if status is not None:
        reason = getattr(error, 'server_message', None) or ''
        return _STATUS.get(status, f'the Hub refuses it ({status} {" ".join(reason.split())}); check the request')
    if isinstance(error, DamagedError):
        return str(error)
    if is_network(error):
        return f'the Hub cannot be reached ({type(error).__name__}); check the connection and run it again'
    if isinstance(error, OSError) and error.errno in _NO_SPACE:
        return f'no space left to write to ({error.strerror}); free some and run it again'
    if isinstance(error, HFValidationError):
        return f'{" ".join(str(error).split())}; a repository is called OWNER/NAME'
    if isinstance(error, ValueError) and str(error).startswith(('Invalid metadata', 'LFS batch API')):
        return f'the Hub refuses it ({" ".join(str(error).split())}); correct that and run it again'
    if _is_garbled(error):
        return 'the answers of the Hub cannot be read; check HF_ENDPOINT and run it again'
    if _is_broken_transfer(error):
        return f'the transfer failed ({" ".join(str(error).split())}); run it again'
    if type(error).__name__ == 'XetAuthenticationError':  # of a package that may not be there
        return _STATUS[401]
    if isinstance(error, OSError):
        return f'{" ".join(str(error).split())}; see to that and run it again'
    return None


#: failures by the client's own kinds, special before general
_SENTENCES: tuple[tuple[type[BaseException], str], ...] = (
    (OfflineModeIsEnabled, 'HF_HUB_OFFLINE is set; unset it to reach the Hub'),
    (
        LocalEntryNotFoundError,
        'the Hub cannot be reached, and the cache has not all of it; check the connection and HF_HUB_OFFLINE',
    ),
    (GatedRepoError, 'access is restricted; ask for it on the page of the repository, then run it again'),
    (RevisionNotFoundError, 'it has no such revision; its page lists the branches and tags'),
    (RepositoryNotFoundError, 'no such repository, or a private one; check the name, and log in with `hf auth login`'),
    (EntryNotFoundError, 'a file is not there; check the name and revision of the repository'),
)

_STATUS = {
    401: 'the token is missing or not valid; log in with `hf auth login` or set HF_TOKEN, and run it again',
    403: 'the token may not do that; take one with write access to this repository (`hf auth login`)',
    412: 'somebody else keeps committing to it; run it again later',
    429: 'too many requests; wait a few minutes and run it again',
    **dict.fromkeys((500, 502, 503, 504), 'the Hub is out of order; run it again later'),
}
