"""Waiting for an answer: who hangs up, what is late, and what stays behind of an upload that failed."""

import asyncio
import gc
import logging
import math
import time
import weakref

import pytest

from errors import CallerGone, DeadlineExceeded, InvalidInput
from runners.awaiting import awaitable
from runners.runner import Runner
from serving.waiting import UNWATCHED_S, wait_for
from tests.runners.steps import start_runner


class Caller:
    """A caller that has left, stays, or may not be looked at."""

    def __init__(self, mood: str) -> None:
        self._mood = mood

    async def gone(self) -> None:
        assert self._mood != "unasked", "nobody should have looked"
        if self._mood == "stays":
            await asyncio.Event().wait()


def test_who_hangs_up_is_noticed_and_the_work_is_cancelled() -> None:
    async def run() -> bool:
        work: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        with pytest.raises(CallerGone):
            await wait_for(work, math.inf, Caller("has left"))
        return work.cancelled()

    assert asyncio.run(asyncio.wait_for(run(), 20))


def test_an_answer_that_is_there_at_once_costs_no_look_at_the_client() -> None:
    async def work() -> int:
        await asyncio.sleep(0)
        return 7

    async def run() -> int:
        return await wait_for(work(), math.inf, Caller("unasked"))

    assert asyncio.run(run()) == 7


@pytest.mark.parametrize("allowed_s", [0.0, UNWATCHED_S / 4, UNWATCHED_S * 1.5])
def test_the_deadline_cancels_the_work(allowed_s: float) -> None:
    async def run() -> bool:
        work: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        with pytest.raises(DeadlineExceeded, match="more time"):
            await wait_for(work, time.monotonic() + allowed_s, Caller("stays"))
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
            await wait_for(awaitable(runner.submit(upload)), time.monotonic() + 20, Caller("stays"))
        return weakref.ref(upload)

    for runner in (start_runner("m", refuse, list), start_runner("m", lambda _: 1, fail)):
        gc.disable()
        try:
            gone = asyncio.run(ask(runner))
            assert runner.close(20)  # the lane has let go of it as well
            assert gone() is None
        finally:
            gc.enable()
