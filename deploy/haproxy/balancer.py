"""HAProxy with this folder's configuration, in front of the replicas that it is given."""

import csv
import io
import os
import re
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

CONFIGURATION = Path(__file__).resolve().with_name("haproxy.cfg")
LUA = CONFIGURATION.with_name("replicas.lua")
START_S = 10.0
_SERVERS = re.compile(r"(?m)(?:^    server r\d+ .*\n)+")


class Replica(NamedTuple):
    """Where one replica answers: its name, its address, and its ports of HTTP and gRPC."""

    name: str
    address: str
    port: int
    grpc_port: int


@dataclass(frozen=True)
class Balancer:
    """A HAProxy that runs.

    Attributes:
        process: HAProxy.
        port: of 127.0.0.1, for HTTP/1.1, HTTP/2 and gRPC without TLS.
        tls_port: the same with TLS.
        admin_port: of its own metrics.
        certificate: what clients of the port with TLS trust, a PEM file.
        socket: takes commands.
    """

    process: "subprocess.Popen[bytes]"
    port: int
    tls_port: int
    admin_port: int
    certificate: Path
    socket: Path

    def command(self, text: str) -> str:
        """Return what HAProxy answers to a command of its runtime API."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(self.socket))
            connection.sendall(f"{text}\n".encode())
            return b"".join(iter(lambda: connection.recv(65_536), b"")).decode()

    def set_state(self, name: str, state: str) -> None:
        """Let a replica finish what it has (`drain`), take everything from it (`maint`), or use it again (`ready`)."""
        self.command(f"set server http/{name} state {state}")

    def status(self) -> dict[str, dict[str, str]]:
        """Return HAProxy's figures of each replica's HTTP by its name; `status` is UP, DOWN, DRAIN or MAINT."""
        return {row["svname"]: row for row in self._servers() if row["pxname"] == "http"}

    def in_hand(self, name: str) -> int:
        """Return how many requests a replica has in hand, over HTTP and gRPC."""
        return sum(int(row["scur"]) for row in self._servers() if row["svname"] == name)

    def _servers(self) -> list[dict[str, str]]:
        rows = csv.DictReader(io.StringIO(self.command("show stat").removeprefix("# ")))
        return [row for row in rows if row["svname"] not in ("FRONTEND", "BACKEND")]


def configuration(replicas: Sequence[Replica], text: str | None = None) -> str:
    """Return the configuration with a `server` line for each of these replicas in place of its own.

    Args:
        replicas: of which each has a line in the backend of HTTP and, if it has a port for it, in that of gRPC.
        text: a configuration; this folder's by default.
    """
    text = CONFIGURATION.read_text("utf-8") if text is None else text
    http = "".join(f"    server {replica.name} {replica.address}:{replica.port}\n" for replica in replicas)
    grpc = "".join(
        f"    server {replica.name} {replica.address}:{replica.grpc_port} track http/{replica.name}\n"
        for replica in replicas
        if replica.grpc_port
    )
    lines = iter((http, grpc))
    return _SERVERS.sub(lambda _: next(lines), text)


def make_certificate(folder: Path) -> Path:
    """Write a self-signed certificate of localhost, for HAProxy with its key; return the one for clients.

    Raises:
        RuntimeError: openssl could not make it.
    """
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "30", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)]
    ran = subprocess.run(command, capture_output=True, text=True)
    if ran.returncode:
        raise RuntimeError(f"openssl could not make a certificate: {ran.stderr.strip()}")
    (folder / "haproxy.pem").write_text(certificate.read_text() + key.read_text())
    return certificate


@contextmanager
def balancing(
    replicas: Sequence[Replica], folder: Path, ports: Sequence[int], text: str | None = None
) -> Iterator[Balancer]:
    """Run HAProxy until the block ends.

    Args:
        replicas: behind it.
        folder: takes its configuration, certificate, socket and log.
        ports: of 127.0.0.1, without TLS, with it, and of its metrics.
        text: a configuration; this folder's by default.

    Raises:
        RuntimeError: it did not start; the message has its last words.
    """
    certificate = make_certificate(folder)
    file, log, control = folder / "haproxy.cfg", folder / "haproxy.log", folder / "haproxy.sock"
    file.write_text(configuration(replicas, text), "utf-8")
    names = ("BALANCER_PLAIN", "BALANCER_TLS", "BALANCER_ADMIN")
    variables = {name: f"127.0.0.1:{port}" for name, port in zip(names, ports, strict=True)}
    variables |= {"BALANCER_PEM": str(folder / "haproxy.pem"), "BALANCER_SOCKET": str(control)}
    variables["BALANCER_LUA"] = str(LUA)
    with log.open("wb") as output:
        process = subprocess.Popen(
            ["haproxy", "-db", "-f", str(file)], env=os.environ | variables, stdout=output, stderr=output
        )
    try:
        port, tls_port, admin_port = ports
        balancer = Balancer(process, port, tls_port, admin_port, certificate, control)
        _wait_listening(balancer, log)
        yield balancer
    finally:
        process.terminate()
        process.wait()


def _wait_listening(balancer: Balancer, log: Path) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and balancer.process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", balancer.port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.02)
    raise RuntimeError(f"HAProxy did not start: {log.read_text('utf-8', 'replace')[-2000:]}")
