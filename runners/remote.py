"""The other side of the Grad-CAM runner: calls into its process, and what to do when it does not answer."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import errors
from errors import DeadlineExceeded, InferenceFailed, Unavailable, VitrineError
from runners.explained import Ask, Explained
from runners.runner import Answer

logger = logging.getLogger("vitrine.explain")

T = TypeVar("T")
Call = Callable[[str, Ask, float], Awaitable[dict[str, Any]]]
"""(model, ask, seconds it may take) → what `reply_of` made of the answer."""

BEAT_S, SILENCE_S = 0.5, 3.0
"""How often the process is asked for its state, and how long it may take to say it."""
FAILURES = 3
"""Calls in a row that may fail before no more are made until the process has answered for its state."""


def reply_of(answer: "Answer[Explained] | VitrineError") -> dict[str, Any]:
    """What crosses between the processes: an answer, or the name and text of an error."""
    if isinstance(answer, VitrineError):
        return {"error": type(answer).__name__, "detail": str(answer)}
    return {"answer": answer._replace(value=answer.value._asdict())._asdict()}  # type: ignore[arg-type]


def answer_of(reply: dict[str, Any]) -> "Answer[Explained]":
    """The answer, or its error raised as it was there."""
    if "answer" in reply:
        fields = dict(reply["answer"])
        return Answer(**{**fields, "value": Explained(**fields["value"])})
    kind = getattr(errors, str(reply.get("error")), InferenceFailed)
    raise kind(str(reply.get("detail")))


class RemoteExplainer:
    """Calls the Grad-CAM process so that nothing it does, or fails to do, reaches a prediction.

    A call that fails is made once more. A call that takes longer than it may is given up. After `FAILURES` in a
    row, or when the process falls silent, the circuit is open: calls are refused at once, those under way are given
    up, and the process is asked for its state until it answers again.

    Args:
        timeout_ms: the longest that an explanation may take.
    """

    def __init__(self, timeout_ms: float) -> None:
        self._timeout_s = timeout_ms / 1000
        self._call: Call | None = None
        self._failures = 0
        self._why_open = "it is starting"
        self._opened: asyncio.Event | None = None
        self.status: dict[str, Any] = {}

    @property
    def open(self) -> str:
        """Why no calls are made just now; empty while they are."""
        return self._why_open

    async def explain(self, model: str, ask: Ask, deadline: float) -> "Answer[Explained]":
        """Explain one picture by a `time.monotonic()` deadline.

        Raises:
            Unavailable: the process is not there, or silent.
            DeadlineExceeded: there was not enough time.
            VitrineError: whatever the Runner there says of this item.
        """
        if self._why_open or self._call is None:
            raise Unavailable(f"The Grad-CAM runner is not available: {self._why_open}. Predictions are.", 2)
        now = time.monotonic()
        ends = min(deadline, now + self._timeout_s)
        for attempt in (1, 2):
            try:
                reply = await self._unless_opened(self._call(model, ask, ends - now), ends)
            except TimeoutError as error:
                self._failed("it does not answer in time")
                if ends == deadline:
                    raise DeadlineExceeded(
                        "The explanation was not there before the deadline. Allow more time."
                    ) from error
                raise Unavailable(
                    f"The Grad-CAM runner took more than {self._timeout_s:g} s. Retry later.", 2
                ) from error
            except VitrineError:
                raise
            except Exception as error:
                self._failed("its process is gone or restarting")
                if attempt == 2 or self._why_open:
                    logger.warning("the Grad-CAM runner cannot be reached: %r", error)
                    raise Unavailable("The Grad-CAM runner cannot be reached. Retry in a few seconds.", 2) from error
            else:
                self._failures = 0
                return answer_of(reply)
        raise AssertionError("unreachable")

    async def watch(
        self, call: Call, status: Callable[[], Awaitable[dict[str, Any]]], closing: Callable[[], bool]
    ) -> None:
        """Ask for the state for ever; opens the circuit when there is no answer, and closes it when there is.

        Args:
            call: makes one call.
            status: asks for the state of every model; see `ExplainedModels.status`.
            closing: whether the server drains: then the process may go, and what is under way is left to it.
        """
        self._call = call
        while not closing():
            try:
                self.status = await asyncio.wait_for(status(), SILENCE_S)
            except Exception:
                if not closing():
                    self._open("its process does not answer")
            else:
                self._failures, self._why_open = 0, ""
            await asyncio.sleep(BEAT_S)

    def _failed(self, why: str) -> None:
        self._failures += 1
        if self._failures >= FAILURES:
            self._open(why)

    def _open(self, why: str) -> None:
        if not self._why_open:
            logger.warning("no more calls to the Grad-CAM runner: %s", why)
        self._why_open = why
        if self._opened is not None:
            self._opened.set()
            self._opened = None

    async def _unless_opened(self, call: Awaitable[T], ends: float) -> T:
        """Await a call until it is done, its time is over (TimeoutError), or the circuit opens (ConnectionError)."""
        if self._opened is None:
            self._opened = asyncio.Event()
        task = asyncio.ensure_future(call)
        opened = asyncio.ensure_future(self._opened.wait())
        try:
            await asyncio.wait({task, opened}, timeout=max(0.0, ends - time.monotonic()), return_when="FIRST_COMPLETED")
            if task.done():
                return task.result()
            raise ConnectionError("the circuit opened") if opened.done() else TimeoutError
        finally:
            for each in (task, opened):
                if not each.done():
                    each.cancel()
                    with contextlib.suppress(asyncio.CancelledError, Exception):
                        await each
