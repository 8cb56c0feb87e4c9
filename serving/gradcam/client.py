"""Calls into the Grad-CAM process, and what to do when it does not answer."""

import asyncio
import contextlib
import logging
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass, replace
from math import ceil
from typing import Any, Protocol

from errors import DeadlineExceeded, QueueFull, Unavailable, VitrineError
from runners.admission import asked_by
from runners.runner import Answer
from serving.cache import NO_CACHE, ResponseCache
from serving.gradcam.wire import ExplainedPicture, ExplanationRequest, answers_from_fields, request_to_json

logger = logging.getLogger("vitrine.explain")

HEARTBEAT_S, SILENCE_S = 0.5, 3.0
"""How often the process is asked for its state, and how long it may take to tell it, in seconds."""
AT_ONCE = 8
"""The pictures of one request that get no more time together than one alone; twice as many get twice as much."""
MAX_FAILURES = 3
"""The number of calls in a row that may run out of time, or lose the connection, before no more are made."""
COOL_DOWN_S = 5.0
"""After calls ran out of time in a row, one is tried again at this interval, in seconds."""
SHORTEST_FAIR_S = 2.0
"""A call with less time than this, and less than the process's own limit, tells nothing if it runs out."""
MAX_IN_FLIGHT = 64
"""The number of calls at once; BentoML's client has 100 connections and lets more calls wait without a bound."""


class GradCamCalls(Protocol):
    """The calls that the Grad-CAM process answers."""

    def explain(
        self, tag: str, requests: Sequence[ExplanationRequest], seconds: float, call: str, client: str
    ) -> Awaitable[dict[str, Any]]:
        """Explain pictures within `seconds`, all or none, as `answers_to_fields` returns them.

        Args:
            tag: `name:version` of the model.
            requests: what to explain, and how.
            seconds: how long the caller waits.
            call: a name for `cancel`.
            client: who asks, as far as clients can be told apart; else empty.
        """

    def cancel(self, call: str) -> Awaitable[object]:
        """Give up a call that nobody waits for any more."""

    def status(self, tags: Sequence[str] | None) -> Awaitable[dict[str, Any]]:
        """Return the state of every model by its tag: `state`, `detail` and, once it runs, `stats`.

        Args:
            tags: the versions that the caller serves, or will; those that the process lacks it begins to load. None
                leaves it as it is.
        """


class BentoMLCalls:
    """The Grad-CAM process behind BentoML's client.

    Args:
        client: the client's asynchronous side.
        as_json: whether requests go as JSON, which they must to another machine.
    """

    def __init__(self, client: Any, *, as_json: bool) -> None:
        self._client, self._as_json = client, as_json

    def explain(
        self, tag: str, requests: Sequence[ExplanationRequest], seconds: float, call: str, client: str
    ) -> Awaitable[dict[str, Any]]:
        """Explain pictures within `seconds`, all or none."""
        fields = [request_to_json(request) if self._as_json else asdict(request) for request in requests]
        answer: Awaitable[dict[str, Any]] = self._client.call("explain", tag, fields, seconds, call, client)
        return answer

    def cancel(self, call: str) -> Awaitable[object]:
        """Give up a call that nobody waits for any more."""
        done: Awaitable[object] = self._client.call("cancel", call)
        return done

    def status(self, tags: Sequence[str] | None) -> Awaitable[dict[str, Any]]:
        """Return the state of every model by its tag."""
        states: Awaitable[dict[str, Any]] = self._client.call("status", tags)
        return states


class ExplainerClient:
    """Calls the Grad-CAM process so that nothing it does, or fails to do, reaches a prediction.

    A call whose connection breaks is made once more. A call that takes longer than it may is given up, here and there;
    so is one whose client has gone. The circuit opens, and calls are refused at once, in two cases: the process falls
    silent or its connections break, until it says its state again, and what is under way is given up too; or, for one
    model, it says its state, but several calls in a row ran out of time while none succeeded, until a trial call every
    `COOL_DOWN_S` comes back. A client's own short deadline counts for nothing.

    Args:
        timeout_ms: the longest that an explanation may take.
        cache: answers that were given before.
    """

    def __init__(self, timeout_ms: float, cache: ResponseCache = NO_CACHE) -> None:
        self._timeout_s, self._cache = timeout_ms / 1000, cache
        self._process: GradCamCalls | None = None
        self._unavailable_reason, self._broken = "it is starting", 0
        self._circuits: dict[str, _Circuit] = {}
        self._under_way: set[asyncio.Task[dict[str, Any]]] = set()
        self._cancelling: set[asyncio.Task[None]] = set()
        self.status: dict[str, Any] = {}

    def is_at_work(self) -> bool:
        """Return whether the process has something of this one to explain."""
        return bool(self._under_way)

    @property
    def unavailable_reason(self) -> str:
        """Why no calls are made just now, for any model; empty while they are made."""
        return self._unavailable_reason

    def open_breakers(self) -> list[str]:
        """Return the versions that no calls are made for just now, of those that the process has or had, by tag."""
        if self._unavailable_reason:
            return [*self.status]
        return [tag for tag, circuit in self._circuits.items() if circuit.stuck_reason]

    async def explain(
        self, tag: str, requests: Sequence[ExplanationRequest], deadline: float
    ) -> "list[Answer[ExplainedPicture] | VitrineError]":
        """Explain the pictures of one request, all of them or none, but for those that were explained before.

        Args:
            tag: `name:version` of the model.
            requests: what to explain, and how.
            deadline: a value of `time.monotonic()`.

        Returns:
            For each picture its answer, or the error of the Runner there.

        Raises:
            Unavailable: the process is not there, silent or stuck.
            QueueFull: `MAX_IN_FLIGHT` calls are under way, or the Runner there takes no more.
            DeadlineExceeded: there was not enough time.
        """
        keys = [self._cache.key(tag, request.data, replace(request, data=b"")) for request in requests]
        await self._cache.fetch(*keys)
        cached = [self._cache.get(tag, key) for key in keys]
        others = [request for request, answer in zip(requests, cached, strict=True) if answer is None]
        asked = iter(await self._explain_remotely(tag, others, deadline) if others else ())
        answers = [next(asked) if answer is None else answer for answer in cached]
        for key, before, answer in zip(keys, cached, answers, strict=True):
            if key is not None and before is None and not isinstance(answer, VitrineError):
                self._cache.keep(key, answer)
        return answers

    async def _explain_remotely(
        self, tag: str, requests: Sequence[ExplanationRequest], deadline: float
    ) -> "list[Answer[ExplainedPicture] | VitrineError]":
        circuit = self._circuits.setdefault(tag, _Circuit())
        self._check_available(circuit)
        started, most_s = time.monotonic(), self._timeout_s * ceil(len(requests) / AT_ONCE)
        ends = min(deadline, started + most_s)
        for attempt in (1, 2):
            try:
                reply = await self._call(tag, requests, ends)
            except TimeoutError as error:
                if ends - started > 0.99 * min(most_s, SHORTEST_FAIR_S):  # not a client's own short deadline
                    self._note_late_call(circuit, started)
                if ends == deadline:
                    raise DeadlineExceeded(
                        "The explanation was not there before the deadline. Allow more time."
                    ) from error
                raise Unavailable(f"The Grad-CAM runner took more than {most_s:g} s. Retry later.", 2) from error
            except _GivenUp as error:
                raise self._refusal(circuit) from error
            except Exception as error:
                self._broken += 1
                if self._broken >= MAX_FAILURES:
                    self._give_up_process("its process is gone or restarting")
                if attempt == 2 or self._unavailable_reason:
                    logger.warning("the Grad-CAM runner cannot be reached: %r", error)
                    raise Unavailable("The Grad-CAM runner cannot be reached. Retry in a few seconds.", 2) from error
            else:
                self._broken = circuit.late_calls = 0
                circuit.stuck_reason, circuit.answered_at = "", time.monotonic()
                return answers_from_fields(reply)
        raise AssertionError("unreachable")

    async def watch(
        self,
        process: GradCamCalls,
        closing: Callable[[], bool],
        tags: Callable[[], Sequence[str] | None] = lambda: None,
    ) -> None:
        """Ask for the state until the server drains; what is under way then is left to the process.

        Args:
            process: whom to call.
            closing: whether the server drains.
            tags: the versions that the process is to have.
        """
        self._process = process
        while not closing():
            try:
                self.status = await asyncio.wait_for(process.status(tags()), SILENCE_S)
            except Exception:
                if not closing():
                    self._give_up_process("its process does not answer")
            else:
                self._broken, self._unavailable_reason = 0, ""
            await asyncio.sleep(HEARTBEAT_S)

    def _check_available(self, circuit: "_Circuit") -> None:
        """Raise Unavailable or QueueFull unless a call may be made now."""
        now = time.monotonic()
        if self._unavailable_reason or (circuit.stuck_reason and now < circuit.next_trial_at):
            raise self._refusal(circuit)
        if len(self._under_way) >= MAX_IN_FLIGHT:
            raise QueueFull(f"The Grad-CAM runner has {MAX_IN_FLIGHT} explanations under way, as many as it takes.", 2)
        circuit.next_trial_at = now + COOL_DOWN_S

    def _refusal(self, circuit: "_Circuit") -> Unavailable:
        reason = self._unavailable_reason or circuit.stuck_reason
        return Unavailable(f"The Grad-CAM runner is not available: {reason}. Predictions are.", 2)

    def _note_late_call(self, circuit: "_Circuit", started: float) -> None:
        if circuit.answered_at < started:
            circuit.late_calls += 1
            if circuit.late_calls >= MAX_FAILURES and not circuit.stuck_reason:
                circuit.stuck_reason = "it does not answer in time"
                circuit.next_trial_at = time.monotonic() + COOL_DOWN_S
                logger.warning("no more calls to the Grad-CAM runner: %s", circuit.stuck_reason)

    def _give_up_process(self, reason: str) -> None:
        """Make no more calls to a process that is gone, and give up those under way."""
        if not self._unavailable_reason:
            logger.warning("no more calls to the Grad-CAM runner: %s", reason)
            self._unavailable_reason = reason
            for task in self._under_way:
                task.cancel()

    async def _call(self, tag: str, requests: Sequence[ExplanationRequest], ends: float) -> dict[str, Any]:
        """Make one call; raise TimeoutError when its time is over, _GivenUp when the process was lost meanwhile."""
        if self._process is None:
            raise _GivenUp
        name, seconds = uuid.uuid4().hex, max(0.0, ends - time.monotonic())
        client = str(asked_by.get() or "")
        task = asyncio.ensure_future(self._process.explain(tag, requests, seconds, name, client))
        self._under_way.add(task)
        try:
            await asyncio.wait({task}, timeout=seconds)
            if not task.done():
                raise TimeoutError
            if task.cancelled():
                raise _GivenUp
            return task.result()
        finally:
            self._under_way.discard(task)
            if not task.done():
                task.cancel()
                self._cancelling.add(cancelling := asyncio.ensure_future(self._cancel(name)))
                cancelling.add_done_callback(self._cancelling.discard)
                with contextlib.suppress(asyncio.CancelledError, Exception):
                    await task

    async def _cancel(self, name: str) -> None:
        """Have the process give up a call, if it can be reached."""
        if self._process is not None and not self._unavailable_reason:
            with contextlib.suppress(Exception):
                await asyncio.wait_for(self._process.cancel(name), SILENCE_S)


@dataclass
class _Circuit:
    """The circuit breaker of one model: its late calls in a row, its last answer, and why it is open.

    Times are values of `time.monotonic()`.
    """

    late_calls: int = 0
    answered_at: float = 0.0
    stuck_reason: str = ""
    next_trial_at: float = 0.0


class _GivenUp(Exception):
    """The process was lost while a call was under way."""
