"""Raw: the card's whole path in a plain loop, without a server. Called in processes of their own.

Every split of the machine is tried, and the best counts: loops over one shared session, and threads a run.
"""

import threading
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil

from loadtests.compare.work import Work


class Split(NamedTuple):
    """How the machine is divided: loops at the same time, and the threads that each run uses."""

    loops: int
    threads: int

    def __str__(self) -> str:
        return f"{self.loops} × {self.threads}"


class Raw(NamedTuple):
    """What a loop came to: pictures a second, the time of one of them, its processor time, the process's memory."""

    split: Split
    rate: float
    p50_ms: float
    p99_ms: float
    cpu_ms: float
    memory_mib: float


def alone(cores: int) -> list[Split]:
    """What may be best for one picture at a time."""
    return [Split(1, threads) for threads in sorted({1, max(1, cores // 2), cores})]


def together(cores: int) -> list[Split]:
    """What may be best for as many pictures as can be."""
    half = max(1, cores // 2)
    splits = {(cores, 1), (2 * cores, 1), (half, 1), (1, 1), (half, 2), (cores, 2), (1, cores)}
    return [Split(*split) for split in sorted(splits)]


def measure(package: Path, pictures: tuple[bytes, ...], split: Split, seconds: float) -> Raw:
    """Run the loops for that long."""
    work = Work(package, split.threads)
    took: list[list[float]] = [[] for _ in range(split.loops)]
    ready = threading.Barrier(split.loops + 1)

    def loop(index: int) -> None:
        own = took[index]
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
    cpu_ms = 1e3 * (time.process_time() - before) / sum(map(len, took))
    rate = sum(map(len, took)) / (time.perf_counter() - began)
    p50, p99 = np.percentile(np.concatenate(took) * 1e3, [50, 99])
    memory = getattr(psutil.Process().memory_full_info(), "pss", 0) or psutil.Process().memory_info().rss
    return Raw(split, rate, float(p50), float(p99), cpu_ms, memory / 2**20)


def answers(package: Path, pictures: tuple[bytes, ...]) -> tuple[dict[str, Any], ...]:
    """The right answer to each picture."""
    work = Work(package, 1)
    return tuple(work(picture) for picture in pictures)
