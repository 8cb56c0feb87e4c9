"""Replicas of Vitrine as hosts of their own on this machine, with HAProxy in front, until it is stopped.

Run as `python -m deploy.haproxy --replicas 3`; settings are `VITRINE_*` variables, as for one server.
"""

import signal
import sys
import tempfile
from contextlib import ExitStack, suppress
from pathlib import Path

import click

from deploy.haproxy.balancer import balancing
from deploy.haproxy.hosts import hosts
from deploy.haproxy.replicas import place, serving, wait_ready


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
