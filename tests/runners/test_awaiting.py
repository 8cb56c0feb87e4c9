"""A Runner's future on an event loop."""

import asyncio
from concurrent.futures import Future

import pytest

from errors import InvalidInput
from runners.awaiting import awaitable


def test_result_error_and_cancellation_come_over() -> None:
    async def scene() -> None:
        good, bad, dropped = Future[int](), Future[int](), Future[int]()
        waiters = [awaitable(future) for future in (good, bad, dropped)]
        await asyncio.to_thread(good.set_result, 7)
        await asyncio.to_thread(bad.set_exception, InvalidInput("no picture"))
        await asyncio.to_thread(dropped.cancel)
        assert await waiters[0] == 7
        with pytest.raises(InvalidInput, match="no picture"):
            await waiters[1]
        with pytest.raises(asyncio.CancelledError):
            await waiters[2]

    asyncio.run(asyncio.wait_for(scene(), 20))


def test_who_no_longer_waits_cancels_the_item() -> None:
    async def scene() -> bool:
        future = Future[int]()
        awaitable(future).cancel()
        await asyncio.sleep(0)  # callbacks run in the loop's next turn
        return future.cancelled()

    assert asyncio.run(scene())


def test_an_answer_after_the_loop_has_ended_harms_nobody(caplog: pytest.LogCaptureFixture) -> None:
    async def scene() -> "Future[int]":
        future = Future[int]()
        awaitable(future)
        return future

    asyncio.run(scene()).set_result(7)
    assert not caplog.records
