"""A Ray cluster of processes on this machine: a head and nodes with one core each, which can be killed."""

import contextlib
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil

from tests.conftest import ROOT
from tests.live.server import environment, free_ports, wait_until

STORE_BYTES = 100 * 2**20
TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
"""The environment of everybody who may use the cluster."""
HEALTH = {"RAY_health_check_period_ms": "1000", "RAY_health_check_failure_threshold": "8"}
"""A node that is silent for 8 seconds, and not for 15, is taken for dead."""


class Node:
    """One node: the processes of `ray start --block`, in a session of their own."""

    def __init__(self, home: Path, log: Path, *arguments: str) -> None:
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--num-cpus=1", "--num-gpus=0"]
        command += [f"--object-store-memory={STORE_BYTES}", "--disable-usage-stats", *arguments]
        settings = environment(home) | {"PYTHONPATH": str(ROOT)} | TOKEN | HEALTH
        self.log = log
        with log.open("wb") as file:
            self.process = subprocess.Popen(
                command, cwd=ROOT, env=settings, stdout=file, stderr=file, start_new_session=True
            )

    def wait_started(self) -> None:
        """Return once it says that it runs; fail with its log if it ends."""

        def started() -> bool:
            assert self.process.poll() is None, self.log.read_text()
            return "Ray runtime started" in self.log.read_text()

        wait_until(started, 120)

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

    Attributes:
        address: HOST:PORT of the head.
        nodes: all that were started, the head first.
    """

    def __init__(self, home: Path, folder: Path) -> None:
        self._home, self._folder, self.nodes = home, folder, list[Node]()
        (port,) = free_ports(1)
        self.address = f"127.0.0.1:{port}"
        temporary = f"--temp-dir={folder}"  # Ray's sockets have long names, so the folder's must be short
        head = ("--head", f"--port={port}", "--node-ip-address=127.0.0.1", "--include-dashboard=false", temporary)
        self._start(*head).wait_started()

    def add(self) -> Node:
        """Start one more node."""
        return self._start(f"--address={self.address}", "--node-ip-address=127.0.0.1")

    def stop(self) -> None:
        """Kill all nodes."""
        for node in reversed(self.nodes):
            node.kill()

    def _start(self, *arguments: str) -> Node:
        node = Node(self._home, self._folder / f"node-{len(self.nodes)}.log", *arguments)
        self.nodes.append(node)
        return node


@contextlib.contextmanager
def cluster(home: Path, folder: Path) -> Iterator[Cluster]:
    """A cluster of one node until the block ends."""
    started = Cluster(home, folder)
    try:
        yield started
    finally:
        started.stop()
