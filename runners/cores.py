"""How many cores this process may use, by its affinity and its cgroup's quota, and which share of them is free."""

import os
import threading
from collections.abc import Callable
from math import ceil
from pathlib import Path

from runners.cgroups import cgroups, read_lines


class CoreShare:
    """The cores of one process, shared by all lanes of all its Runners.

    A lane enters it while it works. A lane that works alone may use all cores, one in a crowd a single core.

    Args:
        available: the number of cores.
        works_beside: returns whether another process works for this one just now.
    """

    def __init__(self, available: int, works_beside: Callable[[], bool] = lambda: False) -> None:
        self.available, self._works_beside = available, works_beside
        self._working_lanes = 0
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        with self._lock:
            self._working_lanes += 1

    def __exit__(self, *exception: object) -> None:
        with self._lock:
            self._working_lanes -= 1

    def cores(self) -> int:
        """Return the number of cores for each lane at work, rounded down, at least 1."""
        return max(1, self.available // max(1, self._working_lanes))

    def is_in_use(self) -> bool:
        """Return whether a lane works, or another process for this one."""
        return self._working_lanes > 0 or self._works_beside()


def available_cores(root: Path = Path("/")) -> int:
    """Return the number of cores for this process: the smaller of its affinity and its quota, rounded up, at least 1.

    Args:
        root: the folder that holds `proc` and `sys`; tests give another one.
    """
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cgroup_quota(root)
    return affinity if quota is None else max(1, min(affinity, ceil(quota)))


def cgroup_quota(root: Path = Path("/")) -> float | None:
    """Return the tightest CPU quota, in cores, of this process's cgroups (v2 or v1) and their parents, or None."""
    quotas = [_quota_v2(folder) if version == 2 else _quota_v1(folder) for version, folder in cgroups("cpu", root)]
    return min((quota for quota in quotas if quota is not None), default=None)


def _quota_v2(folder: Path) -> float | None:
    match "".join(read_lines(folder / "cpu.max")[:1]).split():
        case [quota, period] if quota != "max":
            return int(quota) / int(period)
    return None


def _quota_v1(folder: Path) -> float | None:
    quota, period = read_lines(folder / "cpu.cfs_quota_us"), read_lines(folder / "cpu.cfs_period_us")
    return int(quota[0]) / int(period[0]) if quota and period and int(quota[0]) > 0 else None
