"""The Runner: a bounded queue and a few lanes, work-conserving, that fails only the item that is itself at fault."""

import contextlib
import logging
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, InvalidStateError, ThreadPoolExecutor, wait
from math import ceil, inf
from typing import Generic, NamedTuple, TypeVar

from errors import InferenceFailed, InvalidInput, QueueFull, Unavailable, VitrineError
from runners.admission import Backlog, Turn, Work, total
from runners.pipeline import Pipeline
from runners.plan import Plan
from runners.queue import Item, Queue
from runners.stats import RunnerStats, Series, StatsKeeper

logger = logging.getLogger("vitrine.runner")

Payload = TypeVar("Payload")
Prepared = TypeVar("Prepared")
Result = TypeVar("Result")

MOST_SLOW = 256
"""The number of items that may wait to be prepared beside the lanes, whatever the queue takes."""


class Answer(NamedTuple, Generic[Result]):
    """The result of one item and where its time went, in milliseconds."""

    value: Result
    queue_ms: float
    decode_ms: float
    infer_ms: float
    batch_size: int
    cached: bool = False


class Runner(Generic[Payload, Prepared, Result]):
    """Runs the items of one model.

    A lane is a thread. An idle lane takes at once its fair share of what is waiting, at most `max_batch` items, and
    carries it all the way: it preprocesses item by item, then infers those that passed as one batch. It waits for more
    only up to the plan's `linger_ms`; nothing is slower for being batched, and batches grow while lanes are busy. If a
    batch fails, its items are run again one by one, and only those that fail alone get `InferenceFailed`. Slow items
    hold no lane: a thread beside them prepares one after the other.

    Args:
        name: for messages and thread names.
        pipeline: what turns payloads into results. A VitrineError that its `preprocess` raises is that item's answer.
        plan: lanes, batch size, linger and decoders; a lane that lingers takes all it may, and not its share.
        queue_size: the number of items that may wait, and of slow ones, at most `MOST_SLOW`; others get `QueueFull`.
        queue_ms: how long an item may have to wait; one that would wait longer, or be late, is refused likewise.
        working: a context that a lane enters while it carries items; it may be entered several times at once.
        series: the labels of its metrics; by default the name alone.
    """

    def __init__(
        self,
        name: str,
        pipeline: Pipeline[Payload, Prepared, Result],
        plan: Plan,
        *,
        queue_size: int = 16_384,
        queue_ms: float = inf,
        working: contextlib.AbstractContextManager[object] | None = None,
        series: Series | None = None,
    ) -> None:
        self._name, self._pipeline, self._changed = name, pipeline, threading.Condition()
        self._working = working or contextlib.nullcontext()
        self._max_batch, self._linger_s = plan.max_batch, plan.linger_ms / 1000
        self._stats, self._evaluations = (
            StatsKeeper(series or Series(name), of_evaluations=own) for own in (False, True)
        )
        self._backlog = Backlog(plan.lanes, queue_ms / 1000)
        self._queue = Queue(name, self._changed, self._stats, self._backlog, queue_size)
        self._idle, self._most_slow, self._closing = plan.lanes, min(queue_size, MOST_SLOW), False
        self._busy, self._slow = set[Item](), set[Item]()
        self._aside = ThreadPoolExecutor(1, f"slow-{name}")
        self._pool = ThreadPoolExecutor(plan.decoders, f"decode-{name}") if plan.decoders else None
        names = (f"lane-{name}-{index}" for index in range(plan.lanes))
        self._lanes = [threading.Thread(target=self._lane, name=own, daemon=True) for own in names]
        for lane in self._lanes:
            lane.start()

    def submit(
        self, payload: Payload, deadline: float | None = None, *, is_admitted: bool = False
    ) -> "Future[Answer[Result]]":
        """Queue one item, or raise QueueFull, or Unavailable where the Runner is closing.

        Args:
            payload: what the pipeline preprocesses.
            deadline: a value of `time.monotonic()`; an item that is late, or was cancelled, is not computed.
            is_admitted: whether it is a part of something that was begun, which is queued however much waits.
        """
        item = self._item(payload, deadline)
        self._enqueue((item,), None if is_admitted else item.work, deadline)
        return item

    def submit_all(self, payloads: Sequence[Payload], deadline: float | None = None) -> "list[Future[Answer[Result]]]":
        """Queue the items of one request, all of them or none; arguments and errors as of `submit`."""
        items = [self._item(payload, deadline) for payload in payloads]
        if items:
            self._enqueue(items, total(item.work for item in items), deadline)
        return [*items]

    def check_room(self) -> None:
        """Return if an item that came now would be queued, which is quicker than to submit one; else QueueFull."""
        if self._backlog.is_full():
            with self._changed:
                self._queue.check_room(self._backlog.usual_work(), 1, None, time.monotonic())

    def measured(self, payloads: Sequence[Payload], seconds: float) -> None:
        """Expect from now on what a lane took for one batch of these payloads while all others were at work."""
        with self._changed:
            self._backlog.measured(total(map(self._pipeline.work, payloads)), seconds, is_crowded=True)

    def stats(self) -> RunnerStats:
        """Return counts and times since the start."""
        with self._changed:
            now, backlog = (len(self._queue) + len(self._slow), len(self._busy)), self._backlog
            return self._stats.snapshot(*now, backlog.seconds(), self._evaluations, backlog.item_seconds())

    def busy_lanes(self) -> int:
        """Return how many lanes carry items just now."""
        return len(self._lanes) - self._idle

    @contextlib.contextmanager
    def uncounted(self) -> Iterator[None]:
        """Leave what is done meanwhile out of `stats` and of the metrics, because no client asked for it."""
        self._stats.muted = self._evaluations.muted = True
        try:
            yield
        finally:
            self._stats.muted = self._evaluations.muted = False

    def close(self, timeout_s: float) -> bool:
        """Refuse new items, finish the waiting ones and end the lanes; return whether everything ended in time.

        What is not finished within `timeout_s` fails with `Unavailable`; a stuck lane is left behind as a daemon.
        """
        deadline = time.monotonic() + timeout_s
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        for lane in self._lanes:
            lane.join(max(0.0, deadline - time.monotonic()))
        with self._changed:
            waiting, running = [*self._queue.clear(), *self._slow], list(self._busy)
        self._aside.shutdown(wait=False, cancel_futures=True)
        if self._pool is not None:
            self._pool.shutdown(wait=not any(lane.is_alive() for lane in self._lanes), cancel_futures=True)
        for item in [*(item for item in waiting if not item.is_settled()), *running]:
            item.fail(Unavailable(f"{self._name} was shut down before it got to this. Send it again."))
        for stats in (self._stats, self._evaluations):
            stats.write()
        return not any(lane.is_alive() for lane in self._lanes)

    def _item(self, payload: Payload, deadline: float | None) -> Item:
        stats = self._evaluations if self._pipeline.is_evaluation(payload) else self._stats
        return Item(payload, self._pipeline.work(payload), deadline, self._queue, stats)

    def _enqueue(self, items: Sequence[Item], work: Work | None, deadline: float | None) -> None:
        """Queue items whose work this is, all or none; where it is None they were admitted before."""
        with self._changed:
            if self._closing:
                raise Unavailable(f"{self._name} is shutting down. Send the request to another server, or later.")
            if work is not None:
                self._queue.check_room(work, len(items), deadline, items[0].queued_at)
            for item in items:
                self._queue.append(item)
            self._changed.notify(len(items))

    def _lane(self) -> None:
        while (taken := self._take()) is not None:
            (items, turn), done = taken, Work(0)
            try:
                with self._working:
                    done = turn.work if self._carry(items) else total(item.work for item in items if item.is_begun)
            except BaseException:  # a lane outlives whatever happens in it
                logger.exception("%s: a lane failed outside its backend", self._name)
                for item in items:
                    item.fail(InferenceFailed("The prediction failed."))
            finally:
                with self._changed:
                    self._idle += 1
                    self._busy.difference_update(items)
                    self._backlog.end(turn, done)
            for item in items:
                if not item.is_aside:
                    item.payload = None  # whoever holds an item for its answer needs no more
            del items, taken  # or an idle lane keeps the last ones alive

    def _take(self) -> "tuple[list[Item], Turn] | None":
        """Return this lane's fair share of what is waiting, or None once the Runner is closing and nothing waits."""
        with self._changed:
            while not self._queue:
                if self._closing and not self._slow:
                    return None
                self._changed.wait()
            if self._linger_s:
                full_by = self._queue.first_came_at() + self._linger_s
                while 0 < len(self._queue) < self._max_batch and not self._closing:
                    if not self._changed.wait(max(0.0, full_by - time.monotonic())):
                        break
            share = len(self._queue) if self._linger_s else ceil(len(self._queue) / self._idle)
            items = self._queue.take(min(self._max_batch, share))
            self._idle -= 1
            self._busy.update(items)
            work = items[0].work if len(items) == 1 else total(item.work for item in items)
            return items, self._backlog.begin(work)

    def _carry(self, items: list[Item]) -> bool:
        """Answer what can be answered of some items; return whether that was all."""
        is_heavy = self._pipeline.is_heavy
        pool = self._pool if len(items) > 1 and any(is_heavy(item.payload) for item in items) else None
        attempts = map(self._preprocess, items) if pool is None else pool.map(self._preprocess, items)
        batch = [pair for pair in attempts if pair and not pair[0].is_settled() and pair[0].starts()]
        for stats in (self._stats, self._evaluations):  # predictions first, since a client waits for each
            if part := [pair for pair in batch if pair[0].stats is stats]:
                self._infer(part)
        return len(batch) == len(items)

    def _preprocess(self, item: Item) -> "tuple[Item, Prepared] | None":
        if item.prepared is not None:
            return item, item.prepared
        item.taken_at = time.monotonic()
        if item.is_settled():
            return None
        try:
            if item in self._slow:
                item.is_begun = True
                return item, self._pipeline.preprocess_slow(item.payload)
            if not self._pipeline.is_slow(item.payload):
                item.is_begun = True
                return item, self._pipeline.preprocess(item.payload)
            self._set_aside(item)
        except VitrineError as error:
            item.fail(error)
        except Exception:
            logger.exception("%s: an item could not be preprocessed", self._name)
            item.fail(InferenceFailed("The prediction failed."))
        finally:
            item.preprocessed_at = time.monotonic()
        return None

    def _set_aside(self, item: Item) -> None:
        """Have an item prepared beside the lanes."""
        with self._changed:
            if len(self._slow) >= self._most_slow:
                message = f"{self._name} has {self._most_slow} items waiting that are slow to prepare. Retry later."
                raise QueueFull(message, 5)
            item.is_aside = True
            self._slow.add(item)
        self._aside.submit(self._prepare_aside, item)

    def _prepare_aside(self, item: Item) -> None:
        """Prepare one slow item, put it before those that wait for a lane, and wait for its answer."""
        prepared = self._preprocess(item)
        with self._changed:
            self._slow.discard(item)
            if prepared is not None:
                item.prepared, item.work = prepared[1], Work(item.work.items)  # its size is dealt with
                self._queue.put_first(item)
            self._changed.notify_all()
        wait((item,))  # what is prepared may be large: no more than one such item at a time
        item.payload = None

    def _infer(self, batch: "list[tuple[Item, Prepared]]") -> None:
        started = time.monotonic()
        try:
            results = self._pipeline.infer([prepared for _, prepared in batch])
            if len(results) != len(batch):
                raise RuntimeError(f"{len(results)} results for {len(batch)} items")
        except Exception:
            logger.exception("%s: a batch of %d failed", self._name, len(batch))
            if len(batch) == 1:
                batch[0][0].fail(InferenceFailed("The prediction failed."))
            else:
                for item, prepared in batch:
                    if not item.is_settled():
                        self._infer([(item, prepared)])
            return
        infer_s = time.monotonic() - started
        counts = [self._pipeline.count_inferences(prepared) for _, prepared in batch]
        if inferences := sum(counts):
            batch[0][0].stats.executed(inferences, infer_s)
        for (item, prepared), count, result in zip(batch, counts, results, strict=True):
            if item.done():  # `close` gave up on it
                continue
            queue_s, decode_s = item.taken_at - item.queued_at, item.preprocessed_at - item.taken_at
            if count:
                item.stats.answered(queue_s, decode_s, infer_s, self._pipeline.pixels(prepared))
            else:
                item.stats.count(InvalidInput.__name__)
            answer = Answer(result, queue_s * 1e3, decode_s * 1e3, infer_s * 1e3, len(batch))
            with contextlib.suppress(InvalidStateError):  # given up this very moment
                item.set_result(answer)
