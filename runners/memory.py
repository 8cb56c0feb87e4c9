"""How much memory this process may use, and giving back to the system what it no longer uses."""

import ctypes
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path

from runners.cgroups import cgroups, read_lines

LIMIT_FILES = {1: "memory.limit_in_bytes", 2: "memory.max"}
"""The file of a cgroup's limit, by the version of cgroups."""
LARGE_BLOCK_BYTES = 8 * 2**20
_M_MMAP_THRESHOLD = -3


def memory_limit(root: Path = Path("/")) -> int:
    """Return the bytes of memory for this process: the tightest limit of its cgroups, at most the machine's memory.

    Args:
        root: the folder that holds `proc` and `sys`; tests give another one.
    """
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for version, folder in cgroups("memory", root):
        text = "".join(read_lines(folder / LIMIT_FILES[version])[:1])
        if text.isdigit():  # not `max`
            limits.append(int(text))
    return min(limits)


def trim_memory() -> None:
    """Give memory that was freed back to the system, which glibc's allocator keeps for later; elsewhere do nothing.

    It takes a millisecond for each few megabytes, and other threads that allocate wait meanwhile.
    """
    if (trim := _malloc_trim()) is not None:
        trim(0)


def map_large_blocks() -> None:
    """Have glibc's allocator give every block of `LARGE_BLOCK_BYTES` back as soon as it is freed; elsewhere do nothing.

    Left alone it raises that limit to 32 MiB, and keeps what pictures of megapixels took in each thread's own heap.
    """
    if (mallopt := getattr(ctypes.CDLL(None), "mallopt", None)) is not None:
        mallopt(_M_MMAP_THRESHOLD, LARGE_BLOCK_BYTES)


@cache
def _malloc_trim() -> Callable[[int], int] | None:
    function: Callable[[int], int] | None = getattr(ctypes.CDLL(None), "malloc_trim", None)
    return function
