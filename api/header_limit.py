"""A limit on the request line and headers, which uvicorn does not have."""

from uvicorn.protocols.http import auto
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEADER_BYTES = 2**20
"""The limit. The parser's time grows with the square of their length: 100 MiB took 22 seconds, in which the process
answered nobody."""


class LimitedHeaders(HttpToolsProtocol):
    """uvicorn's HTTP/1.1 protocol, which answers longer headers with a 400 and closes the connection."""

    _in_headers, _received_bytes = False, 0

    def data_received(self, data: bytes) -> None:
        """Parse the bytes that came."""
        super().data_received(data)
        if self._in_headers:
            self._received_bytes += len(data)
            if self._received_bytes > MAX_HEADER_BYTES and not self.transport.is_closing():
                self.send_400_response(f"The request line and headers have more than {MAX_HEADER_BYTES:,} bytes.")

    def on_message_begin(self) -> None:
        """Begin to count when a request begins."""
        self._in_headers, self._received_bytes = True, 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Stop counting when the headers are complete."""
        self._in_headers = False
        super().on_headers_complete()


def limit_headers() -> None:
    """Make every uvicorn server that this process starts from now on use `LimitedHeaders`."""
    auto.AutoHTTPProtocol = LimitedHeaders
