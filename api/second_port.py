"""A second port with the same application, for clients that know only the port of the server that was replaced."""

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable, Iterator

import uvicorn
from starlette.types import ASGIApp

logger = logging.getLogger("vitrine")

BACKLOG = 2048
"""The most connections that wait to be accepted."""


class _Server(uvicorn.Server):
    """A server beside BentoML's, which alone minds signals; it stops when the process begins to drain."""

    def __init__(self, config: uvicorn.Config, is_closing: Callable[[], bool]) -> None:
        super().__init__(config)
        self._is_closing = is_closing

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to BentoML's server."""
        yield

    async def on_tick(self, counter: int) -> bool:
        """Return whether to stop, which is asked ten times a second."""
        return await super().on_tick(counter) or self._is_closing()


class SecondPort:
    """Serves an application on one more port; workers share it.

    Args:
        application: what answers there.
        host: an IP address.
        port: the port.
        drain_seconds: the longest time that requests in flight are waited for at the end.
        is_closing: whether the process drains, so that no new connection is taken.
    """

    def __init__(
        self, application: ASGIApp, host: str, port: int, drain_seconds: float, is_closing: Callable[[], bool]
    ) -> None:
        self._address = host, port
        config = uvicorn.Config(
            application,
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=max(1, int(drain_seconds)),
        )
        self._server = _Server(config, is_closing)
        self._serving: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Listen on the port; if that fails, the log says so and everything else goes on without it."""
        host, port = self._address
        listening = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            listening.bind(self._address)
            listening.listen(BACKLOG)
        except OSError as error:
            listening.close()
            logger.error("HTTP does not listen on the second port %s:%d: %s", host, port, error)
            return
        logger.info("HTTP listens on %s:%d, too", host, port)
        self._serving = asyncio.create_task(self._server.serve(sockets=[listening]))

    async def stop(self) -> None:
        """Take no new connections, and return once the requests in flight are answered."""
        self._server.should_exit = True
        if self._serving is not None:
            await self._serving
