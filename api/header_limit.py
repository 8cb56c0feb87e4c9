"""A limit on what comes before a request's body; uvicorn has none."""

from uvicorn.protocols.http import auto
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

LIMIT = 2**20
"""Bytes of a request line and headers. The parser's time grows with their square: 100 MiB took 22 seconds, in which the
process answered nobody."""


class BoundedHead(HttpToolsProtocol):
    """uvicorn's HTTP/1.1; who sends more than `LIMIT` before a body gets a 400, and the connection is closed."""

    _in_head, _received = False, 0

    def data_received(self, data: bytes) -> None:
        """Parse what came."""
        super().data_received(data)
        if self._in_head:
            self._received += len(data)
            if self._received > LIMIT and not self.transport.is_closing():
                self.send_400_response(f"The request line and headers have more than {LIMIT:,} bytes.")

    def on_message_begin(self) -> None:
        """A request begins."""
        self._in_head, self._received = True, 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Its headers are there."""
        self._in_head = False
        super().on_headers_complete()


def bound_heads() -> None:
    """Have every uvicorn server that this process starts from now on use `BoundedHead`."""
    auto.AutoHTTPProtocol = BoundedHead
