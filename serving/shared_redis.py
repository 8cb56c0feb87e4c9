"""The Redis that several replicas share: asked within milliseconds, and left alone while it does not answer."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar
from urllib.parse import urlsplit

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from errors import RedisGone
from runners.metrics import metrics

logger = logging.getLogger("vitrine.redis")

Answer = TypeVar("Answer")

CONNECTIONS = 8
"""The connections of one worker, which are opened before any request needs one; a command takes one for 0.1 ms."""
CONNECT_S = 1.0
"""The longest that opening them all may take, in seconds; no request waits for it."""
PAUSE_S = 1.0
"""After a failure Redis is left alone for so long, in seconds, before a task of its own tries it again."""
MOST_LATE = 5
"""After so many late answers in a row Redis is left alone; one may be late because this machine was busy."""
GRACE_TURNS = 3
"""Turns of the event loop in which an answer that has come, while others held the loop, is still taken."""
LOG_INTERVAL_S = 60.0
"""While Redis fails, the log names it this often, in seconds."""


class _Late(TimeoutError):
    """The time for a command is over."""


class SharedRedis:
    """One worker's connections to Redis, behind a circuit breaker.

    A command that fails, or `MOST_LATE` in a row that take longer than they may, open the circuit: nobody waits for
    Redis any more until a task of its own has opened the connections anew and seen it write within the time for a
    command. A command that is late goes on without whoever asked, so that its connection stays open.

    Args:
        url: `redis://`, `rediss://` or `unix://`; it may hold a password, so it is never logged.
        timeout_s: the longest that a request waits for a command, in seconds.
        pause_s: how long Redis is left alone after a failure, in seconds.

    Attributes:
        is_available: whether commands are sent to it just now.
        failures: commands that failed or were late since the start.
        trials: how often it was tried again since the start.
    """

    def __init__(self, url: str, timeout_s: float, pause_s: float = PAUSE_S) -> None:
        pool: BlockingConnectionPool = BlockingConnectionPool.from_url(
            url,
            max_connections=CONNECTIONS,
            timeout=CONNECT_S,
            socket_timeout=CONNECT_S,
            socket_connect_timeout=CONNECT_S,
            retry=Retry(NoBackoff(), 0),
            client_name="vitrine",
        )
        self.pool, self.client = pool, Redis(connection_pool=pool)
        self.timeout_s, self._pause_s = timeout_s, pause_s
        self.is_available, self.failures, self.trials = False, 0, 0
        self._where = _address(url)
        self._gone = asyncio.Event()
        self._warming = list[Callable[[], Awaitable[object]]]()
        self._watching: asyncio.Task[None] | None = None
        self._late, self._under_way = 0, set[asyncio.Future[Any]]()
        self._logged_at, self._is_logged = float("-inf"), False

    def warm_with(self, command: Callable[[], Awaitable[object]]) -> None:
        """Have a command sent whenever the connections were opened, so that Redis knows its script before requests."""
        self._warming.append(command)

    async def start(self) -> None:
        """Open the connections, which takes `CONNECT_S` at most, and see to it that they are opened again."""
        await self._try()
        self._watching = asyncio.create_task(self._watch())

    async def stop(self) -> None:
        """Close the connections."""
        if self._watching is not None:
            self._watching.cancel()
        self.is_available = False
        with contextlib.suppress(RedisError, OSError):
            await self.client.aclose(close_connection_pool=True)

    async def ask(self, command: Callable[[], Awaitable[Answer]], timeout_s: float | None = None) -> Answer:
        """Return the answer to a command.

        Args:
            command: sends it.
            timeout_s: the longest to wait, in seconds, where that is less than is set for all; a command that is late
                then says nothing of Redis.

        Raises:
            RedisGone: there is none; this takes no time at all while Redis is known not to answer.
        """
        if not self.is_available:
            raise RedisGone
        is_short = timeout_s is not None and timeout_s < self.timeout_s
        try:
            answer = await self._within(command, timeout_s if timeout_s is not None and is_short else self.timeout_s)
        except _Late as error:
            self._note(error)
            self._late += not is_short
            if self._late >= MOST_LATE:
                self._leave_alone()
            raise RedisGone from error
        except (RedisError, OSError, TimeoutError) as error:
            self._note(error)
            self._leave_alone()
            raise RedisGone from error
        self._late = 0
        return answer

    async def _within(self, command: Callable[[], Awaitable[Answer]], seconds: float) -> Answer:
        """Return the answer to a command if it comes in time, or has come by the time that this task runs again."""
        asking = asyncio.ensure_future(command())
        self._under_way.add(asking)
        asking.add_done_callback(self._ended)
        await asyncio.wait((asking,), timeout=seconds)
        for _ in range(GRACE_TURNS):
            if asking.done():
                break
            await asyncio.sleep(0)
        if not asking.done():
            raise _Late
        return asking.result()

    def _ended(self, asking: "asyncio.Future[Any]") -> None:
        """Take note of how a command ended, since perhaps nobody waits for it any more."""
        self._under_way.discard(asking)
        if not asking.cancelled():
            asking.exception()

    def _leave_alone(self) -> None:
        self.is_available = False
        self._gone.set()

    async def _watch(self) -> None:
        while True:
            await self._gone.wait()
            await asyncio.sleep(self._pause_s)
            await self._try()

    async def _try(self) -> None:
        """Open all connections anew, and send commands again if Redis writes in time."""
        self.trials += 1
        try:
            async with asyncio.timeout(CONNECT_S):
                await self.pool.disconnect(inuse_connections=True)
                await asyncio.gather(*(self.client.ping() for _ in range(CONNECTIONS)))
                for command in self._warming:
                    await command()
            await self._within(lambda: self.client.set("vitrine-probe", b"1", ex=60), self.timeout_s)
        except Exception as error:  # this task alone finds out that Redis is back, so it must not end
            self._note(error)
            self._gone.set()
            return
        if self._is_logged:
            logger.warning("Redis at %s answers again.", self._where)
        self._is_logged, self._late = False, 0
        self._gone.clear()
        self.is_available = True

    def _note(self, error: BaseException) -> None:
        """Count a failure, and log it unless one was logged in the last minute; its text might hold the password."""
        self.failures += 1
        metrics().redis_failures.labels("late" if isinstance(error, TimeoutError) else "error").inc()
        now = time.monotonic()
        if now >= self._logged_at + LOG_INTERVAL_S:
            self._logged_at, self._is_logged = now, True
            kind = "late" if isinstance(error, TimeoutError) else type(error).__name__
            logger.error("Redis at %s does not do what it should (%s).", self._where, kind)


def _address(url: str) -> str:
    """Return host and port, or the path of a socket, without user and password."""
    parts = urlsplit(url)
    return parts.path if parts.scheme == "unix" else f"{parts.hostname}:{parts.port or 6379}"
