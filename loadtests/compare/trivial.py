"""A server that gives one fixed answer to every request, to find the load generator's own ceiling.

Run as `python -m loadtests.compare.trivial PORT BODY`.
"""

import asyncio
import sys
from typing import cast

import httptools
import uvloop


class Trivial(asyncio.Protocol):
    """One connection of a client."""

    def __init__(self, body: bytes) -> None:
        self._answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport, and make a parser for its requests."""
        self._transport = cast(asyncio.Transport, transport)
        self._parser = httptools.HttpRequestParser(self)

    def data_received(self, data: bytes) -> None:
        """Parse what has arrived."""
        self._parser.feed_data(data)

    def on_message_complete(self) -> None:
        """Answer a whole request."""
        self._transport.write(self._answer)


async def serve(port: int, body: bytes) -> None:
    """Answer until cancelled."""
    server = await asyncio.get_running_loop().create_server(lambda: Trivial(body), "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), sys.argv[2].encode()))
