"""The other side of the Grad-CAM runner: calls into its process, and what to do when it does not answer."""

import asyncio
import base64
import contextlib
import logging
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

import numpy as np

import errors
from errors import DeadlineExceeded, InferenceFailed, QueueFull, Unavailable, VitrineError
from runners.runner import Answer
from serving.cache import NO_CACHE, ResponseCache
from serving.gradcam.worker import Ask, Explained

logger = logging.getLogger("vitrine.explain")

BEAT_S, SILENCE_S = 0.5, 3.0
"""How often the process is asked for its state, and how long it may take to say it."""
FAILURES = 3
"""Calls in a row that may run out of their time, or lose the connection, before no more are made."""
COOL_DOWN_S = 5.0
"""After calls ran out of time in a row, one is tried again every so often."""
PATIENT_S = 2.0
"""A call given less time than this, and less than the runner's own, says nothing of the runner when it runs out."""
IN_FLIGHT = 64
"""Calls at once; BentoML's client has 100 connections and lets what is beyond them wait without a bound."""


class Process(Protocol):
    """The Grad-CAM process, as its calls."""

    def explain(self, model: str, ask: Ask, seconds: float, call: str) -> Awaitable[dict[str, Any]]:
        """Explain one picture within `seconds`; what `reply_of` made of the answer. `call` names it for `cancel`."""
        ...

    def cancel(self, call: str) -> Awaitable[object]:
        """Nobody waits for this call any more."""
        ...

    def status(self) -> Awaitable[dict[str, Any]]:
        """The state of every model; see `ExplainedModels.status`."""
        ...


def reply_of(answer: "Answer[Explained] | VitrineError") -> dict[str, Any]:
    """What crosses between the processes: an answer, or the name and text of an error."""
    if isinstance(answer, VitrineError):
        retry_after = {"retry_after_s": answer.retry_after_s} if isinstance(answer, QueueFull | Unavailable) else {}
        return {"error": type(answer).__name__, "detail": str(answer), **retry_after}
    return {"answer": answer._replace(value=answer.value._asdict())._asdict()}  # type: ignore[arg-type]


class ClientProcess:
    """Calls into the Grad-CAM process through BentoML's client.

    Args:
        client: its asynchronous side.
        as_text: whether what is asked goes as text, to another machine.
    """

    def __init__(self, client: Any, *, as_text: bool) -> None:
        self._client, self._as_text = client, as_text

    def explain(self, model: str, ask: Ask, seconds: float, call: str) -> Awaitable[dict[str, Any]]:
        """See `Process`."""
        fields = in_text(ask) if self._as_text else asdict(ask)
        answer: Awaitable[dict[str, Any]] = self._client.call("explain", model, fields, seconds, call)
        return answer

    def cancel(self, call: str) -> Awaitable[object]:
        """See `Process`."""
        done: Awaitable[object] = self._client.call("cancel", call)
        return done

    def status(self) -> Awaitable[dict[str, Any]]:
        """See `Process`."""
        states: Awaitable[dict[str, Any]] = self._client.call("status")
        return states


def answer_of(reply: dict[str, Any]) -> "Answer[Explained]":
    """The answer, or its error raised as it was there."""
    if "answer" in reply:
        fields = dict(reply["answer"])
        value = dict(fields["value"])
        value |= {name: np.asarray(value[name], np.float32) for name in ("logits", "map")}
        value |= {"size": tuple(value["size"]), "picture": _bytes_of(value["picture"])}
        return Answer(**{**fields, "value": Explained(**value)})
    kind = getattr(errors, str(reply.get("error")), InferenceFailed)
    rest = [reply["retry_after_s"]] if "retry_after_s" in reply else []
    raise kind(str(reply.get("detail")), *rest)


def in_text(ask: Ask) -> dict[str, Any]:
    """An Ask as JSON can carry it, for a runner on another machine; `ask_of` reads it."""
    return asdict(ask) | {"data": base64.b64encode(ask.data).decode()}


def ask_of(fields: dict[str, Any]) -> Ask:
    """The Ask, however it came."""
    return Ask(**fields | {"data": _bytes_of(fields["data"])})


def reply_in_text(reply: dict[str, Any]) -> dict[str, Any]:
    """What `reply_of` made, as JSON can carry it; `answer_of` reads both, to the same last bit of a float32."""
    if "answer" not in reply:
        return reply
    value = dict(reply["answer"]["value"])
    value |= {name: value[name].tolist() for name in ("logits", "map")}
    value["picture"] = base64.b64encode(value["picture"]).decode() if value["picture"] is not None else None
    return {"answer": reply["answer"] | {"value": value}}


def _bytes_of(data: bytes | str | None) -> bytes | None:
    return base64.b64decode(data) if isinstance(data, str) else data


class RemoteExplainer:
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
        self._process: Process | None = None
        self._gone, self._broken = "it is starting", 0
        self._models: dict[str, _Pace] = {}
        self._under_way: set[asyncio.Task[dict[str, Any]]] = set()
        self._cancelling: set[asyncio.Task[None]] = set()
        self.status: dict[str, Any] = {}

    @property
    def open(self) -> str:
        """Why no calls are made just now, of any model; empty while they are."""
        return self._gone

    async def explain(self, model: str, ask: Ask, deadline: float) -> "Answer[Explained]":
        """Explain one picture by a `time.monotonic()` deadline, or find what was said of it before.

        Raises:
            Unavailable: the process is not there, silent or stuck.
            QueueFull: `IN_FLIGHT` calls are under way, or the Runner there has its queue full.
            DeadlineExceeded: there was not enough time.
            VitrineError: whatever the Runner there says of this item.
        """
        key = self._cache.key(model, ask.data, replace(ask, data=b""))
        if (found := self._cache.get(model.partition(":")[0], key)) is not None:
            return found
        answer = await self._asked(model, ask, deadline)
        if key is not None:
            self._cache.keep(key, answer)
        return answer

    async def _asked(self, model: str, ask: Ask, deadline: float) -> "Answer[Explained]":
        pace = self._models.setdefault(model, _Pace())
        self._admit(pace)
        started = time.monotonic()
        ends = min(deadline, started + self._timeout_s)
        for attempt in (1, 2):
            try:
                reply = await self._call(model, ask, ends)
            except TimeoutError as error:
                if ends - started > 0.99 * min(self._timeout_s, PATIENT_S):  # not a client's own short deadline
                    self._ran_late(pace, started)
                if ends == deadline:
                    raise DeadlineExceeded(
                        "The explanation was not there before the deadline. Allow more time."
                    ) from error
                raise Unavailable(
                    f"The Grad-CAM runner took more than {self._timeout_s:g} s. Retry later.", 2
                ) from error
            except _GivenUp as error:
                raise self._refusal(pace) from error
            except Exception as error:
                self._broken += 1
                if self._broken >= FAILURES:
                    self._lose("its process is gone or restarting")
                if attempt == 2 or self._gone:
                    logger.warning("the Grad-CAM runner cannot be reached: %r", error)
                    raise Unavailable("The Grad-CAM runner cannot be reached. Retry in a few seconds.", 2) from error
            else:
                self._broken = pace.late = 0
                pace.stuck, pace.answered_at = "", time.monotonic()
                return answer_of(reply)
        raise AssertionError("unreachable")

    async def watch(self, process: Process, closing: Callable[[], bool]) -> None:
        """Ask for the state until the server drains; what is under way then is left to the process.

        Args:
            process: whom to call.
            closing: whether the server drains.
        """
        self._process = process
        while not closing():
            try:
                self.status = await asyncio.wait_for(process.status(), SILENCE_S)
            except Exception:
                if not closing():
                    self._lose("its process does not answer")
            else:
                self._broken, self._gone = 0, ""
            await asyncio.sleep(BEAT_S)

    def _admit(self, pace: "_Pace") -> None:
        """Raise unless a call may be made now."""
        now = time.monotonic()
        if self._gone or (pace.stuck and now < pace.trial_at):
            raise self._refusal(pace)
        if len(self._under_way) >= IN_FLIGHT:
            raise QueueFull(f"The Grad-CAM runner has {IN_FLIGHT} explanations under way, as many as it takes.", 2)
        pace.trial_at = now + COOL_DOWN_S  # where it is stuck, the next trial

    def _refusal(self, pace: "_Pace") -> Unavailable:
        why = self._gone or pace.stuck
        return Unavailable(f"The Grad-CAM runner is not available: {why}. Predictions are.", 2)

    def _ran_late(self, pace: "_Pace", started: float) -> None:
        if pace.answered_at < started:
            pace.late += 1
            if pace.late >= FAILURES and not pace.stuck:
                pace.stuck, pace.trial_at = "it does not answer in time", time.monotonic() + COOL_DOWN_S
                logger.warning("no more calls to the Grad-CAM runner: %s", pace.stuck)

    def _lose(self, why: str) -> None:
        """The process is gone: make no more calls, and give up those under way."""
        if not self._gone:
            logger.warning("no more calls to the Grad-CAM runner: %s", why)
            self._gone = why
            for task in self._under_way:
                task.cancel()

    async def _call(self, model: str, ask: Ask, ends: float) -> dict[str, Any]:
        """One call; TimeoutError when its time is over, _GivenUp when the process was lost meanwhile."""
        if self._process is None:
            raise _GivenUp
        name, seconds = uuid.uuid4().hex, max(0.0, ends - time.monotonic())
        task = asyncio.ensure_future(self._process.explain(model, ask, seconds, name))
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
                self._cancelling.add(cancelling := asyncio.ensure_future(self._tell(name)))
                cancelling.add_done_callback(self._cancelling.discard)
                with contextlib.suppress(asyncio.CancelledError, Exception):
                    await task

    async def _tell(self, name: str) -> None:
        """Have the process forget a call, if it can be told."""
        if self._process is not None and not self._gone:
            with contextlib.suppress(Exception):
                await asyncio.wait_for(self._process.cancel(name), SILENCE_S)


@dataclass
class _Pace:
    """How explanations of one model go: late ones in a row, when one last came, why none are asked for."""

    late: int = 0
    answered_at: float = 0.0
    stuck: str = ""
    trial_at: float = 0.0


class _GivenUp(Exception):
    """The process was lost while a call was under way."""
