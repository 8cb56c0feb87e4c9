"""A Ray cluster of processes on this machine: a head and further nodes, of one core each, which can be killed."""

import contextlib
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import psutil

from loadtests.server import ROOT, free_port

STORE_BYTES = 100 * 2**20
START_S = 180.0
TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
"""The environment of everybody who may use the cluster."""
HEALTH = {"RAY_health_check_period_ms": "1000", "RAY_health_check_failure_threshold": "8"}
"""A node that is silent for 8 seconds, and not for 15, is taken for dead."""


class Node:
    """One node: the processes of `ray start --block`, in a session of their own.

    Args:
        settings: the environment.
        log: where it writes.
        arguments: of `ray start`.
        core: the core that it is bound to; None for all.
    """

    def __init__(self, settings: Mapping[str, str], log: Path, *arguments: str, core: int | None = None) -> None:
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--num-cpus=1", "--num-gpus=0"]
        command += [f"--object-store-memory={STORE_BYTES}", "--disable-usage-stats", *arguments]
        command = [*([] if core is None else ["taskset", "-c", str(core)]), *command]
        own, self.log = {**settings, "PYTHONPATH": str(ROOT), **TOKEN, **HEALTH}, log
        with log.open("wb") as file:
            self.process = subprocess.Popen(
                command, cwd=ROOT, env=own, stdout=file, stderr=file, start_new_session=True
            )

    def wait_started(self) -> None:
        """Return once it says that it runs; RuntimeError with its log if it does not."""
        deadline = time.monotonic() + START_S
        while "Ray runtime started" not in self.log.read_text():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the node did not start:\n{self.log.read_text()}")
            time.sleep(0.05)

    def kill(self) -> None:
        """Kill all of its processes at once, as a machine that loses power."""
        with contextlib.suppress(psutil.NoSuchProcess):
            own = psutil.Process(self.process.pid)
            for process in [*own.children(recursive=True), own]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


class Cluster:
    """A head and further nodes, of one core each.

    Args:
        settings: the environment of all nodes.
        folder: for Ray's files; its name must be short, since those of sockets are long.
        core: the core that the head is bound to; None for all.

    Attributes:
        address: HOST:PORT of the head.
        nodes: all that were started, the head first.
    """

    def __init__(self, settings: Mapping[str, str], folder: Path, core: int | None = None) -> None:
        self._settings, self._folder, self.nodes = settings, folder, list[Node]()
        port = free_port()
        self.address = f"127.0.0.1:{port}"
        head = ("--head", f"--port={port}", "--node-ip-address=127.0.0.1", "--include-dashboard=false")
        self._start(*head, f"--temp-dir={folder}", core=core)

    def add(self, core: int | None = None) -> Node:
        """Start one more node."""
        return self._start(f"--address={self.address}", "--node-ip-address=127.0.0.1", core=core)

    def stop(self) -> None:
        """Kill all nodes."""
        for node in reversed(self.nodes):
            node.kill()

    def _start(self, *arguments: str, core: int | None) -> Node:
        node = Node(self._settings, self._folder / f"node-{len(self.nodes)}.log", *arguments, core=core)
        self.nodes.append(node)
        node.wait_started()
        return node


@contextlib.contextmanager
def cluster(settings: Mapping[str, str], folder: Path, core: int | None = None) -> Iterator[Cluster]:
    """A cluster of one node until the block ends; arguments as of `Cluster`."""
    started = Cluster(settings, folder, core)
    try:
        yield started
    finally:
        started.stop()
