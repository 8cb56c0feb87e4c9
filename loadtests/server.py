"""A Vitrine server of one's own for a measurement: on a free port of the loopback, stopped by its process id."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parent.parent


def free_port() -> int:
    """A TCP port that nothing listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_ready(port: int, process: subprocess.Popen[bytes], timeout_s: float) -> None:
    """Return once /readyz answers 200; RuntimeError if the process ends or the time runs out first."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"the server ended with code {process.returncode} before it was ready")
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=2):
                return
        except (urllib.error.URLError, OSError, json.JSONDecodeError):
            time.sleep(0.05)
    raise RuntimeError(f"not ready after {timeout_s:.0f} s")


@contextmanager
def running(
    command: list[str], cwd: Path, port: int, timeout_s: float, settings: Mapping[str, str] | None = None
) -> Iterator[tuple[int, float]]:
    """Run a server command until the block ends; gives its process id and the seconds it took to be ready.

    Args:
        command: the server.
        cwd: where to run it.
        port: where it listens.
        timeout_s: how long it may take to be ready.
        settings: `VITRINE_*` variables beside those of this measurement.
    """
    environment = os.environ | {
        "VITRINE_PORT": str(port),
        "BENTOML_DO_NOT_TRACK": "True",
        "VITRINE_ACCESS_LOG": "false",
        "VITRINE_GRPC_PORT": "0",
        **(settings or {}),
    }
    started = time.perf_counter()
    process = subprocess.Popen(command, cwd=cwd, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_ready(port, process, timeout_s)
        yield process.pid, time.perf_counter() - started
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()


def bentoml_serve(port: int) -> list[str]:
    """The plain `bentoml serve` of this virtual environment."""
    return [str(Path(sys.executable).with_name("bentoml")), "serve", "--host", "127.0.0.1", "--port", str(port)]


def memory_mib(pid: int) -> tuple[float, float]:
    """Resident and proportional memory of a process and all below it, in MiB (the first counts shared pages again)."""
    parent = psutil.Process(pid)
    tree = [parent, *parent.children(recursive=True)]
    resident = sum(process.memory_info().rss for process in tree)
    shared_once = sum(getattr(process.memory_full_info(), "pss", process.memory_info().rss) for process in tree)
    return resident / 2**20, shared_once / 2**20
