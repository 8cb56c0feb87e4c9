"""Waiting for an answer: who hangs up, what is late, and what stays behind of an upload that failed."""

import asyncio
import gc
import logging
import math
import time
import weakref
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from starlette.requests import Request

from api.problems import ClientGone
from api.waiting import UNWATCHED_S, race
from errors import DeadlineExceeded, InvalidInput
from runners.awaiting import awaitable
from runners.runner import Runner

Receive = Callable[[], Awaitable[dict[str, Any]]]


def request(receive: Receive) -> Request:
    return Request({"type": "http", "headers": []}, receive)


async def hung_up() -> dict[str, Any]:
    return {"type": "http.disconnect"}


async def unasked() -> dict[str, Any]:
    raise AssertionError("nobody should have looked")


async def there() -> dict[str, Any]:
    await asyncio.Event().wait()
    raise AssertionError("this never ends")


def test_who_hangs_up_is_noticed_and_the_work_is_cancelled() -> None:
    async def run() -> bool:
        work: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        with pytest.raises(ClientGone):
            await race(work, request(hung_up), math.inf)
        return work.cancelled()

    assert asyncio.run(asyncio.wait_for(run(), 20))


def test_an_answer_that_is_there_at_once_costs_no_look_at_the_client() -> None:
    async def work() -> int:
        await asyncio.sleep(0)
        return 7

    async def run() -> int:
        return await race(work(), request(unasked), math.inf)

    assert asyncio.run(run()) == 7


@pytest.mark.parametrize("allowed_s", [0.0, UNWATCHED_S / 4, UNWATCHED_S * 1.5])
def test_the_deadline_cancels_the_work(allowed_s: float) -> None:
    async def run() -> bool:
        work: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        with pytest.raises(DeadlineExceeded, match="timeout_ms"):
            await race(work, request(there), time.monotonic() + allowed_s)
        return work.cancelled()

    assert asyncio.run(asyncio.wait_for(run(), 20))


class Upload:
    """Something that can be seen to go."""


def test_an_upload_that_was_refused_goes_at_once_not_when_the_garbage_collector_comes_by(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.CRITICAL, "vitrine.runner")  # what is captured would keep it alive

    def refuse(_: Upload) -> int:
        raise InvalidInput("no picture")

    def fail(_: list[int]) -> list[int]:
        raise RuntimeError("broken")

    async def ask(runner: Runner[Upload, int, int]) -> "weakref.ref[Upload]":
        upload = Upload()
        with pytest.raises(Exception, match=r"no picture|failed"):
            await race(awaitable(runner.submit(upload)), request(there), time.monotonic() + 20)
        return weakref.ref(upload)

    for runner in (Runner("m", refuse, list), Runner("m", lambda _: 1, fail)):
        gc.disable()
        try:
            gone = asyncio.run(ask(runner))
            assert runner.close(20)  # the lane has let go of it as well
            assert gone() is None
        finally:
            gc.enable()
