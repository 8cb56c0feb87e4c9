"""The memory of a process: the limit that the kernel enforces, and giving back what is free."""

import os
from pathlib import Path

import psutil
import pytest

from runners.memory import memory_limit, trim_memory
from tests.runners.test_cores import tree

MACHINE = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


@pytest.mark.parametrize(
    ("files", "limit"),
    [
        ({}, MACHINE),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "max\n"}, MACHINE),
        ({"proc/self/cgroup": "0::/pod/app\n", "sys/fs/cgroup/pod/app/memory.max": "1000000\n"}, 1_000_000),
        (
            {
                "proc/self/cgroup": "0::/pod/app\n",
                "sys/fs/cgroup/pod/app/memory.max": "max\n",
                "sys/fs/cgroup/pod/memory.max": "2000000\n",
            },
            2_000_000,
        ),
        (
            {
                "proc/self/cgroup": "4:memory:/x\n3:cpu,cpuacct:/x\n",
                "sys/fs/cgroup/memory/x/memory.limit_in_bytes": "9223372036854771712\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "3000000\n",
            },
            3_000_000,
        ),
        (
            {
                "proc/self/cgroup": "4:memory:/x\n",
                "sys/fs/cgroup/memory/x/memory.limit_in_bytes": "9223372036854771712\n",
            },
            MACHINE,
        ),
    ],
    ids=["no cgroup", "none", "version 2", "a parent's", "version 1", "version 1 without"],
)
def test_the_limit_is_the_tightest_of_the_cgroups_and_the_machine(
    tmp_path: Path, files: dict[str, str], limit: int
) -> None:
    assert memory_limit(tree(tmp_path, files)) == limit


def test_memory_that_was_freed_goes_back_to_the_system() -> None:
    process, kept = psutil.Process(), list[bytes]()
    for _ in range(10_000):  # small enough for the heap; every other one stays, so that it cannot shrink at its end
        freed, last = bytes(20_000), bytes(600)
        kept.append(last)
        kept.append(freed)
    before = process.memory_info().rss
    del kept[1::2], freed
    trim_memory()
    assert process.memory_info().rss < before - 100_000_000
