"""Memory that the process keeps while it trains."""

import json
import platform

import pytest

CODE = """
import json, resource
from pathlib import Path
from resnet_hub.utils.memory import keep_freed_memory

size = 2**28

def new_pages():  # make and free a large object, and return how many pages the kernel had to give for it
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    bytearray(size)[::4096] = bytes(size // 4096)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident():
    return int(Path('/proc/self/statm').read_text().split()[1]) * resource.getpagesize() / size

usual = new_pages()
with keep_freed_memory():
    new_pages()
    inside = new_pages()
    kept = resident()
print(json.dumps([inside / usual, kept, resident(), new_pages() / usual]))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != 'glibc', reason='for glibc')
def test_freed_memory_is_used_again_and_returned_at_the_end(run_python):
    inside, kept, returned, afterwards = json.loads(run_python(CODE).stdout)
    assert inside < 0.2 and kept > 1
    assert returned < 0.5 and afterwards > 0.5
