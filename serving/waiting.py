"""Waiting for an answer: until it is there, its deadline passes, or nobody waits for it any more."""

import asyncio
import time
from collections.abc import Awaitable
from typing import Protocol, TypeVar

from errors import CallerGone, DeadlineExceeded

Result = TypeVar("Result")

UNWATCHED_S = 0.1
"""An answer that takes less time than this is not worth a look at whether its caller is still there."""


class Caller(Protocol):
    """Whoever waits for an answer."""

    async def gone(self) -> None:
        """Return as soon as nobody waits for the answer any more."""


async def wait_for(work: Awaitable[Result], deadline: float, caller: Caller | None = None) -> Result:
    """Return the result of work; the deadline cancels it, or a caller that leaves, noticed after `UNWATCHED_S`.

    Args:
        work: what is awaited.
        deadline: a value of `time.monotonic()`.
        caller: who waits; None where the transport itself cancels what nobody waits for.

    Raises:
        CallerGone: nobody waits for the answer any more.
        DeadlineExceeded: the deadline passed.
    """
    task = asyncio.ensure_future(work)
    try:
        await asyncio.wait((task,), timeout=max(0.0, min(UNWATCHED_S, deadline - time.monotonic())))
        if not task.done() and time.monotonic() < deadline:
            await _watch(task, deadline, caller)
        if task.done():
            return task.result()
        raise DeadlineExceeded("The answer was not there before the deadline. Allow the request more time, or retry.")
    finally:
        if task.cancel():  # it was not done
            task.add_done_callback(_retrieve_error)
        # The error of a task leads back to this frame and to the upload, which nothing would free for a long time.
        del task, work


def _retrieve_error(task: "asyncio.Future[Result]") -> None:
    """Look at the error of a task that was given up, or asyncio would log that nobody did."""
    if not task.cancelled():
        task.exception()


async def _watch(task: "asyncio.Future[Result]", deadline: float, caller: Caller | None) -> None:
    """Return when the task is done or the deadline passes; raise CallerGone if the caller leaves before."""
    remaining_s = max(0.0, deadline - time.monotonic())
    if caller is None:
        await asyncio.wait((task,), timeout=remaining_s)
        return
    gone = asyncio.ensure_future(caller.gone())
    try:
        await asyncio.wait((task, gone), timeout=remaining_s, return_when=asyncio.FIRST_COMPLETED)
        if gone.done() and not task.done():
            raise CallerGone
    finally:
        gone.cancel()
