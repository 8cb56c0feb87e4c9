"""The load: requests encoded beforehand over keep-alive connections, in one process without threads.

Answers are kept as they come and read after the load has ended, so that reading them slows nothing down. Plain sockets
with uvloop and httptools, since Python's own HTTP clients need more of the processor than the fastest servers here.
"""

import asyncio
import math
import time
from collections.abc import Coroutine, Sequence
from typing import Any, NamedTuple, cast

import httptools
import numpy as np
import uvloop

from loadtests.compare.wire import Read

TOLERANCE = 1e-4
"""Largest |Δ| in probability of a right answer."""
TIMEOUT_S = 30.0
PAUSE_S = 0.01
"""Between a failed exchange and the next of the same client."""
RAMP_S = 1.0
"""What is not counted at the start, until every client's first request is answered or well under way."""
clock = time.perf_counter
"""Not the loop's own: uvloop's stands still between its turns, and counts whole milliseconds."""


class Target(NamedTuple):
    """A server's port, requests as they go over the wire, and the answer that is right for each."""

    port: int
    requests: Sequence[bytes]
    expected: Sequence[dict[str, Any]]
    read: Read


class Exchange(NamedTuple):
    """One request: which, when its answer was there (seconds since the start), how long it took, and what came.

    A status of 0 is an exchange that failed; the body then says how.
    """

    which: int
    ended_s: float
    took_s: float
    status: int
    body: bytes


class Load(NamedTuple):
    """What a load came to. Rate and latencies are of right answers; `problem` is the first wrong one.

    `cpu_ms` is the processor time that the server took, user and system, for one right answer.
    """

    rate: float
    p50_ms: float
    p99_ms: float
    errors: int
    requests: int
    problem: str = ""
    cpu_ms: float = math.nan


class Connection(asyncio.Protocol):
    """One keep-alive connection, with one request in flight."""

    def __init__(self) -> None:
        self.closed = True
        self._parts: list[bytes] = []
        self._answer: asyncio.Future[tuple[int, bytes]] | None = None

    async def exchange(self, port: int, request: bytes) -> tuple[int, bytes]:
        """Send a request, connecting first where need be; status and body of the answer."""
        loop = asyncio.get_running_loop()
        if self.closed:
            await loop.create_connection(lambda: self, "127.0.0.1", port)
        self._answer = loop.create_future()
        self._transport.write(request)
        return await self._answer

    def close(self) -> None:
        """Hang up."""
        if not self.closed:
            self.closed = True
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        self._transport = cast(asyncio.Transport, transport)
        self.closed, self._parser = False, httptools.HttpResponseParser(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        self.closed = True
        if self._answer and not self._answer.done():
            self._answer.set_exception(ConnectionError("the server hung up"))

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self.close()
            if self._answer and not self._answer.done():
                self._answer.set_exception(error)

    def on_message_begin(self) -> None:
        """A response starts; see httptools."""
        self._parts = []

    def on_body(self, body: bytes) -> None:
        """A part of its body; see httptools."""
        self._parts.append(body)

    def on_message_complete(self) -> None:
        """Its end; see httptools."""
        if not self._parser.should_keep_alive():
            self.close()
        if self._answer and not self._answer.done():
            self._answer.set_result((self._parser.get_status_code(), b"".join(self._parts)))


async def _one(connection: Connection, target: Target, which: int, since: float, began: float) -> Exchange:
    """One exchange whose latency counts from `since`, a time of `clock`, as `began` is."""
    try:
        async with asyncio.timeout(TIMEOUT_S):
            status, body = await connection.exchange(target.port, target.requests[which])
    except (OSError, TimeoutError, httptools.HttpParserError) as error:
        connection.close()
        status, body = 0, f"{type(error).__name__} {error}".strip().encode()
    now = clock()
    return Exchange(which, now - began, now - since, status, body)


async def _closed(target: Target, clients: int, seconds: float) -> list[Exchange]:
    done = list[Exchange]()
    began = clock()

    async def client(index: int) -> None:
        connection = Connection()
        while (since := clock()) < began + seconds:
            done.append(await _one(connection, target, index % len(target.requests), since, began))
            index += 1
            if done[-1].status == 0:
                await asyncio.sleep(PAUSE_S)
        connection.close()

    await asyncio.gather(*(client(index) for index in range(clients)))
    return done


async def _open(target: Target, rate: float, seconds: float, seed: int) -> list[Exchange]:
    free = list[Connection]()
    gaps = np.random.default_rng(seed).exponential(1 / rate, int(rate * seconds * 2) + 100)
    began = clock()
    due = [began + after for after in np.cumsum(gaps) if after < seconds]

    async def one(index: int, since: float) -> Exchange:
        connection = free.pop() if free else Connection()
        made = await _one(connection, target, index % len(target.requests), since, began)
        free.append(connection)
        return made

    tasks = []
    for index, since in enumerate(due):
        if (ahead := since - clock()) > 0:
            await asyncio.sleep(ahead)
        tasks.append(asyncio.create_task(one(index, since)))
    done = await asyncio.gather(*tasks)
    for connection in free:
        connection.close()
    return done


def wrong(target: Target, made: Exchange) -> str:
    """What is wrong with an answer; nothing, if it is right."""
    if made.status != 200:
        return f"{made.status}: {made.body[:200].decode(errors='replace')}"
    try:
        answer, expected = target.read(made.body), target.expected[made.which]
        got, right = answer["probabilities"], expected["probabilities"]
        same = answer["label"] == expected["label"] and got.keys() == right.keys()
        away = max(abs(got[label] - value) for label, value in right.items())
    except (ValueError, KeyError, TypeError, IndexError, AttributeError):
        same, away = False, np.inf
    return "" if same and away <= TOLERANCE else f"a wrong answer: {made.body[:200].decode(errors='replace')}"


def summarise(target: Target, done: Sequence[Exchange], ramp_s: float, seconds: float) -> Load:
    """Sum up what came back of the requests that were under way in the window, the `seconds` after the ramp.

    Each counts into the rate by the share of its time that lies in the window: servers that work at all requests at
    once answer in waves, and whether the last wave is just in or just out would decide. Latencies are of those begun in
    the window; errors of all.
    """
    problems = [wrong(target, made) for made in done]
    right = [made for made, problem in zip(done, problems, strict=True) if not problem]
    ended = np.array([made.ended_s for made in right])
    took = np.array([made.took_s for made in right])
    inside = np.minimum(ended, ramp_s + seconds) - np.maximum(ended - took, ramp_s)
    rate = float((np.maximum(inside, 0) / took).sum() / seconds)
    begun = took[ended - took >= ramp_s]
    p50, p99 = np.percentile(begun * 1e3, [50, 99]) if len(begun) else (np.nan, np.nan)
    first = next(filter(None, problems), "")
    return Load(rate, float(p50), float(p99), len(done) - len(right), len(done), first)


def closed(target: Target, clients: int, seconds: float, ramp_s: float = RAMP_S) -> Load:
    """As many clients, each of which sends its next request when the last is answered; the ramp comes before."""
    return summarise(target, _run(_closed(target, clients, ramp_s + seconds)), ramp_s, seconds)


def opened(target: Target, rate: float, seconds: float, seed: int = 0) -> Load:
    """Poisson arrivals at a rate a second, whether or not the last are answered; latency counts from when due."""
    return summarise(target, _run(_open(target, rate, RAMP_S + seconds, seed)), RAMP_S, seconds)


def ask(target: Target) -> str:
    """Send the requests one after the other, each once; the first thing that is wrong with an answer ends it."""

    async def each() -> list[Exchange]:
        connection, found = Connection(), list[Exchange]()
        for index in range(len(target.requests)):
            found.append(await _one(connection, target, index, clock(), 0.0))
            if wrong(target, found[-1]):
                break
        connection.close()
        return found

    return wrong(target, _run(each())[-1])


def _run(work: Coroutine[Any, Any, list[Exchange]]) -> list[Exchange]:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work)
