import platform

import psutil
import pytest

from serving.memory import release_freed_memory


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc keeps freed memory in this way")
def test_memory_that_was_freed_goes_back_to_the_system() -> None:
    resident = psutil.Process().memory_info
    blocks = [bytearray(8192) for _ in range(20_000)]
    kept = bytearray(8192)  # lies at the end of the heap, so that glibc cannot shorten the heap by itself
    full = resident().rss

    del blocks
    release_freed_memory()

    assert full - resident().rss > 100 * 2**20
    assert len(kept) == 8192
