"""A real `bentoml serve` with a store of its own, stopped by its process id."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import requests

from tests.conftest import ROOT

START_S = 90.0


@dataclass(frozen=True)
class Server:
    """A running server: where it answers over HTTP and gRPC, its supervisor's process, and its log."""

    url: str
    grpc: str
    process: "subprocess.Popen[bytes]"
    log: Path

    def wait_ready(self) -> None:
        """Return once it is ready; fail with its log if it is not in time."""
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            assert self.process.poll() is None, self.log.read_text()
            try:
                if requests.get(f"{self.url}/readyz", timeout=5).status_code == 200:
                    return
            except (requests.ConnectionError, requests.Timeout):
                pass
            time.sleep(0.05)
        raise AssertionError(f"not ready in {START_S} s:\n{self.log.read_text()}")

    def wait_listening(self) -> None:
        """Return once it answers anything."""
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            assert self.process.poll() is None, self.log.read_text()
            try:
                requests.get(f"{self.url}/livez", timeout=5)
                return
            except (requests.ConnectionError, requests.Timeout):
                time.sleep(0.02)
        raise AssertionError(f"not listening in {START_S} s:\n{self.log.read_text()}")

    def wait_explaining(self, name: str) -> None:
        """Return once the Grad-CAM process explains a model; fail with the log if it does not in time."""
        deadline, state = time.monotonic() + START_S, ""
        while time.monotonic() < deadline:
            state = requests.get(f"{self.url}/health", timeout=10).json()["explanations"][name]
            if state == "ready":
                return
            time.sleep(0.1)
        raise AssertionError(f"no explanations in {START_S} s: {state}\n{self.log.read_text()[-3000:]}")

    def process_of(self, service: str) -> psutil.Process:
        """Return the one process of `vitrine`, which answers, or of `gradcam`."""
        children = psutil.Process(self.process.pid).children()
        (process,) = (child for child in children if service in child.cmdline())
        return process

    def terminate(self) -> None:
        """Send SIGTERM to the supervisor."""
        self.process.send_signal(signal.SIGTERM)


def wait_until(condition: Callable[[], bool], timeout_s: float = 60.0) -> None:
    """Return once a condition holds; fail if it does not in time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not become true in time"
        time.sleep(0.02)


def environment(home: Path, **settings: str) -> dict[str, str]:
    """The environment of a server: its own store, nothing of the caller's settings."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("VITRINE_", "_VITRINE_", "ORT_"))}
    return kept | {"BENTOML_HOME": str(home), "BENTOML_DO_NOT_TRACK": "True"} | settings


def free_ports(count: int) -> list[int]:
    """TCP ports that nothing listens on just now."""
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


@contextmanager
def serving(
    home: Path, log: Path, *what: str, cwd: Path = ROOT, descriptors: str = "", **settings: str
) -> Iterator[Server]:
    """Run `bentoml serve WHAT` on free ports until the block ends, with so many file descriptors if that is said."""
    port, grpc_port = free_ports(2)
    # On a slow machine many requests at once wait for longer than they may by default.
    settings = {"VITRINE_GRPC_PORT": str(grpc_port), "VITRINE_QUEUE_MS": "60000"} | settings
    command = [
        str(Path(sys.executable).with_name("bentoml")),
        "serve",
        *what,
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ]
    if descriptors:
        command = ["sh", "-c", f'ulimit -n {descriptors}; exec "$@"', "sh", *command]
    with log.open("wb") as file:
        process = subprocess.Popen(
            command, cwd=cwd, env=environment(home, **settings), stdout=file, stderr=file, start_new_session=True
        )
    try:
        yield Server(f"http://127.0.0.1:{port}", f"127.0.0.1:{settings['VITRINE_GRPC_PORT']}", process, log)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(40)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def vitrine(home: Path, *arguments: object, **settings: str) -> str:
    """Run the command line on a store; gives what it printed."""
    command = [str(Path(sys.executable).with_name("vitrine")), *map(str, arguments)]
    ran = subprocess.run(command, cwd=ROOT, env=environment(home, **settings), capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


def install(package: Path, home: Path) -> str:
    """Import a package into a store of its own; returns the tag."""
    code = "import sys, pathlib, models.store as s; print(s.import_package(pathlib.Path(sys.argv[1]))[0].tag)"
    command = [sys.executable, "-c", code, str(package)]
    ran = subprocess.run(command, cwd=ROOT, env=environment(home), check=True, capture_output=True, text=True)
    return ran.stdout.split()[-1]
