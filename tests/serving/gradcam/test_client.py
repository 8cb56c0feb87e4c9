"""The calling side of the Grad-CAM runner, against a process that is slow, gone, or comes back."""

import asyncio
import dataclasses
import json
import time
from collections.abc import Coroutine
from typing import Any

import numpy as np
import pytest

from errors import DeadlineExceeded, InvalidImage, QueueFull, Unavailable
from runners.runner import Answer
from serving.gradcam import client as remote
from serving.gradcam.client import (
    FAILURES,
    IN_FLIGHT,
    RemoteExplainer,
    answer_of,
    ask_of,
    in_text,
    reply_in_text,
    reply_of,
)
from serving.gradcam.worker import Ask, Explained

ASK = Ask(b"", -1, "layercam", "map", 0.5, at_input_size=False)
ANSWER = Answer(
    Explained(np.array([1, 2], np.float32), 1, b"png", np.ones((2, 2), np.float32), (4, 3), None), 1.0, 2.0, 3.0, 1
)


class Process:
    """The other side: answers unless told to be gone, or slow."""

    def __init__(self) -> None:
        self.gone, self.delay, self.calls, self.dropped, self.fail_next = False, 0.0, 0, 0, 0
        self.told = list[str]()
        self.closing = False

    async def explain(self, model: str, ask: Ask, seconds: float, call: str) -> dict[str, Any]:
        self.calls += 1
        if self.fail_next:
            self.fail_next -= 1
            raise ConnectionResetError
        try:
            for _ in range(int(self.delay / 0.01)):
                await asyncio.sleep(0.01)
                self._check()
        except asyncio.CancelledError:
            self.dropped += 1
            raise
        self._check()
        return reply_of(ANSWER)

    async def cancel(self, call: str) -> None:
        self.told.append(call)

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
    watching = asyncio.create_task(explainer.watch(process, lambda: process.closing))
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
    for error in (InvalidImage("no picture"), QueueFull("full", 17), Unavailable("loading", 9)):
        with pytest.raises(type(error), match=str(error)) as raised:
            answer_of(reply_of(error))
        assert vars(raised.value) == vars(error)


def test_in_text_it_crosses_to_another_machine_to_the_last_bit() -> None:
    ask = Ask(bytes(range(256)), 1, "gradcam++", "overlay", 0.3, at_input_size=True, threshold=0.25)
    assert ask_of(json.loads(json.dumps(in_text(ask)))) == ask
    assert ask_of(dataclasses.asdict(ask)) == ask
    third = np.full((2, 2), 1 / 3, np.float32)
    for picture in (b"\x89PNG\xff", None):
        sent = ANSWER._replace(value=ANSWER.value._replace(map=third, picture=picture))
        got = answer_of(json.loads(json.dumps(reply_in_text(reply_of(sent)))))
        assert got.value.map.dtype == np.float32 and np.array_equal(got.value.map, third)
        assert np.array_equal(got.value.logits, sent.value.logits)
        assert got.value.picture == picture and got.value.size == (4, 3)
        assert got[1:] == sent[1:]
    with pytest.raises(QueueFull, match="full"):
        answer_of(json.loads(json.dumps(reply_in_text(reply_of(QueueFull("full", 17))))))


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
        await asyncio.sleep(0.05)
        assert process.dropped == 2 and len(set(process.told)) == 2
        watching.cancel()

    run(work())


def test_after_connections_broke_in_a_row_no_more_calls_are_made_until_the_process_says_its_state() -> None:
    async def work() -> None:
        process = Process()
        explainer, watching = await connected(process)
        watching.cancel()
        process.fail_next = 100
        for _ in range(FAILURES):
            with pytest.raises(Unavailable):
                await explainer.explain("small", ASK, soon())
        made, process.fail_next = process.calls, 0
        with pytest.raises(Unavailable, match="gone or restarting"):
            await explainer.explain("small", ASK, soon())
        assert process.calls == made <= FAILURES + 1
        watching = asyncio.create_task(explainer.watch(process, lambda: False))
        while explainer.open:
            await asyncio.sleep(0.01)
        assert (await explainer.explain("small", ASK, soon())).infer_ms == 3.0
        watching.cancel()

    run(work())


def test_a_process_that_says_its_state_but_explains_nothing_is_tried_now_and_then(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(remote, "COOL_DOWN_S", 60.0)

    async def work() -> None:
        process = Process()
        process.delay = 60.0
        explainer, watching = await connected(process, 100)
        for _ in range(FAILURES):
            with pytest.raises(Unavailable, match="more than"):
                await explainer.explain("small", ASK, soon())
        await asyncio.sleep(1.2)  # two beats: its state alone closes nothing
        with pytest.raises(Unavailable, match="does not answer in time"):
            await explainer.explain("small", ASK, soon())
        assert process.calls == FAILURES and not explainer.open  # other models are still explained
        explainer._models["small"].trial_at = 0.0  # as if the minute were over
        process.delay = 0.0
        first, second = await asyncio.gather(
            *(explainer.explain("small", ASK, soon()) for _ in range(2)), return_exceptions=True
        )
        assert isinstance(first, Answer) and isinstance(second, Unavailable)  # one is the trial
        assert (await explainer.explain("small", ASK, soon())).infer_ms == 3.0
        watching.cancel()

    run(work())


def test_clients_with_short_deadlines_close_nothing_to_others() -> None:
    async def work() -> None:
        process = Process()
        process.delay = 0.5
        explainer, watching = await connected(process)
        patient = asyncio.create_task(explainer.explain("small", ASK, soon()))
        for _ in range(3 * FAILURES):
            with pytest.raises(DeadlineExceeded):
                await explainer.explain("small", ASK, soon(0.02))
        assert not explainer.open
        assert (await patient).value.target == 1
        watching.cancel()

    run(work())


def test_time_outs_beside_answers_are_load_and_not_failure() -> None:
    async def work() -> None:
        process = Process()
        explainer, watching = await connected(process, 200)
        for _ in range(2 * FAILURES):
            process.delay = 5.0
            late = asyncio.create_task(explainer.explain("small", ASK, soon()))
            await asyncio.sleep(0.05)
            process.delay = 0.0
            await explainer.explain("small", ASK, soon())
            with pytest.raises(Unavailable):
                await late
        assert not explainer.open
        watching.cancel()

    run(work())


def test_more_calls_than_there_are_connections_are_refused_with_when_to_come_back() -> None:
    async def work() -> None:
        process = Process()
        process.delay = 0.3
        explainer, watching = await connected(process)
        calls = [explainer.explain("small", ASK, soon()) for _ in range(IN_FLIGHT + 20)]
        done = await asyncio.gather(*calls, return_exceptions=True)
        assert [isinstance(each, Answer) for each in done] == [True] * IN_FLIGHT + [False] * 20
        assert all(isinstance(each, QueueFull) for each in done[IN_FLIGHT:])
        watching.cancel()

    run(work())


def test_a_client_that_hangs_up_is_forgotten_there_too() -> None:
    async def work() -> None:
        process = Process()
        process.delay = 5.0
        explainer, watching = await connected(process)
        call = asyncio.create_task(explainer.explain("small", ASK, soon()))
        await asyncio.sleep(0.05)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await asyncio.sleep(0.05)
        assert process.dropped == 1 and len(process.told) == 1
        watching.cancel()

    run(work())
