"""uvicorn's HTTP/1.1 protocol, which has requests that came whole answered without the application if that can be."""

from contextvars import copy_context
from functools import partial
from itertools import chain
from typing import Any, cast

from starlette.types import Scope
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from api.quick import Headers, QuickRequests


class QuickProtocol(HttpToolsProtocol):
    """uvicorn's protocol of one connection; a request goes to the application only if `quick` does not take it.

    uvicorn makes a task for each request as soon as its headers have come. Here that waits for the end of what has come
    with them, which mostly is the end of the body.
    """

    _beginning: tuple[RequestResponseCycle, Any] | None = None
    """A request whose headers have come, and what answers it, until the end of what has come with them."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.access_log = False  # the middleware's is the only one
        self._context = copy_context()  # it has no variables of any request

    @property
    def quick(self) -> QuickRequests | None:
        """What answers some requests without the application."""
        return None

    def data_received(self, data: bytes) -> None:
        """Parse the bytes that came, and begin with a request of which there is a part."""
        super().data_received(data)
        self._begin()

    def on_message_complete(self) -> None:
        """Begin with a request that came whole."""
        super().on_message_complete()
        self._begin()

    def on_response_complete(self) -> None:
        """Go on with the next request; no timer is set for an idle connection, which `Connections` closes."""
        if self.cycle.more_body or self.flow.write_paused:
            super().on_response_complete()
        else:
            self.server_state.total_requests += 1
            if self.transport.is_closing():
                return
            self.flow.resume_reading()
            if self.pipeline:
                self._start_asgi_task(*self.pipeline.pop())
        # A request that waited for this answer begins even if nothing more comes, and not as a call within this one.
        if self._beginning is not None:
            self.loop.call_soon(self._begin, context=self._context)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        """Begin with a request when its body has come, or nothing more has."""
        self._beginning = cycle, app

    def _begin(self) -> None:
        """Answer a request that is whole at once, if that can be; have the application answer any other."""
        if self._beginning is None:
            return
        (cycle, app), self._beginning = self._beginning, None
        # Only the application waits for a client that does not take its answers.
        is_left = cycle.more_body or cycle.waiting_for_100_continue or self.flow.write_paused
        quick = self.quick if not is_left else None
        if quick is None or not quick.takes(cast(Scope, cycle.scope), bytes(cycle.body), partial(self._reply, cycle)):
            super()._start_asgi_task(cycle, app)

    def _reply(self, cycle: RequestResponseCycle, status: int, headers: Headers, body: bytes) -> None:
        """Send the whole answer to a request as `cycle.send` would, in one piece."""
        if cycle.disconnected or self.transport.is_closing():
            return
        lines = list(map(b": ".join, chain(cycle.default_headers, headers)))
        if not cycle.keep_alive:
            lines.append(b"connection: close")
        cycle.response_started = cycle.response_complete = True
        self.transport.write(STATUS_LINE[status] + b"\r\n".join((*lines, b"", body)))
        if not cycle.keep_alive:
            self.transport.close()
        self.on_response_complete()
