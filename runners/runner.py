"""The Runner: a bounded queue and a few lanes, work-conserving, that fails only what is itself at fault."""

import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, InvalidStateError, ThreadPoolExecutor
from dataclasses import dataclass, field
from math import ceil
from typing import Generic, NamedTuple, TypeVar

from errors import DeadlineExceeded, InferenceFailed, InvalidInput, QueueFull, Unavailable, VitrineError
from runners.stats import RunnerStats, StatsKeeper

logger = logging.getLogger("vitrine.runner")

P = TypeVar("P")  # what is submitted
X = TypeVar("X")  # what `admit` makes of it, ready to be batched
R = TypeVar("R")  # what comes back for one item


class Answer(NamedTuple, Generic[R]):
    """One item's result and where its time went, in milliseconds."""

    value: R
    queue_ms: float
    decode_ms: float
    infer_ms: float
    batch_size: int
    cached: bool = False


@dataclass(eq=False)
class _Item(Generic[P, X, R]):
    payload: P
    deadline: float | None
    future: "Future[Answer[R]]" = field(default_factory=Future)
    queued_at: float = field(default_factory=time.monotonic)
    taken_at: float = 0.0
    admitted_at: float = 0.0


class Runner(Generic[P, X, R]):
    """Runs items of one model.

    A lane is a thread. An idle one takes at once its fair share of what is waiting, at most `max_batch`, and carries
    it all the way: `admit` item by item, then `run` on those that passed. It waits for more, up to `linger_ms`, only
    if told to; so nothing is slower for being batched, and batches grow by themselves when lanes are busy.

    Args:
        name: of the model; in messages and thread names.
        admit: one payload → what can be batched. A VitrineError it raises is that item's answer.
        run: a batch → one result an item, in order. If it raises, or gives a wrong number of results, the items are
            run again one by one and only those that fail alone get `InferenceFailed`.
        lanes: threads.
        max_batch: items in one `run`.
        queue_size: items that may wait; more are refused with `QueueFull`.
        linger_ms: how long a lane holds back a batch that is not full; one told to linger takes all it may, not its
            share, since full batches are what was asked for.
        weigh: how many inferences there are in an item; none in one that was wrong throughout, as its result says.
        decoders: threads that `admit` the items of one batch side by side; without, the lane does one after the other.
        heavy: whether an item is worth another thread; a batch without such an item is admitted by the lane.
        at_work: entered by a lane while it carries items; may be entered several times at once.
    """

    def __init__(
        self,
        name: str,
        admit: Callable[[P], X],
        run: Callable[[list[X]], Sequence[R]],
        *,
        lanes: int = 1,
        max_batch: int = 1,
        queue_size: int = 256,
        linger_ms: float = 0.0,
        decoders: int = 0,
        heavy: Callable[[P], bool] = lambda _: True,
        weigh: Callable[[X], int] = lambda _: 1,
        at_work: contextlib.AbstractContextManager[object] | None = None,
    ) -> None:
        self._name, self._admit, self._run = name, admit, run
        self._weigh, self._heavy = weigh, heavy
        self._at_work = at_work or contextlib.nullcontext()
        self._max_batch, self._queue_size, self._linger_s = max_batch, queue_size, linger_ms / 1000
        self._queue: deque[_Item[P, X, R]] = deque()
        self._changed = threading.Condition()
        self._idle = lanes
        self._busy: set[_Item[P, X, R]] = set()
        self._closing = False
        self._stats = StatsKeeper(name)
        self._pool = ThreadPoolExecutor(decoders, f"decode-{name}") if decoders else None
        self._lanes = [
            threading.Thread(target=self._lane, name=f"lane-{name}-{index}", daemon=True) for index in range(lanes)
        ]
        for lane in self._lanes:
            lane.start()

    def submit(self, payload: P, deadline: float | None = None) -> "Future[Answer[R]]":
        """Queue one item. `deadline` is a `time.monotonic()`; past it, or cancelled, an item is not computed.

        Raises:
            QueueFull: `queue_size` items wait already.
            Unavailable: `close` has begun.
        """
        item = _Item[P, X, R](payload, deadline)
        with self._changed:
            if self._closing:
                raise Unavailable(f"{self._name} is shutting down. Send the request to another server, or later.")
            if len(self._queue) >= self._queue_size:
                self._queue = deque(each for each in self._queue if not each.future.cancelled() or self._starts(each))
            if len(self._queue) >= self._queue_size:
                seconds = ceil(len(self._queue) * self._stats.seconds_an_item() / len(self._lanes))
                self._stats.count("rejected")
                message = f"{self._name} has {self._queue_size} items waiting, as many as it takes. Retry later."
                raise QueueFull(message, max(1, seconds))
            self._queue.append(item)
            self._changed.notify()
        return item.future

    def stats(self) -> RunnerStats:
        """Counts and times since the start."""
        with self._changed:
            waiting, running = len(self._queue), len(self._busy)
        return self._stats.snapshot(waiting, running)

    @contextlib.contextmanager
    def uncounted(self) -> Iterator[None]:
        """What is done meanwhile is no client's and is left out of `stats` and of the metrics."""
        self._stats.muted = True
        try:
            yield
        finally:
            self._stats.muted = False

    def close(self, timeout_s: float) -> bool:
        """Refuse new items, finish the waiting ones, end the lanes. False if that took longer than `timeout_s`.

        What is not finished by then fails with `Unavailable`; a lane that is stuck is left behind (a daemon thread).
        """
        deadline = time.monotonic() + timeout_s
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        for lane in self._lanes:
            lane.join(max(0.0, deadline - time.monotonic()))
        with self._changed:
            waiting, running = list(self._queue), list(self._busy)
            self._queue.clear()
        if self._pool is not None:
            self._pool.shutdown(wait=not any(lane.is_alive() for lane in self._lanes), cancel_futures=True)
        for item in [*(each for each in waiting if not self._over(each)), *running]:
            self._fail(item, Unavailable(f"{self._name} was shut down before it got to this. Send it again."))
        return not any(lane.is_alive() for lane in self._lanes)

    def _lane(self) -> None:
        while (items := self._take()) is not None:
            try:
                with self._at_work:
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

    def _take(self) -> "list[_Item[P, X, R]] | None":
        """This lane's fair share of what is waiting; None once the Runner is closing and nothing is."""
        with self._changed:
            while not self._queue:
                if self._closing:
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

    def _carry(self, items: "list[_Item[P, X, R]]") -> None:
        pool = self._pool if len(items) > 1 and any(self._heavy(item.payload) for item in items) else None
        tried = map(self._admitted, items) if pool is None else pool.map(self._admitted, items)
        admitted = [each for each in tried if each and not self._over(each[0]) and self._starts(each[0])]
        if admitted:
            self._infer(admitted)

    def _admitted(self, item: "_Item[P, X, R]") -> "tuple[_Item[P, X, R], X] | None":
        item.taken_at = time.monotonic()
        if self._over(item):
            return None
        try:
            return item, self._admit(item.payload)
        except VitrineError as error:
            self._fail(item, error)
        except Exception:
            logger.exception("%s: an item could not be transformed", self._name)
            self._fail(item, InferenceFailed("The prediction failed."))
        finally:
            item.admitted_at = time.monotonic()
        return None

    def _infer(self, admitted: "list[tuple[_Item[P, X, R], X]]") -> None:
        started = time.monotonic()
        try:
            values = self._run([ready for _, ready in admitted])
            if len(values) != len(admitted):
                raise RuntimeError(f"{len(values)} results for {len(admitted)} items")
        except Exception:
            logger.exception("%s: a batch of %d failed", self._name, len(admitted))
            if len(admitted) == 1:
                self._fail(admitted[0][0], InferenceFailed("The prediction failed."))
            else:
                for one in admitted:
                    if not self._over(one[0]):
                        self._infer([one])
            return
        infer_s = time.monotonic() - started
        weights = [self._weigh(ready) for _, ready in admitted]
        if size := sum(weights):
            self._stats.executed(size, infer_s, len(admitted))
        for (item, _), weight, value in zip(admitted, weights, values, strict=True):
            if item.future.done():  # `close` gave up on it
                continue
            queue_s, decode_s = item.taken_at - item.queued_at, item.admitted_at - item.taken_at
            if weight:
                self._stats.answered(queue_s, decode_s, infer_s)
            else:
                self._stats.count(InvalidInput.__name__)
            answer = Answer(value, queue_s * 1e3, decode_s * 1e3, infer_s * 1e3, len(admitted))
            with contextlib.suppress(InvalidStateError):  # given up this very moment
                item.future.set_result(answer)

    def _over(self, item: "_Item[P, X, R]") -> bool:
        """Whether there is nothing left to do for an item: late, cancelled, or given up by `close`."""
        if item.deadline is not None and time.monotonic() >= item.deadline:
            self._fail(item, DeadlineExceeded(f"{self._name} could not answer before the deadline. Allow more time."))
        if item.future.cancelled():
            self._starts(item)
        return item.future.done()

    def _starts(self, item: "_Item[P, X, R]") -> bool:
        """From here on an item can no longer be cancelled; False, counted and announced once, if it was already."""
        try:
            if item.future.set_running_or_notify_cancel():
                return True
            self._stats.count("cancelled")
        except RuntimeError:  # given up by `close` this very moment
            pass
        return False

    def _fail(self, item: "_Item[P, X, R]", error: VitrineError) -> None:
        if not item.future.done():
            self._stats.count(type(error).__name__)
            with contextlib.suppress(InvalidStateError):  # cancelled or given up this very moment
                # Where it came from leads back to the item: its payload would stay until the garbage collector comes.
                error.__cause__ = error.__context__ = None
                item.future.set_exception(error.with_traceback(None))
