"""Items so cheap that handing them to a lane and back would take as long: they are run where they are asked for."""

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable
from typing import Generic, NamedTuple, Protocol, TypeVar

from errors import DeadlineExceeded, InferenceFailed, InvalidInput, Unavailable, VitrineError
from runners.pipeline import Pipeline
from runners.runner import Answer
from runners.stats import RunnerStats, Series, StatsKeeper

logger = logging.getLogger("vitrine.runner")

Payload = TypeVar("Payload")
Prepared = TypeVar("Prepared")
Result = TypeVar("Result")
Settled = TypeVar("Settled", contravariant=True)

CHEAP_RUN_S = 0.0002
"""A network that takes less than this for one item is run on the event loop: a lane needs 0.1 ms to be handed an item
and to hand its answer back, and of several items in one run each takes a fraction."""
MOST_AT_ONCE = 32
"""The largest number of items in one run; the event loop gets its turn between two."""


class Asking(Protocol[Settled]):
    """Whoever asked for an item, as far as a future is it."""

    def done(self) -> bool:
        """Return whether nobody waits for the answer any more."""

    def set_result(self, result: Settled, /) -> None:
        """Take the answer."""

    def set_exception(self, error: Exception, /) -> None:
        """Take the error that is the answer."""


class _Item(NamedTuple, Generic[Prepared, Result]):
    prepared: Prepared
    deadline: float | None
    asking: Asking[Answer[Result]]
    decode_s: float
    prepared_at: float


class Gathered(Generic[Payload, Prepared, Result]):
    """Runs the items of one model on the event loop: each is preprocessed at once, and all of a turn are one batch.

    What a Runner promises holds here too: an item that cannot be preprocessed, or fails in the backend, fails alone,
    and what is late or was cancelled is not computed. There is no queue: never more items wait than requests are being
    answered in one turn. Payloads that are not quick to preprocess, and callers on another event loop, are for the
    Runner beside it. All methods but `close` and `stats` are for the event loop's own thread.

    Args:
        name: the model's name, for messages.
        pipeline: what turns payloads into results. A VitrineError that its `preprocess` raises is that item's answer.
        is_quick: returns whether a payload is preprocessed so quickly that the event loop may do it.
        working: a context that is entered while items are inferred; it may be entered several times at once.
        series: the labels of its metrics; by default the name alone.
    """

    def __init__(
        self,
        name: str,
        pipeline: Pipeline[Payload, Prepared, Result],
        is_quick: Callable[[Payload], bool],
        working: contextlib.AbstractContextManager[object] | None = None,
        series: Series | None = None,
    ) -> None:
        self._name, self._pipeline, self._is_quick = name, pipeline, is_quick
        self._working = working or contextlib.nullcontext()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiting = list[_Item[Prepared, Result]]()
        self._running, self._is_closing = threading.Lock(), False
        self._stats = StatsKeeper(series or Series(name))

    def takes(self, payload: Payload) -> bool:
        """Return whether a payload can be answered here, by the event loop that asks."""
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            if self._loop is not None and not self._loop.is_closed():
                return False
            self._loop = loop
            self._waiting.clear()  # nobody waits on a loop that is closed
        return self._is_quick(payload)

    def submit(self, payload: Payload, deadline: float | None = None) -> "asyncio.Future[Answer[Result]]":
        """Return the answer to one item as a future; arguments and errors as of `submit_for`."""
        answer: asyncio.Future[Answer[Result]] = asyncio.get_running_loop().create_future()
        self.submit_for(answer, payload, deadline)
        return answer

    def submit_for(self, asking: Asking[Answer[Result]], payload: Payload, deadline: float | None = None) -> None:
        """Preprocess one item that `takes`, and give its answer in the next turn of the event loop.

        Args:
            asking: is given the answer. What it does with it must not fail, and is done before others get theirs.
            payload: what the pipeline preprocesses.
            deadline: a value of `time.monotonic()`; an item that is late, or was cancelled, is not computed.

        Raises:
            Unavailable: the model is closing.
            VitrineError: the payload cannot be used.
        """
        if self._is_closing:
            raise Unavailable(f"{self._name} is shutting down. Send the request to another server, or later.")
        began = time.monotonic()
        try:
            prepared = self._pipeline.preprocess(payload)
        except VitrineError as error:
            self._stats.count(type(error).__name__)
            raise
        except Exception as error:
            logger.exception("%s: an item could not be preprocessed", self._name)
            self._stats.count(InferenceFailed.__name__)
            raise InferenceFailed("The prediction failed.") from error
        now = time.monotonic()
        if not self._waiting:
            loop = asyncio.get_running_loop()
            loop.call_soon(self._turn, loop)
        self._waiting.append(_Item(prepared, deadline, asking, now - began, now))

    def stats(self) -> RunnerStats:
        """Return counts and times since the start."""
        return self._stats.snapshot(len(self._waiting), 0, 0.0)

    def close(self) -> None:
        """Refuse new items, and fail those that wait in their turn; a run that has begun is finished first."""
        self._is_closing = True
        with self._running:
            self._stats.write()

    def _turn(self, loop: asyncio.AbstractEventLoop) -> None:
        """Run some of what waits."""
        items, self._waiting = self._waiting[:MOST_AT_ONCE], self._waiting[MOST_AT_ONCE:]
        if self._waiting:
            loop.call_soon(self._turn, loop)
        with self._running, self._working:
            now = time.monotonic()
            if batch := [item for item in items if not self._is_settled(item, now)]:
                try:
                    self._infer(batch)
                except Exception:  # nobody else would tell those who wait
                    logger.exception("%s: a turn failed outside its backend", self._name)
                    for item in batch:
                        if not item.asking.done():
                            self._fail(item, InferenceFailed("The prediction failed."))

    def _is_settled(self, item: _Item[Prepared, Result], now: float) -> bool:
        """Return whether nothing is left to do for an item: it was cancelled, is late, or the model is closing."""
        if item.asking.done():
            self._stats.count("cancelled")
        elif self._is_closing:
            self._fail(item, Unavailable(f"{self._name} was shut down before it got to this. Send it again."))
        elif item.deadline is not None and now >= item.deadline:
            self._fail(item, DeadlineExceeded(f"{self._name} could not answer before the deadline. Allow more time."))
        return item.asking.done()

    def _infer(self, batch: list[_Item[Prepared, Result]]) -> None:
        started = time.monotonic()
        try:
            results = self._pipeline.infer([item.prepared for item in batch])
            if len(results) != len(batch):
                raise RuntimeError(f"{len(results)} results for {len(batch)} items")
        except Exception:
            logger.exception("%s: a batch of %d failed", self._name, len(batch))
            if len(batch) == 1:
                self._fail(batch[0], InferenceFailed("The prediction failed."))
            else:
                for item in batch:
                    self._infer([item])
            return
        infer_s = time.monotonic() - started
        counts = [self._pipeline.count_inferences(item.prepared) for item in batch]
        if inferences := sum(counts):
            self._stats.executed(inferences, infer_s)
        right = [item for item, count in zip(batch, counts, strict=True) if count]
        waits_s = [started - item.prepared_at for item in right]
        pixels = [self._pipeline.pixels(item.prepared) for item in right]
        self._stats.answered_together(waits_s, [item.decode_s for item in right], infer_s, pixels)
        if len(right) < len(batch):
            self._stats.count(InvalidInput.__name__, len(batch) - len(right))
        for item, result in zip(batch, results, strict=True):
            queue_ms = (started - item.prepared_at) * 1e3
            item.asking.set_result(Answer(result, queue_ms, item.decode_s * 1e3, infer_s * 1e3, len(batch)))

    def _fail(self, item: _Item[Prepared, Result], error: VitrineError) -> None:
        self._stats.count(type(error).__name__)
        item.asking.set_exception(error)
