"""Replicas of Vitrine on hosts of their own."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from deploy.haproxy.balancer import Replica
from deploy.haproxy.hosts import GRPC_PORT, HTTP_PORT, Host

READY_S, END_S = 180.0, 45.0
"""Seconds that a replica may take to be ready, and to end."""


def place(host: Host) -> Replica:
    """Return where the replica of a host answers: on the usual ports, or on free ones of the loopback."""
    ports = (HTTP_PORT, GRPC_PORT) if host.namespace else (_free_port(host.address), _free_port(host.address))
    return Replica(host.name, host.address, *ports)


def serve_command(replica: Replica) -> list[str]:
    """Return the command that serves a replica; `settings_of` has the rest."""
    bentoml = str(Path(sys.executable).with_name("bentoml"))
    return [bentoml, "serve", "--host", replica.address, "--port", str(replica.port)]


def settings_of(replica: Replica) -> dict[str, str]:
    """Return the variables of a replica; only this machine reaches it, so without a file of keys it asks for none."""
    anonymous = {} if os.environ.get("VITRINE_API_KEYS_FILE") else {"VITRINE_ALLOW_ANONYMOUS": "true"}
    ports = {"VITRINE_PORT": str(replica.port), "VITRINE_GRPC_PORT": str(replica.grpc_port)}
    return {"VITRINE_HOST": replica.address, "BENTOML_DO_NOT_TRACK": "True"} | ports | anonymous


@contextmanager
def serving(host: Host, replica: Replica, folder: Path) -> Iterator[None]:
    """Run a replica on its host until the block ends; its log is in the folder."""
    with (folder / f"{replica.name}.log").open("wb") as log:
        process = subprocess.Popen(
            host.command(serve_command(replica)),
            env=os.environ | settings_of(replica),
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(END_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def wait_ready(replicas: Sequence[Replica]) -> None:
    """Return once /readyz of all of them answers 200.

    Raises:
        RuntimeError: one was not ready in time.
    """
    deadline = time.monotonic() + READY_S
    for replica in replicas:
        while not _is_ready(replica):
            if time.monotonic() > deadline:
                raise RuntimeError(f"{replica.name} was not ready after {READY_S:.0f} s; its log says why")
            time.sleep(0.1)


def _is_ready(replica: Replica) -> bool:
    with suppress(OSError), urllib.request.urlopen(f"http://{replica.address}:{replica.port}/readyz", timeout=2):
        return True
    return False


def _free_port(address: str) -> int:
    with socket.socket() as probe:
        probe.bind((address, 0))
        return int(probe.getsockname()[1])
