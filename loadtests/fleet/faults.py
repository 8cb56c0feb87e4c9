"""What is done to one replica of a fleet, and undone."""

import signal
from collections.abc import Callable
from contextlib import ExitStack

from loadtests.fleet.replicas import Fleet

Fault = Callable[[Fleet, str], Callable[[], object]]
"""Does something to a replica, and returns what undoes it."""


def kill(running: Fleet, name: str) -> Callable[[], object]:
    """Kill every process of a replica with SIGKILL."""
    running.signal(name, signal.SIGKILL)

    def undo() -> None:
        running.end(name)
        running.start(name, running.versions[0])

    return undo


def stop(running: Fleet, name: str) -> Callable[[], object]:
    """Stop every process of a replica: its connections stay open, and nothing comes over them."""
    running.signal(name, signal.SIGSTOP)
    return lambda: running.signal(name, signal.SIGCONT)


def cut(running: Fleet, name: str) -> Callable[[], object]:
    """Pull a replica's cable: packets are lost, and nobody is told."""
    running.hosts[name].plug("down")
    return lambda: running.hosts[name].plug("up")


def slow(running: Fleet, name: str) -> Callable[[], object]:
    """Give a replica a tenth of the time."""
    stack = ExitStack()
    stack.enter_context(running.throttled(name, 0.1))
    return stack.close


KILLED, CUT = "killed (SIGKILL)", "cut off the network"
FAULTS: dict[str, Fault] = {
    KILLED: kill,
    "stopped (SIGSTOP)": stop,
    CUT: cut,
    "slowed to a tenth": slow,
}
