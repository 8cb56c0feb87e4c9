"""The HTTP connections of a process: how many there may be, and how long a client may leave one without a word."""

import logging
import os
import resource
from functools import partial
from typing import Any

from uvicorn.protocols.http import auto

from api.limits import LEAST_BYTES_PER_S, ReachedLimits, ticks
from api.middleware import ONLY_HEALTH
from api.quick import QuickRequests
from api.quick_protocol import QuickProtocol
from settings import Settings

logger = logging.getLogger("vitrine.limits")

MAX_HEADER_BYTES, MAX_HEADERS = 2**16, 1000
"""The limits of a request's line and headers. The parser's time grows with the square of their length: 100 MiB took 22
seconds, in which the process answered nobody."""
RESERVED = 16
"""So many connections more than the others may be are taken, and answered about health alone."""
OWN_DESCRIPTORS = 64
"""The file descriptors that a process needs for itself; it has 27 open at rest."""
MOST_CONNECTIONS = 10_000
"""The most connections by default, however many file descriptors there are."""
DESCRIPTOR_CHECK_TICKS = ticks(1.0)


class Connections:
    """The HTTP connections of one process.

    A connection whose client has the next word, because it has sent nothing, or half of its headers, or has been
    answered, is closed when its time is over, and earlier where a new connection needs its place: the one that has
    waited longest gives way. Where nothing gives way, a connection gets one of the places for health, which are given
    up to such connections alone, so that uploads never fill them; with each request it may move to an ordinary place.

    Args:
        most: the most ordinary connections at a time, to which `RESERVED` are added for health.
        header_seconds: the longest time that a client may be silent, or take for its headers.
        body_seconds: the time in which a client has to take a part of its answer, or send the rest of a body that was
            answered already.
        limits: notes what is closed.
    """

    def __init__(self, most: int, header_seconds: float, body_seconds: float, limits: ReachedLimits) -> None:
        self._most, self._limits = most, limits
        self._header_seconds = header_seconds
        self.header_ticks, self.body_ticks = ticks(header_seconds), ticks(body_seconds)
        self._least_bytes = int(LEAST_BYTES_PER_S * body_seconds)
        self.now = 0
        self._ordinary, self._only_health = set["Connection"](), set["Connection"]()
        self.quick: QuickRequests | None = None
        """What answers some requests without the application."""
        self.waiting = dict["Connection", int]()
        """The connections whose client has the next word, and when they are closed; the longest waiting first."""

    @classmethod
    def of_settings(cls, settings: Settings, limits: ReachedLimits) -> "Connections":
        """Return the connections of one worker as the operator set their limits."""
        return cls(most_connections(settings), settings.header_seconds, settings.body_seconds, limits)

    def add(self, connection: "Connection") -> None:
        """Take a new connection in, or close it at once."""
        if not self.has_ordinary_place(connection):
            if len(self._only_health) >= RESERVED and not self._displace(self._only_health):
                connection.abort()
                return
            self._only_health.add(connection)
        self.waiting[connection] = self.now + self.header_ticks

    def has_ordinary_place(self, connection: "Connection") -> bool:
        """Return whether a connection has an ordinary place, which it is given now if there is one or one gives way."""
        if connection in self._ordinary:
            return True
        if len(self._ordinary) >= self._most:
            self._limits.note(
                "connections",
                f"There are {self._most:,} connections, the most that VITRINE_MAX_CONNECTIONS allows a process: those "
                "that have been idle longest are closed for new ones.",
            )
            if not self._displace(self._ordinary):
                return False
        self._only_health.discard(connection)
        self._ordinary.add(connection)
        return True

    def remove(self, connection: "Connection") -> None:
        """Forget a connection that is closed."""
        self._ordinary.discard(connection)
        self._only_health.discard(connection)
        self.waiting.pop(connection, None)

    def sweep(self) -> None:
        """Close the connections whose time is over; to be called every `TICK_S`."""
        self.now += 1
        late = [connection for connection, until in self.waiting.items() if until <= self.now]
        for connection in late:
            if connection.ends_idleness():
                self.waiting[connection] = self.now + self.header_ticks
                continue
            if connection.unsent_bytes and connection.takes_its_answer(self._least_bytes):
                self.waiting[connection] = self.now + self.body_ticks
                continue
            closed = f"A connection from {connection.address} was closed"
            if connection.is_half_answered:
                self._limits.note("body_seconds", f"{closed}: its client did not take its answer, or end its request.")
            elif not connection.is_idle:
                self._limits.note(
                    "header_seconds",
                    f"{closed}: its client sent no whole headers within {self._header_seconds:g} seconds.",
                )
            self._close(connection)
        if self.now % DESCRIPTOR_CHECK_TICKS == 0:
            self._check_descriptors()

    def _check_descriptors(self) -> None:
        """Close idle connections if the process has no file descriptor left."""
        try:
            os.close(os.open(os.devnull, os.O_RDONLY))
        except OSError:
            self._limits.note("descriptors", "This process has no file descriptors left: idle connections are closed.")
            for _ in range(RESERVED):
                self._displace(self._ordinary) or self._displace(self._only_health)

    def _displace(self, connections: set["Connection"]) -> bool:
        """Close that of some connections which has waited longest with nothing under way; False if there is none.

        An answer about health that its client does not take counts as nothing.
        """
        for connection in self.waiting:
            if connection in connections and (connections is self._only_health or not connection.is_answering):
                self._close(connection)
                return True
        return False

    def _close(self, connection: "Connection") -> None:
        self.remove(connection)  # it is closed a little later
        connection.abort()


class Connection(QuickProtocol):
    """uvicorn's HTTP/1.1 protocol of one connection, with limits.

    Longer headers than `MAX_HEADER_BYTES`, and more of them than `MAX_HEADERS`, are answered with a 400. A request to
    change the protocol, such as to WebSockets, is answered as if it asked for none.
    """

    _in_headers, _received_bytes = False, 0
    unsent_bytes = 0
    """How much of an answer its client had not taken at the last look."""

    def __init__(self, connections: Connections, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._all = connections
        self._idle_ticks = ticks(self.timeout_keep_alive) + 1  # the first of them may be over at once

    @property
    def quick(self) -> QuickRequests | None:
        """What answers some requests without the application."""
        return self._all.quick

    @property
    def address(self) -> str:
        """The client's address."""
        return self.client[0] if self.client else "a socket"

    @property
    def is_answering(self) -> bool:
        """Whether a request is under way."""
        return self.cycle is not None and not self.cycle.response_complete

    @property
    def is_half_answered(self) -> bool:
        """Whether the client has not taken its answer, or was answered before its request was whole."""
        return self.cycle is not None and bool(self.unsent_bytes or self.cycle.more_body)

    @property
    def is_idle(self) -> bool:
        """Whether every request was answered, and none has begun."""
        return self.cycle is not None and self.cycle.response_complete and not self._in_headers

    def ends_idleness(self) -> bool:
        """Close an idle connection as soon as its client has what was sent to it; return False for any other."""
        if not self.is_idle or self.is_half_answered or self.transport.is_closing():
            return False
        self.transport.close()
        return True

    def abort(self) -> None:
        """Close it, whatever is still to be sent."""
        self.transport.abort()

    def takes_its_answer(self, least_bytes: int) -> bool:
        """Return whether the client has taken so many bytes of what is to be sent since the last look."""
        before, self.unsent_bytes = self.unsent_bytes, self.transport.get_write_buffer_size()
        return self.unsent_bytes <= before - least_bytes

    def connection_made(self, transport: Any) -> None:
        """Begin."""
        super().connection_made(transport)
        self._all.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        self._all.remove(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse the bytes that came."""
        super().data_received(data)
        if self._in_headers:
            self._received_bytes += len(data)
            is_too_much = self._received_bytes > MAX_HEADER_BYTES or len(self.headers) > MAX_HEADERS
            if is_too_much and not self.transport.is_closing():
                self.send_400_response(
                    f"The request line and headers have more than {MAX_HEADER_BYTES:,} bytes or {MAX_HEADERS:,} lines."
                )

    def on_message_begin(self) -> None:
        """Begin to count when a request begins."""
        self._in_headers, self._received_bytes = True, 0
        super().on_message_begin()
        if not self._all.has_ordinary_place(self):
            self.scope["state"][ONLY_HEALTH] = True
        waiting = self._all.waiting
        if self in waiting:
            waiting[self] = self._all.now + self._all.header_ticks

    def on_headers_complete(self) -> None:
        """Stop counting when the headers are complete."""
        self._in_headers = False
        if not self.flow.write_paused:  # else the client still has to take the answer before
            self._all.waiting.pop(self, None)
        super().on_headers_complete()

    def on_response_complete(self) -> None:
        """Wait for the next request, or for the rest of a body that was answered before it was there."""
        super().on_response_complete()
        cycle, everything = self.cycle, self._all
        if cycle.response_complete:  # else it is that of another request, which came before this answer
            time_left = everything.body_ticks if cycle.more_body or self.flow.write_paused else self._idle_ticks
            everything.waiting[self] = everything.now + time_left

    def pause_writing(self) -> None:
        """Wait for the client, which does not take its answer as fast as it is written."""
        super().pause_writing()
        self.unsent_bytes = self.transport.get_write_buffer_size()
        self._all.waiting[self] = self._all.now + self._all.body_ticks

    def resume_writing(self) -> None:
        """Go on with the answer."""
        super().resume_writing()
        self.unsent_bytes = 0
        if self.is_answering:
            self._all.waiting.pop(self, None)

    def _should_upgrade_to_ws(self) -> bool:
        return False

    def _unsupported_upgrade_warning(self) -> None:
        pass


def serve_through(connections: Connections) -> None:
    """Make every uvicorn server that this process starts from now on use `Connection`."""
    auto.AutoHTTPProtocol = partial(Connection, connections)  # type: ignore[assignment]


def most_connections(settings: Settings) -> int:
    """Return how many connections a worker takes over HTTP, and as many over gRPC.

    Where the operator says nothing: a third of the file descriptors that the process does not need for itself, so that
    another third is left for large uploads, which are files while they come.
    """
    if settings.max_connections is not None:
        return settings.max_connections
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return MOST_CONNECTIONS
    return max(1, min(MOST_CONNECTIONS, (soft - OWN_DESCRIPTORS - RESERVED) // 3))
