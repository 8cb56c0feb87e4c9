"""Replicas of Vitrine as hosts of their own on this machine, with HAProxy in front, until it is stopped.

Run as `python -m deploy.haproxy --replicas 3`; settings are `VITRINE_*` variables, as for one server.
"""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import click

from deploy.haproxy.balancer import Replica, balancing
from deploy.haproxy.hosts import GRPC_PORT, HTTP_PORT, Host, hosts

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


@click.command()
@click.option("--replicas", default=3, show_default=True, type=click.IntRange(1, 200), help="How many.")
@click.option("--port", default=3080, show_default=True, help="Of 127.0.0.1: HTTP/1.1, HTTP/2 and gRPC without TLS.")
@click.option("--tls-port", default=3443, show_default=True, help="The same with TLS.")
@click.option("--admin-port", default=3090, show_default=True, help="The balancer's /metrics and /stats.")
@click.option("--folder", type=click.Path(path_type=Path), help="Takes logs, certificate and socket; else a new one.")
def main(replicas: int, port: int, tls_port: int, admin_port: int, folder: Path | None) -> None:
    """Start the replicas and the balancer, say where they are, and stop them on Ctrl-C or SIGTERM."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    folder = folder or Path(tempfile.mkdtemp(prefix="vitrine-fleet-"))
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        own = stack.enter_context(hosts(replicas))
        if not own[0].namespace:
            click.echo("Network namespaces are not to be had here (that needs Linux, and root): replicas are addresses")
            click.echo("of the loopback, which share one network and cannot be cut off it.")
        places = [place(host) for host in own]
        for host, replica in zip(own, places, strict=True):
            stack.enter_context(serving(host, replica, folder))
        wait_ready(places)
        balancer = stack.enter_context(balancing(places, folder, (port, tls_port, admin_port)))
        for replica in places:
            click.echo(f"{replica.name}: http://{replica.address}:{replica.port}, gRPC on {replica.grpc_port}")
        click.echo(f"HAProxy: http://127.0.0.1:{port}, https://localhost:{tls_port} (trust {balancer.certificate})")
        click.echo(f"Its metrics and statistics: http://127.0.0.1:{admin_port}/metrics and /stats")
        click.echo(f"Drain one: echo 'set server http/r1 state drain' | socat - {balancer.socket}; then state ready")
        with suppress(KeyboardInterrupt):
            balancer.process.wait()


if __name__ == "__main__":
    main()
