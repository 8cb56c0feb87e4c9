"""The load generator: sends encoded requests over keep-alive connections, in one process without threads.

Answers are kept as they come and decoded after the load has ended, so that decoding slows nothing down. The sockets are
uvloop's and the parser is httptools', since Python's HTTP clients need more processor time than the fastest servers.
"""

import asyncio
import math
import time
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar, cast

import httptools
import numpy as np
import uvloop

from loadtests.compare.wire import Read

Result = TypeVar("Result")

REFUSALS = (429, 503)
"""Statuses by which a server says that it takes no more, or not now."""
TOLERANCE = 1e-4
"""Largest |Δ| in probability of a right answer."""
TIMEOUT_S = 30.0
PAUSE_S = 0.01
"""Seconds between a failed exchange and the next of the same client."""
RAMP_S = 1.0
"""Seconds at the start that do not count, until every client's first request is answered or well under way."""
clock = time.perf_counter
"""The clock of all latencies; uvloop's own stands still between its turns, and counts whole milliseconds."""


class Target(NamedTuple):
    """A server's port, encoded requests, the answer that is right for each, what decodes an answer, and its address."""

    port: int
    requests: Sequence[bytes]
    expected: Sequence[dict[str, Any]]
    read: Read
    host: str = "127.0.0.1"


class Exchange(NamedTuple):
    """One request and its answer.

    Attributes:
        request: the index of the request in the target's requests.
        ended_s: seconds from the start of the load to the answer.
        took_s: the request's latency in seconds.
        status: of the answer; 0 for an exchange that failed.
        body: of the answer; of an exchange that failed, the reason.
    """

    request: int
    ended_s: float
    took_s: float
    status: int
    body: bytes


@dataclass(frozen=True)
class Load:
    """The figures of a load.

    Attributes:
        rate: right answers a second.
        p50_ms: median latency of right answers.
        p99_ms: the 99th percentile of the same.
        errors: answers that were wrong or missing.
        requests: all that were sent.
        refused: those of the errors that were refused, with a 429 or 503.
        problem: what was wrong with the first answer that was, empty if none was.
        cpu_ms: processor time of the server, user and system, for one right answer.
        instructions: user instructions of the server for one right answer; NaN on a machine that does not count them.
    """

    rate: float
    p50_ms: float
    p99_ms: float
    errors: int
    requests: int
    problem: str = ""
    cpu_ms: float = math.nan
    instructions: float = math.nan
    refused: int = 0


class Connection(asyncio.Protocol):
    """One keep-alive connection, with one request in flight."""

    def __init__(self) -> None:
        self.closed = True
        self._parts: list[bytes] = []
        self._answer: asyncio.Future[tuple[int, bytes]] | None = None

    async def exchange(self, port: int, request: bytes, host: str = "127.0.0.1") -> tuple[int, bytes]:
        """Send a request, connecting first if need be, and return the status and the body of the answer."""
        loop = asyncio.get_running_loop()
        if self.closed:
            await loop.create_connection(lambda: self, host, port)
        self._answer = loop.create_future()
        self._transport.write(request)
        return await self._answer

    def close(self) -> None:
        """Close the connection at once."""
        if not self.closed:
            self.closed = True
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport, and make a parser for its answers."""
        self._transport = cast(asyncio.Transport, transport)
        self.closed, self._parser = False, httptools.HttpResponseParser(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail the request in flight."""
        self.closed = True
        if self._answer and not self._answer.done():
            self._answer.set_exception(ConnectionError("the server hung up"))

    def data_received(self, data: bytes) -> None:
        """Parse what has arrived; the parser calls the methods below."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self.close()
            if self._answer and not self._answer.done():
                self._answer.set_exception(error)

    def on_message_begin(self) -> None:
        """Begin an answer."""
        self._parts = []

    def on_body(self, body: bytes) -> None:
        """Keep a part of its body."""
        self._parts.append(body)

    def on_message_complete(self) -> None:
        """Hand the whole answer to the request in flight."""
        if not self._parser.should_keep_alive():
            self.close()
        if self._answer and not self._answer.done():
            self._answer.set_result((self._parser.get_status_code(), b"".join(self._parts)))


async def _exchange(connection: Connection, target: Target, index: int, since: float, began: float) -> Exchange:
    """Exchange one request for its answer; latency counts from `since`, which `clock` gave, as it gave `began`."""
    try:
        async with asyncio.timeout(TIMEOUT_S):
            status, body = await connection.exchange(target.port, target.requests[index], target.host)
    except (OSError, TimeoutError, httptools.HttpParserError) as error:
        connection.close()
        status, body = 0, f"{type(error).__name__} {error}".strip().encode()
    now = clock()
    return Exchange(index, now - began, now - since, status, body)


async def _closed(target: Target, clients: int, seconds: float) -> list[Exchange]:
    exchanges = list[Exchange]()
    began = clock()

    async def client(index: int) -> None:
        connection = Connection()
        while (since := clock()) < began + seconds:
            exchanges.append(await _exchange(connection, target, index % len(target.requests), since, began))
            index += 1
            if exchanges[-1].status == 0:
                await asyncio.sleep(PAUSE_S)
        connection.close()

    await asyncio.gather(*(client(index) for index in range(clients)))
    return exchanges


async def _open(target: Target, rate: float, seconds: float, seed: int) -> list[Exchange]:
    free = list[Connection]()
    gaps = np.random.default_rng(seed).exponential(1 / rate, int(rate * seconds * 2) + 100)
    began = clock()
    due = [began + after for after in np.cumsum(gaps) if after < seconds]

    async def send(index: int, since: float) -> Exchange:
        connection = free.pop() if free else Connection()
        exchange = await _exchange(connection, target, index % len(target.requests), since, began)
        free.append(connection)
        return exchange

    tasks = []
    for index, since in enumerate(due):
        if (ahead := since - clock()) > 0:
            await asyncio.sleep(ahead)
        tasks.append(asyncio.create_task(send(index, since)))
    exchanges = await asyncio.gather(*tasks)
    for connection in free:
        connection.close()
    return exchanges


def mismatch(target: Target, exchange: Exchange) -> str:
    """Return what is wrong with an answer, an empty string if nothing is."""
    beginning = exchange.body[:200].decode(errors="replace")
    if exchange.status != 200:
        return f"{exchange.status}: {beginning}"
    try:
        answer, expected = target.read(exchange.body), target.expected[exchange.request]
        probabilities, right = answer["probabilities"], expected["probabilities"]
        same_label = answer["label"] == expected["label"] and probabilities.keys() == right.keys()
        difference = max(abs(probabilities[label] - value) for label, value in right.items())
    except (ValueError, KeyError, TypeError, IndexError, AttributeError):
        same_label, difference = False, np.inf
    return "" if same_label and difference <= TOLERANCE else f"a wrong answer: {beginning}"


def summarise(target: Target, exchanges: Sequence[Exchange], ramp_s: float, seconds: float) -> Load:
    """Return the figures of the requests that were under way in the window, the `seconds` after the ramp.

    Each counts into the rate by the share of its time that lies in the window: servers that work on all requests at
    once answer in waves, and whether the last wave is just in or just out would decide. Latencies are of the requests
    begun in the window, errors of all.
    """
    problems = [mismatch(target, exchange) for exchange in exchanges]
    right = [exchange for exchange, problem in zip(exchanges, problems, strict=True) if not problem]
    ended = np.array([exchange.ended_s for exchange in right])
    took = np.array([exchange.took_s for exchange in right])
    inside = np.minimum(ended, ramp_s + seconds) - np.maximum(ended - took, ramp_s)
    rate = float((np.maximum(inside, 0) / took).sum() / seconds)
    begun = took[ended - took >= ramp_s]
    p50, p99 = np.percentile(begun * 1e3, [50, 99]) if len(begun) else (np.nan, np.nan)
    first = next(filter(None, problems), "")
    refused = sum(exchange.status in REFUSALS for exchange in exchanges)
    return Load(rate, float(p50), float(p99), len(exchanges) - len(right), len(exchanges), first, refused=refused)


def closed(target: Target, clients: int, seconds: float, ramp_s: float = RAMP_S) -> Load:
    """Run clients that each send the next request when the last is answered, for the ramp and then so many seconds."""
    return summarise(target, closed_exchanges(target, clients, ramp_s + seconds), ramp_s, seconds)


def opened(target: Target, rate: float, seconds: float, seed: int = 0) -> Load:
    """Send requests at random, `rate` of them a second on average; latency counts from when a request was due."""
    return summarise(target, open_exchanges(target, rate, RAMP_S + seconds, seed), RAMP_S, seconds)


def closed_exchanges(target: Target, clients: int, seconds: float) -> list[Exchange]:
    """Return all that clients of a closed loop sent within so many seconds, and what they got."""
    return _run(_closed(target, clients, seconds))


def open_exchanges(target: Target, rate: float, seconds: float, seed: int = 0) -> list[Exchange]:
    """Return all that was sent at random, `rate` requests a second on average, and what it got."""
    return _run(_open(target, rate, seconds, seed))


def streams(targets: Sequence[Target], rates: Sequence[float], seconds: float, seed: int = 0) -> list[list[Exchange]]:
    """Return what was sent to each target at its rate, all at the same time, and what it got, as `open_exchanges`."""

    async def send_all() -> list[list[Exchange]]:
        pairs = enumerate(zip(targets, rates, strict=True))
        return await asyncio.gather(*(_open(target, rate, seconds, seed + place) for place, (target, rate) in pairs))

    return _run(send_all())


def ask(target: Target) -> str:
    """Send each request once, one after the other, until an answer is wrong.

    Returns:
        What is wrong with that answer, an empty string if all were right.
    """

    async def send_all() -> list[Exchange]:
        connection, exchanges = Connection(), list[Exchange]()
        for index in range(len(target.requests)):
            exchanges.append(await _exchange(connection, target, index, clock(), 0.0))
            if mismatch(target, exchanges[-1]):
                break
        connection.close()
        return exchanges

    return mismatch(target, _run(send_all())[-1])


def _run(work: Coroutine[Any, Any, Result]) -> Result:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work)
