"""Raw: the card's whole path in a plain loop, without a server. It runs in processes of its own.

Every split of the machine into loops over one shared session and threads of a run is tried, and the best counts.
"""

import os
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil

from loadtests.clients import Call, call_in_threads, from_place
from loadtests.compare.load import Load
from loadtests.compare.work import Work
from loadtests.instructions import count_during
from loadtests.processes import memory_bytes


class Split(NamedTuple):
    """How the machine is divided: loops at the same time, and the threads that each run uses."""

    loops: int
    threads: int

    def __str__(self) -> str:
        return f"{self.loops} × {self.threads}"


class Raw(NamedTuple):
    """The figures of the loops of one split, and the memory of their process."""

    split: Split
    load: Load
    memory_mib: float


def splits_for_one(cores: int) -> list[Split]:
    """Return the splits that may be the quickest for one payload at a time."""
    return [Split(1, threads) for threads in sorted({1, max(1, cores // 2), cores})]


def splits_for_many(cores: int) -> list[Split]:
    """Return the splits that may get through the most payloads."""
    half = max(1, cores // 2)
    splits = {(cores, 1), (2 * cores, 1), (half, 1), (1, 1), (half, 2), (cores, 2), (1, cores)}
    return [Split(*split) for split in sorted(splits)]


def measure(package: Path, payloads: tuple[bytes, ...], split: Split, seconds: float) -> Raw:
    """Run the loops of one split for so many seconds over a package's model, and return their figures."""
    work = Work(package, split.threads)
    work(payloads[0])

    def new_call(index: int) -> Call:
        own = from_place(payloads, index)
        return lambda: work(next(own))

    before = time.process_time()
    calls, instructions = count_during([os.getpid()], lambda: call_in_threads(new_call, split.loops, seconds))
    count = len(calls.latencies_s)
    cpu_ms = 1e3 * (time.process_time() - before) / count
    p50, p99 = np.percentile(np.array(calls.latencies_s) * 1e3, [50, 99])
    load = Load(calls.rate, float(p50), float(p99), 0, 0, cpu_ms=cpu_ms, instructions=instructions / count)
    return Raw(split, load, memory_bytes(psutil.Process()) / 2**20)


def answers(package: Path, payloads: tuple[bytes, ...]) -> tuple[dict[str, Any], ...]:
    """Return the right answer to each payload."""
    work = Work(package, 1)
    return tuple(work(payload) for payload in payloads)
