"""The items that wait for the lanes of a Runner: who is let in, and who leaves before a lane came to them."""

import contextlib
import time
from collections import deque
from concurrent.futures import Future, InvalidStateError
from threading import Condition
from typing import Any

from errors import DeadlineExceeded, QueueFull, VitrineError
from runners.admission import Backlog, Work, total
from runners.stats import StatsKeeper


class Item(Future[Any]):
    """One payload on its way, and the future of its answer.

    Args:
        payload: what the pipeline preprocesses; it is let go of when the item is over.
        work: what it asks of a lane.
        deadline: a value of `time.monotonic()`, or None.
        queue: where it will wait.
        stats: counts what becomes of it.

    Attributes:
        is_waiting: whether it is in the queue.
        is_begun: whether a lane, or the thread beside them, has begun to preprocess it.
        is_aside: whether it is, or was, prepared beside the lanes.
        prepared: what a thread beside the lanes has made of its payload.
    """

    is_waiting = is_begun = is_aside = False
    taken_at = preprocessed_at = 0.0
    prepared: Any = None

    def __init__(self, payload: Any, work: Work, deadline: float | None, queue: "Queue", stats: StatsKeeper) -> None:
        super().__init__()
        self.payload, self.work, self._deadline, self._queue, self.stats = payload, work, deadline, queue, stats
        self.queued_at = time.monotonic()

    def cancel(self) -> bool:
        """Cancel the item if no lane has begun with it, and give its place to others at once."""
        is_cancelled = super().cancel()
        if is_cancelled and self._queue.leave(self):
            self.starts()
        return is_cancelled

    def is_settled(self) -> bool:
        """Return whether nothing is left to do: it is late, was cancelled, or was given up by `Runner.close`."""
        if self._deadline is not None and time.monotonic() >= self._deadline:
            name = self._queue.name
            self.fail(DeadlineExceeded(f"{name} could not answer before the deadline. Allow more time."))
        if not self.done():
            return False
        if self.cancelled():
            self.starts()
        return True

    def starts(self) -> bool:
        """Keep the item from being cancelled from now on; return False, counted once, if it was cancelled before."""
        try:
            if self.set_running_or_notify_cancel():
                return True
            self.stats.count("cancelled")
        except RuntimeError:  # given up by `close` this very moment
            pass
        return False

    def fail(self, error: VitrineError) -> None:
        """Make an error the answer, unless there is one."""
        if not self.done():
            self.stats.count(type(error).__name__)
            with contextlib.suppress(InvalidStateError):  # cancelled or given up this very moment
                # The error's origin leads back to the item, whose payload would stay until the garbage collector runs.
                error.__cause__ = error.__context__ = None
                self.set_exception(error.with_traceback(None))


class Queue:
    """The items that wait, the first come in front.

    Args:
        name: the model's name, for messages.
        changed: what its owner holds whenever it calls, `leave` aside.
        stats: counts who is refused or leaves.
        backlog: the work of all items, those in a lane included.
        most: the number of items that may wait. Where none does, a request may bring more.
    """

    def __init__(self, name: str, changed: Condition, stats: StatsKeeper, backlog: Backlog, most: int) -> None:
        self.name, self.stats = name, stats
        self._changed, self._backlog, self._most = changed, backlog, most
        self._items = deque[Item]()
        self._cancelled = 0

    def __len__(self) -> int:
        """Return the number of items that wait."""
        return len(self._items) - self._cancelled

    def check_room(self, work: Work, count: int, deadline: float | None, now: float) -> None:
        """Return if work that comes now, as so many items, may join those that wait.

        Raises:
            QueueFull: it would wait too long, or be too many items; `retry_after_s` says when there is room.
        """
        if wait_s := self._backlog.wait_for_room(work, count, deadline, now):
            ahead_s, limit_s = self._backlog.seconds(), self._backlog.most_s(now)
            if ahead_s > limit_s:
                message = f"{self.name} has {ahead_s:.1f} seconds of work waiting, and takes {limit_s:g}. Retry later."
            else:
                message = (
                    f"{self.name} has {ahead_s:.1f} seconds of work waiting, so that this would be late. Allow it more "
                    "time, or retry later."
                )
        elif (waiting := len(self._items) - self._cancelled) and waiting + count > self._most:
            message = f"{self.name} has {waiting} items waiting, and takes {self._most}. Retry later."
        else:
            return
        self.stats.count("rejected", count)
        raise QueueFull(message, self._backlog.retry_after_s(work, wait_s))

    def append(self, item: Item) -> None:
        """Put an item behind all others."""
        item.is_waiting = True
        self._backlog.add(item.work)
        self._items.append(item)

    def put_first(self, item: Item) -> None:
        """Put an item before all others."""
        item.is_waiting = True
        self._backlog.add(item.work)
        self._items.appendleft(item)

    def take(self, most: int) -> list[Item]:
        """Take up to so many items out, the first ones; their work is counted until `Backlog.remove`."""
        taken = list[Item]()
        while self._items and len(taken) < most:
            item = self._items.popleft()
            if item.is_waiting:
                item.is_waiting = False
                taken.append(item)
            else:
                self._cancelled -= 1
        return taken

    def leave(self, item: Item) -> bool:
        """Give the place of an item that was cancelled to others; return False if it did not wait."""
        with self._changed:
            if not item.is_waiting:
                return False
            item.is_waiting = False
            self._backlog.remove(item.work)
            self._cancelled += 1  # it stays here until it would be taken, or half of all are like it
            if self._cancelled > max(100, len(self)):
                self._items, self._cancelled = deque(other for other in self._items if other.is_waiting), 0
        item.payload = None
        return True

    def clear(self) -> list[Item]:
        """Take all items out, and count their work no more."""
        items = self.take(len(self))
        self._backlog.remove(total(item.work for item in items))
        return items

    def first_came_at(self) -> float:
        """Return when the first item came, a value of `time.monotonic()`; there must be one."""
        return self._items[0].queued_at
