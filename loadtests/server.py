"""A Vitrine server of a measurement's own: on a free port of the loopback, stopped by its process id."""

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from loadtests.processes import Tree, started

ROOT = Path(__file__).resolve().parent.parent
EXPLAINER_LOADS_S = 8.0
"""Seconds after the service is ready until its Grad-CAM runner has loaded as well."""


def free_port() -> int:
    """Return a TCP port that nothing listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_ready(port: int, process: subprocess.Popen[bytes], timeout_s: float) -> None:
    """Return once /readyz answers 200.

    Raises:
        RuntimeError: the process ended, or the time ran out, before the server was ready.
    """
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"the server ended with code {process.returncode} before it was ready")
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=2):
                return
        except OSError:
            time.sleep(0.05)
    raise RuntimeError(f"not ready after {timeout_s:.0f} s")


@contextmanager
def running(
    command: list[str], cwd: Path, port: int, timeout_s: float, settings: Mapping[str, str] | None = None
) -> Iterator[tuple[Tree, float]]:
    """Run a server command until the block ends; yield its processes and the seconds it took to be ready.

    Args:
        command: the server.
        cwd: where to run it.
        port: where it listens.
        timeout_s: how long it may take to be ready.
        settings: `VITRINE_*` variables beside those of every measurement.
    """
    common = {
        "VITRINE_PORT": str(port),
        "BENTOML_DO_NOT_TRACK": "True",
        "VITRINE_ACCESS_LOG": "false",
        "VITRINE_GRPC_PORT": "0",
    }
    began = time.perf_counter()
    with started(command, common | dict(settings or {}), cwd, Path(os.devnull)) as tree:
        wait_ready(port, tree.process, timeout_s)
        yield tree, time.perf_counter() - began


def serve_command(port: int) -> list[str]:
    """Return the command that serves this folder."""
    bentoml = str(Path(sys.executable).with_name("bentoml"))
    return [bentoml, "serve", "--host", "127.0.0.1", "--port", str(port)]


@contextmanager
def serving(port: int, settings: Mapping[str, str] | None = None) -> Iterator[tuple[Tree, float]]:
    """Run `bentoml serve` of this folder, as `running` does."""
    with running(serve_command(port), ROOT, port, 120, settings) as server:
        yield server
