"""How many lanes and threads this machine pays for: from the cgroup's quota, not the host's core count."""

import os
import threading
from dataclasses import dataclass
from math import ceil
from pathlib import Path

from models.card import Card, ImageCard


@dataclass(frozen=True)
class CpuPlan:
    """What one Runner gets.

    lanes: threads that each carry an item all the way.
    widths: threads of the sessions that are kept; a lane takes the narrowest that keeps its share of the cores busy.
    max_batch: items a run.
    linger_ms: how long a batch that is not full is held back.
    decoders: threads that decode the items of one batch side by side, 0 for the lane's own.

    One single-threaded run a core is what a convolutional net likes best on a CPU, and batches do not help it
    (`make bench` prints the raw loop for comparison), so an image model gets a lane a core and batches of one. A lane
    that is alone would leave the other cores idle, so there is a session over all of them too. What takes
    microseconds, most of them Python's (a network of rows, a tiny one of pictures), gets one lane that runs all that
    waits: more would only contend for the interpreter. A tiny image model answered 1,250 requests/s so, 840 with four.
    """

    lanes: int
    widths: tuple[int, ...]
    max_batch: int
    linger_ms: float = 0.0
    decoders: int = 0

    def __str__(self) -> str:
        said = f"lanes {self.lanes}, threads {'/'.join(map(str, self.widths))}, batch {self.max_batch}"
        said += f", linger {self.linger_ms:g} ms" if self.linger_ms else ""
        return said + (f", decoders {self.decoders}" if self.decoders else "")


WIDEST = 16
"""Threads of the widest session; more were never measured, and B4's operators are small."""
CHEAP_S = 0.001
"""Seconds for one item, decoded and computed by one thread, up to which one lane keeps up with the event loop."""


def plan(card: Card, available: int, device: str = "cpu", item_s: float = 1.0) -> CpuPlan:
    """The plan of one model on `available` cores; `item_s` are the seconds that one thread takes for one item.

    An accelerator wants large batches and one at a time: of two lanes one decodes, by a pool, while the other infers.
    """
    available = max(1, available)
    if device != "cpu":
        return CpuPlan(lanes=2, widths=(1,), max_batch=32, decoders=available)
    if isinstance(card, ImageCard) and item_s > CHEAP_S:
        return CpuPlan(lanes=available, widths=tuple(sorted({min(available, WIDEST), 1}, reverse=True)), max_batch=1)
    # One client's large photos are decoded side by side, so that nobody waits behind all of them.
    return CpuPlan(lanes=1, widths=(1,), max_batch=64, decoders=available if isinstance(card, ImageCard) else 0)


class CoreShare:
    """How many cores a lane may use just now, out of those of the process: all if it is alone, one in a crowd.

    One object for all Runners of a process. Lanes enter it while they are at work.
    """

    def __init__(self, available: int) -> None:
        self.available = available
        self._at_work = 0
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        with self._lock:
            self._at_work += 1

    def __exit__(self, *exception: object) -> None:
        with self._lock:
            self._at_work -= 1

    def cores(self) -> int:
        """Cores for each lane at work, rounded down, at least 1."""
        return max(1, self.available // max(1, self._at_work))


def cores(root: Path = Path("/")) -> int:
    """Cores this process may use: the smaller of its affinity and its cgroup's quota, rounded up, at least 1.

    Args:
        root: where `proc` and `sys` lie; another folder in tests.
    """
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cgroup_quota(root)
    return affinity if quota is None else max(1, min(affinity, ceil(quota)))


def cgroup_quota(root: Path = Path("/")) -> float | None:
    """The tightest CPU quota, in cores, of this process's cgroups and those above (v2 or v1); None if unlimited."""
    quotas = []
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            read, mount = _quota_v2, root / "sys/fs/cgroup"
        elif "cpu" in controllers.split(","):
            read, mount = _quota_v1, root / "sys/fs/cgroup/cpu"
        else:
            continue
        folder = mount / path.lstrip("/")
        for each in (folder, *folder.parents):
            if each == mount.parent:
                break
            if (quota := read(each)) is not None:
                quotas.append(quota)
    return min(quotas, default=None)


def _quota_v2(folder: Path) -> float | None:
    match "".join(_lines(folder / "cpu.max")[:1]).split():
        case [quota, period] if quota != "max":
            return int(quota) / int(period)
    return None


def _quota_v1(folder: Path) -> float | None:
    quota, period = _lines(folder / "cpu.cfs_quota_us"), _lines(folder / "cpu.cfs_period_us")
    return int(quota[0]) / int(period[0]) if quota and period and int(quota[0]) > 0 else None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
