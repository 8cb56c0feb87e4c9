"""A Runner's future for asyncio."""

import asyncio
import contextlib
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")


def awaitable(future: "Future[T]") -> "asyncio.Future[T]":
    """What the running loop can wait for; to cancel it cancels the item.

    As `asyncio.wrap_future`, but for the circle in which that leaves the two: an error, and the upload that its
    traceback leads to, would stay in memory until the garbage collector comes by.
    """
    loop = asyncio.get_running_loop()
    waiter: asyncio.Future[T] = loop.create_future()

    def tell(ended: "Future[T]") -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed, and nobody waits
            loop.call_soon_threadsafe(_hand_over, ended, waiter)

    future.add_done_callback(tell)
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
