"""Raw: the card's whole path in a plain loop, without a server. It runs in processes of its own.

Every split of the machine into loops over one shared session and threads of a run is tried, and the best counts.
"""

import threading
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil

from loadtests.compare.work import Work
from loadtests.processes import memory_bytes


class Split(NamedTuple):
    """How the machine is divided: loops at the same time, and the threads that each run uses."""

    loops: int
    threads: int

    def __str__(self) -> str:
        return f"{self.loops} × {self.threads}"


class Raw(NamedTuple):
    """The figures of a loop: pictures a second, times and processor time of one picture, and the process's memory."""

    split: Split
    rate: float
    p50_ms: float
    p99_ms: float
    cpu_ms: float
    memory_mib: float


def splits_for_one(cores: int) -> list[Split]:
    """Return the splits that may be the quickest for one picture at a time."""
    return [Split(1, threads) for threads in sorted({1, max(1, cores // 2), cores})]


def splits_for_many(cores: int) -> list[Split]:
    """Return the splits that may get through the most pictures."""
    half = max(1, cores // 2)
    splits = {(cores, 1), (2 * cores, 1), (half, 1), (1, 1), (half, 2), (cores, 2), (1, cores)}
    return [Split(*split) for split in sorted(splits)]


def measure(package: Path, pictures: tuple[bytes, ...], split: Split, seconds: float) -> Raw:
    """Run the loops of one split for so many seconds over a package's model, and return their figures."""
    work = Work(package, split.threads)
    times_s: list[list[float]] = [[] for _ in range(split.loops)]
    ready = threading.Barrier(split.loops + 1)

    def loop(index: int) -> None:
        own = times_s[index]
        work(pictures[index % len(pictures)])
        ready.wait()
        stop = time.perf_counter() + seconds
        while (since := time.perf_counter()) < stop:
            work(pictures[(index + len(own)) % len(pictures)])
            own.append(time.perf_counter() - since)

    pool = [threading.Thread(target=loop, args=(index,)) for index in range(split.loops)]
    for thread in pool:
        thread.start()
    ready.wait()
    began, before = time.perf_counter(), time.process_time()
    for thread in pool:
        thread.join()
    cpu_ms = 1e3 * (time.process_time() - before) / sum(map(len, times_s))
    rate = sum(map(len, times_s)) / (time.perf_counter() - began)
    p50, p99 = np.percentile(np.concatenate(times_s) * 1e3, [50, 99])
    return Raw(split, rate, float(p50), float(p99), cpu_ms, memory_bytes(psutil.Process()) / 2**20)


def answers(package: Path, pictures: tuple[bytes, ...]) -> tuple[dict[str, Any], ...]:
    """Return the right answer to each picture."""
    work = Work(package, 1)
    return tuple(work(picture) for picture in pictures)
