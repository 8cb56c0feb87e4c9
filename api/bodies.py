"""The bodies of all requests that a process is answering: how much memory they hold, and how long they may take."""

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from starlette.types import Message, Receive

from api.limits import LEAST_BYTES_PER_S, TICK_S, ReachedLimits, ticks
from errors import BodyTimeout, QueueFull, TooLarge
from runners.memory import memory_limit, trim_memory
from settings import Settings

Received = TypeVar("Received")

BUDGET_SHARE = 8
"""By default all bodies together may hold this part of the memory: an eighth."""
WINDOWS = 3
"""In each such part of the time for a body, it must come at the least rate."""
WORTH_TRIMMING_BYTES = 32 * 2**20
"""Where bodies of fewer bytes are let go, the allocator may keep the memory for the next ones."""
TRIM_TICKS = ticks(1.0), ticks(5.0)
"""How long after bodies were let go their memory is given back: soon, and once more when nothing holds on to it."""
RETRY_AFTER_S = 5


class Bodies:
    """The request bodies of one process, over HTTP and gRPC.

    Args:
        max_bytes: the most bytes of one body.
        budget_bytes: the most bytes of all bodies together, from the first byte that comes to the end of the answer.
        seconds: the longest time that a body may take to come.
        limits: notes what is refused.
    """

    def __init__(self, max_bytes: int, budget_bytes: int, seconds: float, limits: ReachedLimits) -> None:
        self.max_bytes, self._budget_bytes, self._seconds = max_bytes, budget_bytes, seconds
        self._limits = limits
        self._ticks = ticks(seconds)
        self._window_ticks = max(1, self._ticks // WINDOWS)
        self._least_bytes = int(LEAST_BYTES_PER_S * TICK_S * self._window_ticks)
        self.now = 0
        self.held_bytes = 0
        self.awaited = dict["Body", asyncio.Task[object] | None]()
        """The bodies whose next part is waited for, and the task that waits; the oldest first."""
        self._peak_bytes, self._trim_at = 0, list[int]()

    @classmethod
    def of_settings(cls, settings: Settings, limits: ReachedLimits) -> "Bodies":
        """Return the bodies of one worker as the operator set their limits."""
        budget = settings.body_budget_bytes or memory_limit() // BUDGET_SHARE
        share = max(budget // settings.workers, settings.max_body_bytes)
        return cls(settings.max_body_bytes, share, settings.body_seconds, limits)

    def check_size(self, size: int, counted: int = 0) -> None:
        """Raise unless a body may have so many bytes, of which some have been counted already.

        Raises:
            QueueFull: the memory for bodies is taken by others just now.
            TooLarge: no body may have so many.
        """
        if size > self.max_bytes:
            raise TooLarge(f"The body has more than {self.max_bytes:,} bytes, the limit here. Send less at a time.")
        if self.held_bytes + size - counted > self._budget_bytes:
            self._limits.note(
                "body_bytes",
                f"Bodies of requests hold {self.held_bytes:,} bytes, and VITRINE_BODY_BUDGET_BYTES allows this process "
                f"{self._budget_bytes:,}: others are refused.",
            )
            raise QueueFull(
                "The bodies of other requests fill the memory for them. Send this one again later.",
                RETRY_AFTER_S,
            )

    def have_room(self, size: int) -> bool:
        """Return whether `check_size` would let a body of so many bytes in."""
        return size <= self.max_bytes and self.held_bytes + size <= self._budget_bytes

    def hold(self, size: int) -> None:
        """Count bytes that have come."""
        self.held_bytes += size
        if self.held_bytes > self._peak_bytes:
            self._peak_bytes = self.held_bytes

    def release(self, size: int) -> None:
        """Count bytes that are let go."""
        self.held_bytes -= size

    def sweep(self) -> None:
        """Cut off bodies that are late, and give memory back; to be called every `TICK_S`."""
        self.now += 1
        for body in list(self.awaited):
            if reason := self._lateness(body):
                self._limits.note("body_seconds", f"A body was given up: {reason}.")
                body.cut_off(f"The body was given up: {reason}. Send it faster, or less of it.")
        self._cut_messages_over_budget()
        self._trim()

    def _lateness(self, body: "Body") -> str:
        """Return what a body misses, "" for nothing."""
        if body.is_in_stream:
            return ""
        if self.now - body.began >= self._ticks:
            return f"it was not there after {self._seconds:g} seconds"
        if body.size_is_known and self.now - body.window_began >= self._window_ticks:
            if body.held_bytes - body.window_bytes < self._least_bytes:
                return f"it came at less than {LEAST_BYTES_PER_S:,} bytes a second"
            body.window_began, body.window_bytes = self.now, body.held_bytes
        return ""

    def _cut_messages_over_budget(self) -> None:
        """Cut off the oldest messages of gRPC if all that are under way might hold more than the budget.

        How much of them has come is not known before they are whole, so each counts as one of the most bytes; and
        those of the last second are let be, since nearly all of them are about to be whole. A stream that waits for its
        next message counts too, since nobody can tell it from one whose message is half there.
        """
        messages = [body for body in self.awaited if not body.size_is_known]
        excess = len(messages) - (self._budget_bytes - self.held_bytes) // self.max_bytes
        for body in messages[: max(0, excess)]:
            if self.now - body.began >= TRIM_TICKS[0]:
                self._limits.note(
                    "body_bytes", "More messages of gRPC are under way than the memory for bodies allows."
                )
                body.cut_off(
                    "The stream was given up, because too many others are open and send nothing. Open it again."
                    if body.is_in_stream
                    else "The message was given up, because too many others are under way. Send it again, faster."
                )

    def trim_soon(self) -> None:
        """Give memory that is being let go back to the system in a while."""
        soon, later = (self.now + after for after in TRIM_TICKS)
        self._trim_at = [*(self._trim_at[:1] or [soon]), later]

    def _trim(self) -> None:
        if self._peak_bytes - self.held_bytes >= WORTH_TRIMMING_BYTES:
            self._peak_bytes = self.held_bytes
            self.trim_soon()
        if self._trim_at and self.now >= self._trim_at[0]:
            del self._trim_at[0]
            asyncio.get_running_loop().run_in_executor(None, trim_memory)


class Body:
    """The body of one request while it comes, and until the request is answered.

    Args:
        bodies: all of the process.
        size_is_known: False for a message of gRPC, of which nothing is seen before it is whole.
        is_in_stream: whether it is the next message of a stream, which may be as late as it likes.
    """

    held_bytes = window_bytes = 0
    is_complete = False
    _reason = ""

    def __init__(self, bodies: Bodies, *, size_is_known: bool = True, is_in_stream: bool = False) -> None:
        self._bodies, self.size_is_known, self.is_in_stream = bodies, size_is_known, is_in_stream
        self.began = self.window_began = bodies.now

    async def receive(self, receive: Receive) -> Message:
        """Return the next message of the request, as ASGI's `receive` does.

        Raises:
            BodyTimeout: the body is late, or comes too slowly.
            QueueFull: the memory for bodies is taken.
            TooLarge: it has more bytes than a body may have.
        """
        if self.is_complete:  # what is waited for is the client's hanging up
            return await receive()
        message = await self.wait_for(receive())
        if message["type"] == "http.request":
            if part := message.get("body"):
                self.hold(len(part))
            self.is_complete = not message.get("more_body", False)
        return message

    async def wait_for(self, part: Awaitable[Received]) -> Received:
        """Return the next part of the body, unless it is late.

        Raises:
            BodyTimeout: it is.
        """
        awaited = self._bodies.awaited
        awaited[self] = task = asyncio.current_task()
        try:
            return await part
        except asyncio.CancelledError:
            if not self.size_is_known:  # much of it may have come, which was counted nowhere
                self._bodies.trim_soon()
            if self._reason and task is not None and task.uncancel() == 0:
                raise BodyTimeout(self._reason) from None
            raise
        finally:
            del awaited[self]

    def hold(self, size: int) -> None:
        """Count bytes that have come, until `release`.

        Raises:
            QueueFull: the memory for bodies is taken.
            TooLarge: the body has more bytes than it may have.
        """
        self._bodies.check_size(self.held_bytes + size, self.held_bytes)
        self._bodies.hold(size)
        self.held_bytes += size

    def release(self) -> None:
        """Let go of all bytes; the request has been answered."""
        if self.held_bytes:
            self._bodies.release(self.held_bytes)
            self.held_bytes = 0

    def cut_off(self, reason: str) -> None:
        """End the wait for the next part with a BodyTimeout."""
        task = self._bodies.awaited.get(self)
        if task is not None and not self._reason:
            self._reason = reason
            task.cancel()
