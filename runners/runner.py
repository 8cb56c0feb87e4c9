"""The Runner: a bounded queue and a few lanes, work-conserving, that fails only the item that is itself at fault."""

import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, InvalidStateError, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from math import ceil
from typing import Any, Generic, NamedTuple, TypeVar

from errors import DeadlineExceeded, InferenceFailed, InvalidInput, QueueFull, Unavailable, VitrineError
from runners.pipeline import Pipeline
from runners.plan import Plan
from runners.stats import RunnerStats, StatsKeeper

logger = logging.getLogger("vitrine.runner")

Payload = TypeVar("Payload")
Prepared = TypeVar("Prepared")
Result = TypeVar("Result")


class Answer(NamedTuple, Generic[Result]):
    """The result of one item and where its time went, in milliseconds."""

    value: Result
    queue_ms: float
    decode_ms: float
    infer_ms: float
    batch_size: int
    cached: bool = False


@dataclass(eq=False)
class _Item(Generic[Payload, Result]):
    payload: Payload
    deadline: float | None
    stats: StatsKeeper
    future: "Future[Answer[Result]]" = field(default_factory=Future)
    queued_at: float = field(default_factory=time.monotonic)
    taken_at: float = 0.0
    preprocessed_at: float = 0.0
    prepared: Any = None


class Runner(Generic[Payload, Prepared, Result]):
    """Runs the items of one model.

    A lane is a thread. An idle lane takes at once its fair share of what is waiting, at most `max_batch` items, and
    carries it all the way: it preprocesses item by item, then infers those that passed as one batch. It waits for more
    items only where the plan says so, up to `linger_ms`; so nothing is slower for being batched, and batches grow by
    themselves while lanes are busy. If a batch fails, or gives a wrong number of results, its items are run again one
    by one, and only those that fail alone get `InferenceFailed`.
    Slow items hold no lane, and no thread while they wait: one beside the lanes preprocesses them one after the other,
    and then they take their turn first.

    Args:
        name: the model's name, for messages, metrics and thread names.
        pipeline: what turns payloads into results. A VitrineError that its `preprocess` raises is that item's answer.
        plan: lanes, batch size, linger and decoders. A lane that lingers takes all it may, not its share, since full
            batches are what was asked for.
        queue_size: the number of items that may wait, and of slow ones beside them; more are refused with `QueueFull`.
        working: a context that a lane enters while it carries items; it may be entered several times at once.
    """

    def __init__(
        self,
        name: str,
        pipeline: Pipeline[Payload, Prepared, Result],
        plan: Plan,
        *,
        queue_size: int = 256,
        working: contextlib.AbstractContextManager[object] | None = None,
    ) -> None:
        self._name, self._pipeline = name, pipeline
        self._working = working or contextlib.nullcontext()
        self._max_batch, self._queue_size, self._linger_s = plan.max_batch, queue_size, plan.linger_ms / 1000
        self._queue: deque[_Item[Payload, Result]] = deque()
        self._changed = threading.Condition()
        self._idle = plan.lanes
        self._busy: set[_Item[Payload, Result]] = set()
        self._slow: set[_Item[Payload, Result]] = set()
        self._closing = False
        self._stats, self._evaluations = StatsKeeper(name), StatsKeeper(name, of_evaluations=True)
        self._aside = ThreadPoolExecutor(1, f"slow-{name}")
        self._pool = ThreadPoolExecutor(plan.decoders, f"decode-{name}") if plan.decoders else None
        self._lanes = [
            threading.Thread(target=self._lane, name=f"lane-{name}-{index}", daemon=True) for index in range(plan.lanes)
        ]
        for lane in self._lanes:
            lane.start()

    def submit(self, payload: Payload, deadline: float | None = None) -> "Future[Answer[Result]]":
        """Queue one item.

        Args:
            payload: what the pipeline preprocesses.
            deadline: a value of `time.monotonic()`; an item that is late, or was cancelled, is not computed.

        Raises:
            QueueFull: as many items wait as the queue takes.
            Unavailable: the Runner is closing.
        """
        stats = self._evaluations if self._pipeline.is_evaluation(payload) else self._stats
        item: _Item[Payload, Result] = _Item(payload, deadline, stats)
        with self._changed:
            if self._closing:
                raise Unavailable(f"{self._name} is shutting down. Send the request to another server, or later.")
            if len(self._queue) >= self._queue_size:
                self._queue = deque(
                    waiting for waiting in self._queue if not waiting.future.cancelled() or self._starts(waiting)
                )
            if len(self._queue) >= self._queue_size:
                seconds = ceil(len(self._queue) * self._stats.seconds_an_item() / len(self._lanes))
                stats.count("rejected")
                message = f"{self._name} has {self._queue_size} items waiting, as many as it takes. Retry later."
                raise QueueFull(message, max(1, seconds))
            self._queue.append(item)
            self._changed.notify()
        return item.future

    def stats(self) -> RunnerStats:
        """Return counts and times since the start."""
        with self._changed:
            waiting, running = len(self._queue) + len(self._slow), len(self._busy)
        return self._stats.snapshot(waiting, running, self._evaluations)

    @contextlib.contextmanager
    def uncounted(self) -> Iterator[None]:
        """Leave what is done meanwhile out of `stats` and of the metrics, because no client asked for it."""
        self._stats.muted = self._evaluations.muted = True
        try:
            yield
        finally:
            self._stats.muted = self._evaluations.muted = False

    def close(self, timeout_s: float) -> bool:
        """Refuse new items, finish the waiting ones and end the lanes.

        What is not finished within `timeout_s` fails with `Unavailable`; a stuck lane is left behind as a daemon.

        Returns:
            Whether everything ended in time.
        """
        deadline = time.monotonic() + timeout_s
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        for lane in self._lanes:
            lane.join(max(0.0, deadline - time.monotonic()))
        with self._changed:
            waiting, running = [*self._queue, *self._slow], list(self._busy)
            self._queue.clear()
        self._aside.shutdown(wait=False, cancel_futures=True)
        if self._pool is not None:
            self._pool.shutdown(wait=not any(lane.is_alive() for lane in self._lanes), cancel_futures=True)
        for item in [*(item for item in waiting if not self._is_settled(item)), *running]:
            self._fail(item, Unavailable(f"{self._name} was shut down before it got to this. Send it again."))
        return not any(lane.is_alive() for lane in self._lanes)

    def _lane(self) -> None:
        while (items := self._take()) is not None:
            try:
                with self._working:
                    self._carry(items)
            except BaseException:  # a lane outlives whatever happens in it
                logger.exception("%s: a lane failed outside its backend", self._name)
                for item in items:
                    self._fail(item, InferenceFailed("The prediction failed."))
            finally:
                with self._changed:
                    self._idle += 1
                    self._busy.difference_update(items)
            del items  # or an idle lane keeps the last payloads alive

    def _take(self) -> "list[_Item[Payload, Result]] | None":
        """Return this lane's fair share of what is waiting, or None once the Runner is closing and nothing waits."""
        with self._changed:
            while not self._queue:
                if self._closing and not self._slow:
                    return None
                self._changed.wait()
            if self._linger_s:
                full_by = self._queue[0].queued_at + self._linger_s
                while 0 < len(self._queue) < self._max_batch and not self._closing:
                    if not self._changed.wait(max(0.0, full_by - time.monotonic())):
                        break
            share = len(self._queue) if self._linger_s else ceil(len(self._queue) / self._idle)
            items = [self._queue.popleft() for _ in range(min(self._max_batch, share))]
            self._idle -= 1
            self._busy.update(items)
            return items

    def _carry(self, items: "list[_Item[Payload, Result]]") -> None:
        is_heavy = self._pipeline.is_heavy
        pool = self._pool if len(items) > 1 and any(is_heavy(item.payload) for item in items) else None
        attempts = map(self._preprocess, items) if pool is None else pool.map(self._preprocess, items)
        batch = [pair for pair in attempts if pair and not self._is_settled(pair[0]) and self._starts(pair[0])]
        for stats in (self._stats, self._evaluations):  # predictions first, since a client waits for each
            if part := [pair for pair in batch if pair[0].stats is stats]:
                self._infer(part)

    def _preprocess(self, item: "_Item[Payload, Result]") -> "tuple[_Item[Payload, Result], Prepared] | None":
        if item.prepared is not None:
            return item, item.prepared
        item.taken_at = time.monotonic()
        if self._is_settled(item):
            return None
        try:
            if item in self._slow:
                return item, self._pipeline.preprocess_slow(item.payload)
            if not self._pipeline.is_slow(item.payload):
                return item, self._pipeline.preprocess(item.payload)
            self._set_aside(item)
        except VitrineError as error:
            self._fail(item, error)
        except Exception:
            logger.exception("%s: an item could not be preprocessed", self._name)
            self._fail(item, InferenceFailed("The prediction failed."))
        finally:
            item.preprocessed_at = time.monotonic()
        return None

    def _set_aside(self, item: "_Item[Payload, Result]") -> None:
        """Have an item prepared beside the lanes."""
        with self._changed:
            if len(self._slow) >= self._queue_size:
                message = f"{self._name} has {self._queue_size} items waiting that are slow to prepare. Retry later."
                raise QueueFull(message, 5)
            self._slow.add(item)
        self._aside.submit(self._prepare_aside, item)

    def _prepare_aside(self, item: "_Item[Payload, Result]") -> None:
        """Prepare one slow item, put it before those that wait for a lane, and wait for its answer."""
        prepared = self._preprocess(item)
        with self._changed:
            self._slow.discard(item)
            if prepared is not None:
                item.prepared = prepared[1]
                self._queue.appendleft(item)
            self._changed.notify_all()
        wait((item.future,))  # what is prepared may be large: no more than one such item at a time

    def _infer(self, batch: "list[tuple[_Item[Payload, Result], Prepared]]") -> None:
        started = time.monotonic()
        try:
            results = self._pipeline.infer([prepared for _, prepared in batch])
            if len(results) != len(batch):
                raise RuntimeError(f"{len(results)} results for {len(batch)} items")
        except Exception:
            logger.exception("%s: a batch of %d failed", self._name, len(batch))
            if len(batch) == 1:
                self._fail(batch[0][0], InferenceFailed("The prediction failed."))
            else:
                for item, prepared in batch:
                    if not self._is_settled(item):
                        self._infer([(item, prepared)])
            return
        infer_s = time.monotonic() - started
        counts = [self._pipeline.count_inferences(prepared) for _, prepared in batch]
        if inferences := sum(counts):
            batch[0][0].stats.executed(inferences, infer_s, len(batch))
        for (item, _), count, result in zip(batch, counts, results, strict=True):
            if item.future.done():  # `close` gave up on it
                continue
            queue_s, decode_s = item.taken_at - item.queued_at, item.preprocessed_at - item.taken_at
            if count:
                item.stats.answered(queue_s, decode_s, infer_s)
            else:
                item.stats.count(InvalidInput.__name__)
            answer = Answer(result, queue_s * 1e3, decode_s * 1e3, infer_s * 1e3, len(batch))
            with contextlib.suppress(InvalidStateError):  # given up this very moment
                item.future.set_result(answer)

    def _is_settled(self, item: "_Item[Payload, Result]") -> bool:
        """Return whether nothing is left to do for an item: it is late, was cancelled, or was given up by `close`."""
        if item.deadline is not None and time.monotonic() >= item.deadline:
            self._fail(item, DeadlineExceeded(f"{self._name} could not answer before the deadline. Allow more time."))
        if item.future.cancelled():
            self._starts(item)
        return item.future.done()

    def _starts(self, item: "_Item[Payload, Result]") -> bool:
        """Keep an item from being cancelled from now on; return False, counted once, if it was cancelled before."""
        with contextlib.suppress(RuntimeError):  # given up by `close` this very moment
            if item.future.set_running_or_notify_cancel():
                return True
            item.stats.count("cancelled")
        return False

    def _fail(self, item: "_Item[Payload, Result]", error: VitrineError) -> None:
        if not item.future.done():
            item.stats.count(type(error).__name__)
            with contextlib.suppress(InvalidStateError):  # cancelled or given up this very moment
                # The error's origin leads back to the item, whose payload would stay until the garbage collector runs.
                error.__cause__ = error.__context__ = None
                item.future.set_exception(error.with_traceback(None))
