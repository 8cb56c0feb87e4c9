"""Counts the user instructions of processes by `perf stat`, on a machine that counts them; virtual ones seldom do."""

import math
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterable
from typing import TypeVar

Result = TypeVar("Result")

PERF = ("perf", "stat", "-x,", "-e", "instructions:u")
"""Prints a line for each kind of core: the count, its unit (none), the event's name, and more."""


def are_counted() -> bool:
    """Return whether this machine counts instructions."""
    if shutil.which(PERF[0]) is None:
        return False
    counted = subprocess.run([*PERF, "true"], capture_output=True, text=True)
    return counted.returncode == 0 and not math.isnan(read_count(counted.stderr))


def count_during(pids: Iterable[int], action: Callable[[], Result]) -> tuple[Result, float]:
    """Run an action; return its result, and the user instructions of some processes while it ran.

    Args:
        pids: of the processes; threads and processes that they start meanwhile count as well.
        action: what is done.

    Returns:
        The result and the count, NaN where the machine does not count instructions.
    """
    if not are_counted():
        return action(), math.nan
    counter = subprocess.Popen([*PERF, "-p", ",".join(map(str, pids))], stderr=subprocess.PIPE, text=True)
    try:
        result = action()
    finally:
        counter.send_signal(signal.SIGINT)
        _, printed = counter.communicate()
    return result, read_count(printed)


def read_count(printed: str) -> float:
    """Return the sum of the counts that `perf stat -x,` has printed, NaN if it has counted nothing."""
    fields = [line.split(",") for line in printed.splitlines()]
    counts = [int(line[0]) for line in fields if len(line) > 2 and "instructions" in line[2] and line[0].isdigit()]
    return float(sum(counts)) if counts else math.nan
