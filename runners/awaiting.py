"""The bridge from a Runner's future to an event loop."""

import asyncio
import contextlib
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")


def awaitable(future: "Future[T]") -> "asyncio.Future[T]":
    """Return a future of the running loop for a Runner's future; cancelling it cancels the item.

    `asyncio.wrap_future` would leave the two in a reference cycle: an error, and the upload that its traceback leads
    to, would stay in memory until the garbage collector runs.
    """
    loop = asyncio.get_running_loop()
    waiter: asyncio.Future[T] = loop.create_future()

    def notify(ended: "Future[T]") -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed, and nobody waits
            loop.call_soon_threadsafe(_hand_over, ended, waiter)

    future.add_done_callback(notify)
    waiter.add_done_callback(lambda waited: waited.cancelled() and future.cancel())
    return waiter


def _hand_over(ended: "Future[T]", waiter: "asyncio.Future[T]") -> None:
    if waiter.done():
        return
    if ended.cancelled():
        waiter.cancel()
    elif error := ended.exception():
        waiter.set_exception(error)
    else:
        waiter.set_result(ended.result())
