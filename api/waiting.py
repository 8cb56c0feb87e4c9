"""Waiting for an answer: until it is there, the deadline passes or the client hangs up."""

import asyncio
import time
from collections.abc import Awaitable, Sequence
from typing import Any, TypeVar

from starlette.requests import Request

from api.problems import ClientGone
from errors import DeadlineExceeded
from runners.runner import Answer

T = TypeVar("T")

UNWATCHED_S = 0.1
"""What is answered sooner is not worth a look at whether its client is still there, which costs a task."""


async def race(work: Awaitable[T], request: Request, deadline: float, parameter: str = "timeout_ms") -> T:
    """Await work until it is done; the deadline cancels it, or a client that hangs up, noticed after `UNWATCHED_S`.

    `parameter` is what the client can allow more time with.

    Raises:
        ClientGone: nobody is there to answer.
        DeadlineExceeded: the deadline passed.
    """
    done = asyncio.ensure_future(work)
    try:
        await asyncio.wait((done,), timeout=max(0.0, min(UNWATCHED_S, deadline - time.monotonic())))
        if not done.done() and time.monotonic() < deadline:
            await _watch(done, request, deadline)
        if done.done():
            return done.result()
        raise DeadlineExceeded(
            f"The answer was not there before the deadline. Allow more time with {parameter}, or retry."
        )
    finally:
        done.cancel()
        del done, work  # what they failed with leads back here, and to the upload: nothing would free it soon


async def _watch(done: "asyncio.Future[T]", request: Request, deadline: float) -> None:
    """Return when the work is done or the deadline passes; ClientGone if the client hangs up before."""
    gone = asyncio.ensure_future(_hung_up(request))
    try:
        left = max(0.0, deadline - time.monotonic())
        await asyncio.wait((done, gone), timeout=left, return_when=asyncio.FIRST_COMPLETED)
        if gone.done() and not done.done():
            raise ClientGone
    finally:
        gone.cancel()


async def _hung_up(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def timing_of(answers: Sequence[Answer[Any]]) -> dict[str, str]:
    """The Server-Timing header: the longest wait, and the sums of decoding and inference.

    Where all were answered from the cache, RFC 9211's Cache-Status says so too.
    """
    queue = max((each.queue_ms for each in answers), default=0.0)
    decode, infer = sum(each.decode_ms for each in answers), sum(each.infer_ms for each in answers)
    timing = {"Server-Timing": f"queue;dur={queue:.2f}, decode;dur={decode:.2f}, infer;dur={infer:.2f}"}
    return timing | ({"Cache-Status": "vitrine; hit"} if answers and all(each.cached for each in answers) else {})
