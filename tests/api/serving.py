"""The whole server of a worker, over HTTP and gRPC, on loopback ports of this process, before the tiny model."""

import asyncio
import contextlib
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import uvicorn
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http import auto

from api.server import Server
from models.package import StoredModel
from settings import Settings
from tests.live.server import free_ports

PATIENCE_S = 60.0
"""What is waited for comes much sooner; later, the test fails."""


@dataclass(frozen=True)
class Served:
    """Where a server listens."""

    port: int
    grpc_port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def grpc(self) -> str:
        return f"127.0.0.1:{self.grpc_port}"

    def connect(self, data: bytes = b"") -> socket.socket:
        """Open a connection over HTTP, and send these bytes."""
        wire = socket.create_connection(("127.0.0.1", self.port), PATIENCE_S)
        wire.sendall(data)
        return wire

    def ask(self, data: bytes) -> bytes:
        """Send the bytes of a request over a connection of its own; return what came until the server closed it."""
        with self.connect(data) as wire:
            return read_to_end(wire)


def read_to_end(wire: socket.socket) -> bytes:
    """Return all that comes until the server closes the connection; fail if it does not."""
    received = b""
    with contextlib.suppress(ConnectionError):
        while part := wire.recv(65_536):
            received += part
    return received


def get(path: str, *headers: str) -> bytes:
    """Return a request whose answer closes the connection."""
    return "\r\n".join([f"GET {path} HTTP/1.1", "Host: x", "Connection: close", *headers, "", ""]).encode()


def post(length: int | None, body: bytes = b"", path: str = "/predict", *headers: str) -> bytes:
    """Return the beginning of a request whose body is announced to be so long; None sends it in chunks."""
    announced = f"Content-Length: {length}" if length is not None else "Transfer-Encoding: chunked"
    lines = [f"POST {path} HTTP/1.1", "Host: x", announced, *headers, "", ""]
    return "\r\n".join(lines).encode() + (body if length is not None else chunk(body))


def chunk(data: bytes) -> bytes:
    """Return a part of a chunked body; that of no bytes would be its end, and is left out."""
    return b"%x\r\n%s\r\n" % (len(data), data) if data else b""


async def _nothing_behind(scope: Scope, receive: Receive, send: Send) -> None:
    raise AssertionError("nothing is asked of BentoML")


@contextlib.contextmanager
def serving(stored: StoredModel, **settings: Any) -> Iterator[Served]:
    """Serve a model, which is ready, until the block ends."""
    port, grpc_port = free_ports(2)
    chosen = Settings(
        _env_file=None, port=port, grpc_port=grpc_port, explain=False, default_model=stored.card.name, **settings
    )
    loops, started = list[asyncio.AbstractEventLoop](), threading.Event()
    usual_protocol = auto.AutoHTTPProtocol

    async def answer() -> None:
        server, ending = Server(chosen, [stored]), asyncio.Event()
        app = server.application(_nothing_behind, ())
        http = uvicorn.Server(uvicorn.Config(app, port=port, log_level="warning", lifespan="off", loop="uvloop"))
        await server.start(None)
        task = asyncio.create_task(http.serve())
        while not http.started:
            await asyncio.sleep(0.005)
        loops.append(asyncio.get_running_loop())
        endings.append(ending)
        started.set()
        await ending.wait()
        http.should_exit = http.force_exit = True
        await task
        await server.stop()

    endings = list[asyncio.Event]()
    thread = threading.Thread(target=asyncio.run, args=(answer(),), daemon=True)
    thread.start()
    assert started.wait(PATIENCE_S)
    served = Served(port, grpc_port)
    try:
        while b"HTTP/1.1 200" not in served.ask(get("/readyz")):
            pass
        yield served
    finally:
        auto.AutoHTTPProtocol = usual_protocol
        loops[0].call_soon_threadsafe(endings[0].set)
        thread.join(PATIENCE_S)
        assert not thread.is_alive()
