"""The calling side of the Grad-CAM runner, against a process that is slow, gone, or comes back."""

import asyncio
import time
from collections.abc import Coroutine
from typing import Any

import numpy as np
import pytest

from errors import DeadlineExceeded, InvalidImage, QueueFull, Unavailable
from runners.explained import Ask, Explained
from runners.remote import FAILURES, RemoteExplainer, answer_of, reply_of
from runners.runner import Answer

ASK = Ask(b"", -1, "layercam", "map", 0.5, at_input_size=False)
ANSWER = Answer(
    Explained(np.array([1, 2], np.float32), 1, b"png", np.ones((2, 2), np.float32), (4, 3), None), 1.0, 2.0, 3.0, 1
)


class Process:
    """The other side: answers unless told to be gone, or slow."""

    def __init__(self) -> None:
        self.gone, self.delay, self.calls, self.cancelled, self.fail_next = False, 0.0, 0, 0, 0
        self.closing = False

    async def explain(self, model: str, ask: Ask, seconds: float) -> dict[str, Any]:
        self.calls += 1
        if self.fail_next:
            self.fail_next -= 1
            raise ConnectionResetError
        try:
            for _ in range(int(self.delay / 0.01)):
                await asyncio.sleep(0.01)
                self._check()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        self._check()
        return reply_of(ANSWER)

    async def status(self) -> dict[str, Any]:
        self._check()
        return {"small": {"state": "ready"}}

    def _check(self) -> None:
        if self.gone:
            raise ConnectionRefusedError


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, 30))


async def connected(process: Process, timeout_ms: float = 5000) -> tuple[RemoteExplainer, "asyncio.Task[None]"]:
    explainer = RemoteExplainer(timeout_ms)
    watching = asyncio.create_task(explainer.watch(process.explain, process.status, lambda: process.closing))
    while explainer.open:
        await asyncio.sleep(0.01)
    return explainer, watching


def soon(seconds: float = 10.0) -> float:
    return time.monotonic() + seconds


def test_an_answer_crosses_as_it_was_and_so_does_an_error() -> None:
    again = answer_of(reply_of(ANSWER))
    assert again[1:] == ANSWER[1:]
    assert np.array_equal(again.value.map, ANSWER.value.map)
    assert again.value._replace(logits=None, map=None) == ANSWER.value._replace(logits=None, map=None)  # type: ignore[arg-type]
    for error in (InvalidImage("no picture"), QueueFull("full"), Unavailable("loading")):
        with pytest.raises(type(error), match=str(error)):
            answer_of(reply_of(error))


def test_before_the_process_has_said_anything_calls_are_refused() -> None:
    async def work() -> None:
        with pytest.raises(Unavailable, match="starting"):
            await RemoteExplainer(1000).explain("small", ASK, soon())

    run(work())


def test_a_call_that_fails_is_made_once_more() -> None:
    async def work() -> None:
        process = Process()
        explainer, watching = await connected(process)
        process.fail_next = 1
        assert (await explainer.explain("small", ASK, soon())).infer_ms == 3.0
        assert process.calls == 2
        watching.cancel()

    run(work())


def test_when_the_process_goes_calls_under_way_are_given_up_and_come_back_with_it() -> None:
    async def work() -> None:
        process = Process()
        process.delay = 8.0
        explainer, watching = await connected(process, 20_000)
        under_way = [asyncio.create_task(explainer.explain("small", ASK, soon(20))) for _ in range(4)]
        await asyncio.sleep(0.1)
        process.gone = True
        started = time.monotonic()
        for each in under_way:
            with pytest.raises(Unavailable):
                await each
        assert time.monotonic() - started < 5  # not their 20 s
        with pytest.raises(Unavailable, match="Predictions are"):
            await explainer.explain("small", ASK, soon())
        process.gone, process.delay = False, 0.0
        while explainer.open:
            await asyncio.sleep(0.05)
        assert (await explainer.explain("small", ASK, soon())).value.target == 1
        watching.cancel()

    run(work())


def test_a_call_that_takes_too_long_is_given_up_and_cancelled() -> None:
    async def work() -> None:
        process = Process()
        process.delay = 5.0
        explainer, watching = await connected(process, 200)
        with pytest.raises(Unavailable, match=r"0\.2 s"):
            await explainer.explain("small", ASK, soon())
        with pytest.raises(DeadlineExceeded):
            await explainer.explain("small", ASK, soon(0.1))
        assert process.cancelled == 2
        watching.cancel()

    run(work())


def test_after_some_failures_in_a_row_no_more_calls_are_made() -> None:
    async def work() -> None:
        process = Process()
        explainer, watching = await connected(process)
        watching.cancel()  # nothing closes the circuit again
        process.fail_next = 100
        for _ in range(FAILURES):
            with pytest.raises(Unavailable):
                await explainer.explain("small", ASK, soon())
        made = process.calls
        with pytest.raises(Unavailable):
            await explainer.explain("small", ASK, soon())
        assert process.calls == made <= FAILURES + 1

    run(work())
