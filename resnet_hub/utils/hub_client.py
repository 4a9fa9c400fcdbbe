"""Run operations on the Hub with time limits and retries, and explain every failure in one line."""

from __future__ import annotations

import errno
import json
import socket
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar
from urllib.request import getproxies, proxy_bypass

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
TIMEOUT = 60.0  #: seconds without an answer of the Hub after which a request fails; huggingface_hub has no limit
_CONNECT_TIMEOUT = 10.0  #: seconds that the first connection to a host may take
_PAUSES = (1, 3)  #: seconds before the second and the third attempt
_LONGEST_PAUSE = 60  #: seconds, also where the Hub asks for more
_PASSING = {408, 412, 429, 500, 502, 503, 504}  #: statuses worth a retry; 412: somebody else committed in between
_NO_SPACE = {errno.ENOSPC, errno.EFBIG, errno.EDQUOT}


class DamagedError(ResnetHubError):
    """The bytes that arrived are not the bytes that were sent."""


class HubUnreachableError(OfflineModeIsEnabled):
    """The host of a request cannot be resolved or connected to.

    huggingface_hub does the same as in its offline mode: it does not try again, and takes what its cache has.
    """


def ask(what: str, operation: Callable[[], _T]) -> _T:
    """Run an operation on the Hub. Run it again, up to twice, after a failure that may be temporary.

    huggingface_hub repeats some requests by itself: LFS transfers, listings of files. It does not repeat a commit, the
    creation of a repository, the request for its description, or a download that fails with a status of 500 or more
    or with a wrong length.

    Args:
        what: the repository, with which the error message begins.
        operation: may be called several times; it must find out by itself what is left to do.

    Returns:
        What `operation` returns.

    Raises:
        InputError: the name of the repository is not valid.
        ResnetHubError: the operation failed. The message is one line. Errors that look like a bug are raised unchanged.
    """
    for pause in (*_PAUSES, None):
        try:
            with time_limit():
                return operation()
        except Exception as error:
            if pause is None or not _may_pass(error):
                line = _explain(error)
                if line is None:
                    raise
                kind = InputError if isinstance(error, HFValidationError) else ResnetHubError
                raise kind(f'{what}: {line}') from error
            time.sleep(min(max(pause, _retry_after(error)), _LONGEST_PAUSE))
    raise AssertionError('unreachable')


_lock = threading.Lock()
_running = 0  #: number of `ask` calls in progress, in all threads
_reached: set[tuple[str, int]] = set()  #: hosts and ports that were reachable since the first of these calls began


@contextmanager
def time_limit() -> Iterator[None]:
    """Give every request a time limit while the block runs. Blocks may overlap in several threads.

    Most requests of huggingface_hub have no limit, and some ask for none explicitly. Therefore a hook sets the limit
    just before a request is sent. The hook stays in the session, which the whole process shares, and does nothing
    while no block runs.
    """
    global _running
    session = get_session()
    with _lock:
        if not _running:
            _reached.clear()
        _running += 1
        hooks = session.event_hooks
        if _limit not in hooks.get('request', ()):
            session.event_hooks = {**hooks, 'request': [*hooks.get('request', ()), _limit]}
    try:
        yield
    finally:
        with _lock:
            _running -= 1


def _limit(request: Any) -> None:
    if not _running:
        return
    given = request.extensions.get('timeout', {})
    limits = {kind: given.get(kind) or TIMEOUT for kind in ('connect', 'read', 'write', 'pool')}
    request.extensions['timeout'] = limits
    _check_reachable(request.url)


def _check_reachable(url: Any) -> None:
    """Try once to connect to a host that is new. huggingface_hub would try several times, for 24 seconds.

    Raises:
        HubUnreachableError: the host cannot be resolved or connected to.
    """
    host, port = url.host, url.port or {'http': 80, 'https': 443}[url.scheme]
    if (host, port) in _reached or (getproxies().get(url.scheme) and not proxy_bypass(host)):  # a proxy resolves names
        return
    try:
        socket.create_connection((host, port), timeout=min(TIMEOUT, _CONNECT_TIMEOUT)).close()
    except OSError as error:
        raise HubUnreachableError(f'{host}: {error.strerror or error}') from error
    _reached.add((host, port))


def explain_refusal(error: BaseException) -> str | None:
    """Return what happened and what to do if the Hub or the connection caused `error`; None for other causes."""
    of_hub = isinstance(error, HfHubHTTPError | LocalEntryNotFoundError | OfflineModeIsEnabled | HFValidationError)
    return _explain(error) if of_hub or is_network(error) else None


def _cause(error: BaseException) -> BaseException:
    """Return the error of the request itself, without the errors that huggingface_hub wraps around it."""
    wrapped = isinstance(error, LocalEntryNotFoundError) or _is_failed_transfer(error)
    return _cause(error.__cause__) if wrapped and error.__cause__ else error


def _is_failed_transfer(error: BaseException) -> bool:
    return isinstance(error, RuntimeError) and str(error).startswith('Error while uploading')


def _is_refused_transfer(error: BaseException) -> bool:
    """Return whether the Hub's storage received bytes whose digest differs from the announced one."""
    return _is_failed_transfer(error) and _status(_cause(error)) in (400, 422)


def _status(error: BaseException) -> int | None:
    return error.response.status_code if isinstance(error, HfHubHTTPError) else None


def is_network(error: BaseException) -> bool:
    """Return whether an error comes from httpx (httpx2 in huggingface_hub 2), or from Xet for the same reasons."""
    of_httpx = any(base.__module__.startswith('httpx') for base in type(error).__mro__)
    of_xet = isinstance(error, ConnectionError | TimeoutError) and not isinstance(error, OfflineModeIsEnabled)
    return _status(error) is None and (of_httpx or of_xet)


def _in_client(error: BaseException) -> bool:
    """Return whether huggingface_hub raised an error, or Xet below it, which has no Python frames of its own."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return bool(frames) and frames[-1].f_globals['__name__'].startswith('huggingface_hub')


def _is_garbled(error: BaseException) -> bool:
    """Return whether an answer was not JSON, or lacked a key that huggingface_hub looked up."""
    decoding = isinstance(error, json.JSONDecodeError | UnicodeDecodeError)
    return decoding or (isinstance(error, KeyError) and _in_client(error))


def _is_broken_transfer(error: BaseException) -> bool:
    """Return whether Xet failed for a reason that is neither the network nor the token."""
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
    """Return what happened and what to do, in one line; None if neither the Hub, the network nor the disk failed."""
    if _is_refused_transfer(error):
        return 'what arrived at the Hub is not what was sent; run it again'
    error = _cause(error)
    if isinstance(error, HubUnreachableError):
        return f'the Hub cannot be reached ({error}); check the connection and run it again'
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
        return f'there is no space left on the disk ({error.strerror}); free some and run it again'
    if isinstance(error, HFValidationError):
        return f'{" ".join(str(error).split())}; a repository is called OWNER/NAME'
    if isinstance(error, ValueError) and str(error).startswith(('Invalid metadata', 'LFS batch API')):
        return f'the Hub refuses it ({" ".join(str(error).split())}); correct that and run it again'
    if _is_garbled(error):
        return 'the answer of the Hub is not what the Hub sends; check HF_ENDPOINT and run it again'
    if _is_broken_transfer(error):
        return f'the transfer failed ({" ".join(str(error).split())}); run it again'
    if type(error).__name__ == 'XetAuthenticationError':  # by name, because its package may not be installed
        return _STATUS[401]
    if isinstance(error, OSError):
        return f'{" ".join(str(error).split())}; correct this and run it again'
    return None


#: what huggingface_hub's own errors mean; subclasses come before their base classes
_SENTENCES: tuple[tuple[type[BaseException], str], ...] = (
    (OfflineModeIsEnabled, 'HF_HUB_OFFLINE is set; unset it to reach the Hub'),
    (
        LocalEntryNotFoundError,
        'the Hub cannot be reached, and the cache lacks files; check the connection and HF_HUB_OFFLINE',
    ),
    (GatedRepoError, 'access is restricted; ask for it on the page of the repository, then run it again'),
    (RevisionNotFoundError, 'there is no such revision; the page of the repository lists its branches and tags'),
    (RepositoryNotFoundError, 'no such repository, or a private one; check the name, and log in with `hf auth login`'),
    (EntryNotFoundError, 'a file is not there; check the name and revision of the repository'),
)

_STATUS = {
    401: 'the token is missing or not valid; log in with `hf auth login` or set HF_TOKEN, and run it again',
    403: 'the token lacks this right; use one with write access to this repository (`hf auth login`)',
    412: 'somebody else keeps committing to this repository; run it again later',
    429: 'too many requests; wait a few minutes and run it again',
    **dict.fromkeys((500, 502, 503, 504), 'the Hub does not work at the moment; run it again later'),
}
