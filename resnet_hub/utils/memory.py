"""Control how the C library returns memory to the system."""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Iterator
from contextlib import contextmanager

# parameters of `mallopt`, https://man7.org/linux/man-pages/man3/mallopt.3.html
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4
#: glibc adapts the thresholds by itself until a program sets one; it ends with these in a program that frees large tensors
_USUAL = {_MMAP_MAX: 65536, _MMAP_THRESHOLD: 32 * 2**20, _TRIM_THRESHOLD: 64 * 2**20}


@contextmanager
def keep_freed_memory() -> Iterator[None]:
    """Let the process keep the memory that it frees in the block, and return that memory to the system at the end.

    Usually glibc returns large tensors to the system as soon as they are freed. The next training step then gets the same
    memory back page by page, cleared by the kernel, which takes 5 to 9 % of the time on a processor. Other C libraries
    than glibc are left as they are.
    """
    if platform.libc_ver()[0] != 'glibc':
        yield
        return
    libc = ctypes.CDLL(None)
    libc.mallopt(_MMAP_MAX, 0)  # take large tensors from the heap too
    libc.mallopt(_TRIM_THRESHOLD, 2**31 - 1)  # never return the heap's end
    try:
        yield
    finally:
        for parameter, value in _USUAL.items():
            libc.mallopt(parameter, value)
        libc.malloc_trim(ctypes.c_size_t(0))
