"""Memory that the process keeps while it trains."""

import platform
import resource
from pathlib import Path

import pytest
import torch

from resnet_hub.utils.memory import keep_freed_memory

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != 'glibc', reason='for glibc')
SIZE = 2**26  #: bytes


def new_pages():
    """Make and free a tensor, and return how many pages the kernel had to give for it."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.zeros(SIZE, dtype=torch.uint8).add_(1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def resident():
    """Return how many bytes of memory the process has."""
    return int(Path('/proc/self/statm').read_text().split()[1]) * resource.getpagesize()


def test_freed_memory_is_used_again_and_returned_at_the_end():
    new_pages()
    usual = new_pages()
    with keep_freed_memory():
        # now and then a small object takes the beginning of the freed memory, so that the next tensor does not fit
        assert min(new_pages() for _ in range(10)) < usual / 5
        kept = resident()
    assert resident() < kept - SIZE / 2
    assert new_pages() > usual / 2
