"""The calling side of the Grad-CAM process, against one that is silent, gone, or comes back."""

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from errors import DeadlineExceeded, QueueFull, Unavailable
from runners.runner import Answer
from serving.gradcam import client
from serving.gradcam.client import MAX_FAILURES, MAX_IN_FLIGHT, ExplainerClient
from serving.gradcam.wire import ExplainedPicture, Explanation, ExplanationRequest, answers_to_fields

REQUEST = ExplanationRequest(b"", (), "layercam", "map", 0.5, at_input_size=False)
ANSWER = Answer(
    ExplainedPicture(
        np.array([1, 2], np.float32), None, (Explanation(1, b"png", np.ones((2, 2), np.float32), (4, 3)),)
    ),
    1.0,
    2.0,
    3.0,
    1,
)
PATIENCE_S = 60.0


class Process:
    """The other side, which answers unless a test makes it hold calls, break connections or go.

    Attributes:
        gone: whether nobody is there; calls under way lose their connection.
        holding: whether a call that begins now is held, until `released`.
        released: whether held calls are answered.
        breaking: how many of the next calls lose their connection.
        calls: the number of calls that began.
        states_told: how often it told its state.
        dropped: the number of calls that were cancelled on the caller's side.
        cancelled: the names of the calls that it was asked to give up.
    """

    def __init__(self) -> None:
        self.gone = self.holding = self.released = False
        self.breaking = self.calls = self.states_told = self.dropped = 0
        self.cancelled = list[str]()

    async def explain(
        self, tag: str, requests: Sequence[ExplanationRequest], seconds: float, call: str, client: str
    ) -> dict[str, Any]:
        self.calls += 1
        if self.breaking:
            self.breaking -= 1
            raise ConnectionResetError
        is_held = self.holding
        try:
            while is_held and not self.released:
                await asyncio.sleep(0.005)
                self._check()
        except asyncio.CancelledError:
            self.dropped += 1
            raise
        self._check()
        return answers_to_fields([ANSWER] * len(requests))

    async def cancel(self, call: str) -> None:
        self.cancelled.append(call)

    async def status(self, tags: Sequence[str] | None) -> dict[str, Any]:
        self._check()
        self.states_told += 1
        return {"small": {"state": "ready"}}

    def _check(self) -> None:
        if self.gone:
            raise ConnectionRefusedError


async def explain(explainer: ExplainerClient, deadline: float) -> "Answer[ExplainedPicture]":
    """Return the answer to one picture."""
    (answer,) = await explainer.explain("small", [REQUEST], deadline)
    assert isinstance(answer, Answer)
    return answer


@pytest.fixture(autouse=True)
def _quick_heartbeat(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "HEARTBEAT_S", 0.01)


def run(work: Coroutine[Any, Any, None]) -> None:
    """Run a test; one that waits for ever fails."""
    asyncio.run(asyncio.wait_for(work, PATIENCE_S))


async def until(condition: Callable[[], bool]) -> None:
    """Return once a condition holds."""
    while not condition():
        await asyncio.sleep(0.005)


async def connected(
    process: Process, timeout_ms: float = 10 * PATIENCE_S * 1000
) -> tuple[ExplainerClient, "asyncio.Task[None]"]:
    """Return a client to which the process has told its state, and the task that goes on asking for it."""
    explainer = ExplainerClient(timeout_ms)
    watching = asyncio.create_task(explainer.watch(process, lambda: False))
    await until(lambda: not explainer.unavailable_reason)
    return explainer, watching


def soon(seconds: float = 5 * PATIENCE_S) -> float:
    """Return a deadline; by default it is later than any test ends."""
    return time.monotonic() + seconds


def test_before_the_process_has_said_anything_calls_are_refused() -> None:
    async def work() -> None:
        with pytest.raises(Unavailable, match="starting"):
            await explain(ExplainerClient(1000), soon())

    run(work())


def test_a_call_that_fails_is_made_once_more() -> None:
    async def work() -> None:
        process = Process()
        explainer, watching = await connected(process)
        process.breaking = 1
        assert (await explain(explainer, soon())).infer_ms == 3.0
        assert process.calls == 2
        watching.cancel()

    run(work())


def test_when_the_process_goes_calls_under_way_are_given_up_and_come_back_with_it() -> None:
    async def work() -> None:
        process = Process()
        process.holding = True
        explainer, watching = await connected(process)
        under_way = [asyncio.create_task(explain(explainer, soon())) for _ in range(4)]
        await until(lambda: process.calls == 4)
        process.gone = True
        for call in under_way:  # long before their time is over
            with pytest.raises(Unavailable):
                await call
        with pytest.raises(Unavailable, match="Predictions are"):
            await explain(explainer, soon())
        process.gone = process.holding = False
        await until(lambda: not explainer.unavailable_reason)
        assert (await explain(explainer, soon())).value.explanations[0].target == 1
        watching.cancel()

    run(work())


def test_a_call_that_takes_too_long_is_given_up_and_cancelled() -> None:
    async def work() -> None:
        process = Process()
        process.holding = True
        explainer, watching = await connected(process, 200)
        with pytest.raises(Unavailable, match=r"0\.2 s"):
            await explain(explainer, soon())
        with pytest.raises(DeadlineExceeded):
            await explain(explainer, soon(0.1))
        await until(lambda: process.dropped == 2 and len(set(process.cancelled)) == 2)
        watching.cancel()

    run(work())


def test_after_connections_broke_in_a_row_no_more_calls_are_made_until_the_process_says_its_state() -> None:
    async def work() -> None:
        process = Process()
        explainer, watching = await connected(process)
        watching.cancel()
        process.breaking = 100
        for _ in range(MAX_FAILURES):
            with pytest.raises(Unavailable):
                await explain(explainer, soon())
        calls, process.breaking = process.calls, 0
        with pytest.raises(Unavailable, match="gone or restarting"):
            await explain(explainer, soon())
        assert process.calls == calls <= MAX_FAILURES + 1
        watching = asyncio.create_task(explainer.watch(process, lambda: False))
        await until(lambda: not explainer.unavailable_reason)
        assert (await explain(explainer, soon())).infer_ms == 3.0
        watching.cancel()

    run(work())


def test_a_process_that_says_its_state_but_explains_nothing_is_tried_now_and_then(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def work() -> None:
        process = Process()
        process.holding = True
        explainer, watching = await connected(process, 100)
        clock: SimpleNamespace = SimpleNamespace(ahead_s=0.0, monotonic=lambda: time.monotonic() + clock.ahead_s)
        monkeypatch.setattr(client, "time", clock)
        monkeypatch.setattr(client, "COOL_DOWN_S", 10 * PATIENCE_S)
        for _ in range(MAX_FAILURES):
            with pytest.raises(Unavailable, match="more than"):
                await explain(explainer, soon())
        states_told = process.states_told
        await until(lambda: process.states_told >= states_told + 2)  # its state alone closes nothing
        with pytest.raises(Unavailable, match="does not answer in time"):
            await explain(explainer, soon())
        assert process.calls == MAX_FAILURES and not explainer.unavailable_reason  # other models are still explained
        clock.ahead_s, process.holding = client.COOL_DOWN_S, False
        deadline = soon() + clock.ahead_s
        first, second = await asyncio.gather(*(explain(explainer, deadline) for _ in range(2)), return_exceptions=True)
        assert isinstance(first, Answer) and isinstance(second, Unavailable)  # one is the trial
        assert (await explain(explainer, deadline)).infer_ms == 3.0
        watching.cancel()

    run(work())


def test_clients_with_short_deadlines_close_nothing_to_others() -> None:
    async def work() -> None:
        process = Process()
        process.holding = True
        explainer, watching = await connected(process)
        patient = asyncio.create_task(explain(explainer, soon()))
        for _ in range(3 * MAX_FAILURES):
            with pytest.raises(DeadlineExceeded):
                await explain(explainer, soon(0.02))
        assert not explainer.unavailable_reason
        process.released = True
        assert (await patient).value.explanations[0].target == 1
        watching.cancel()

    run(work())


def test_time_outs_beside_answers_are_load_and_not_failure() -> None:
    async def work() -> None:
        process = Process()
        explainer, watching = await connected(process, 500)
        for calls in range(0, 2 * (MAX_FAILURES + 1), 2):
            process.holding = True
            late = asyncio.create_task(explain(explainer, soon()))
            await until(lambda: process.calls == calls + 1)
            process.holding = False
            await explain(explainer, soon())
            with pytest.raises(Unavailable, match="more than"):
                await late
        assert (await explain(explainer, soon())).infer_ms == 3.0
        watching.cancel()

    run(work())


def test_more_calls_than_there_are_connections_are_refused_with_when_to_come_back() -> None:
    async def work() -> None:
        process = Process()
        process.holding = True
        explainer, watching = await connected(process)
        calls = [asyncio.create_task(explain(explainer, soon())) for _ in range(MAX_IN_FLIGHT + 20)]
        await until(lambda: process.calls == MAX_IN_FLIGHT)
        process.released = True
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert [isinstance(result, Answer) for result in results] == [True] * MAX_IN_FLIGHT + [False] * 20
        assert all(isinstance(result, QueueFull) for result in results[MAX_IN_FLIGHT:])
        watching.cancel()

    run(work())


def test_a_client_that_hangs_up_is_forgotten_there_too() -> None:
    async def work() -> None:
        process = Process()
        process.holding = True
        explainer, watching = await connected(process)
        call = asyncio.create_task(explain(explainer, soon()))
        await until(lambda: process.calls == 1)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await until(lambda: process.dropped == 1 and len(process.cancelled) == 1)
        watching.cancel()

    run(work())
