"""Admission by time: how much work waits for the lanes of a Runner, how long it takes, and when to come back."""

import heapq
import math
import time
from collections.abc import Callable, Hashable, Iterable
from contextvars import ContextVar
from math import inf
from typing import NamedTuple

MEMORY_TURNS = 32
"""The number of recent turns that a measured service time follows from."""
LEAST_SPREAD = 0.1
"""Sizes must differ so much, as a share of their square, before time is put down to size instead of number."""
LONGEST_RETRY_S = 30.0
"""The longest that a client is sent away; the default timeout, beyond which nobody waits."""

RETRY_MARGIN = 1.25
"""Clients who come back are told to come so many times slower than lanes can serve, which are not always as quick."""

KEPT_FOR_S, MOST_PROMISES = 5.0, 16_384
"""How long after the time that a client was told a place is kept for it, and for how many clients at once."""

asked_by = ContextVar[Hashable]("asked_by", default=None)
"""Who sent the request that this task answers, as far as clients can be told apart; None where they cannot."""


class Work(NamedTuple):
    """How much one payload, or several together, ask of a lane.

    Attributes:
        items: the number of pictures, or of requests with rows.
        size: what the time of an item grows with, in a unit of its pipeline: bytes of pictures, or rows.
    """

    items: float = 1
    size: float = 0


def total(works: Iterable[Work]) -> Work:
    """Return several pieces of work as one."""
    items = size = 0.0
    for work in works:
        items += work.items
        size += work.size
    return Work(items, size)


class Turn(NamedTuple):
    """What one lane carries at a time.

    Attributes:
        work: that of all its items.
        began: a value of the clock.
        expected_s: how long it was expected to take then.
        is_crowded: whether every lane was at work then.
    """

    work: Work
    began: float
    expected_s: float
    is_crowded: bool


class ServiceTime:
    """The seconds of a lane that work takes: a part for each item and one for each unit of its size.

    Both are fitted to the latest turns by least squares. Each turn is weighted by the inverse of the larger of its
    time and of the expected one, so that a turn counts for the same however much it holds, and one that was held up,
    as by another process, counts no more than the others.
    """

    def __init__(self) -> None:
        self.item_s = self.unit_s = 0.0
        self._ii = self._is = self._ss = self._it = self._st = 0.0

    def of(self, work: Work) -> float:
        """Return the expected seconds; 0 before the first measurement."""
        return self.item_s * work.items + self.unit_s * work.size

    def of_usual_item(self) -> float:
        """Return the expected seconds of an item of the mean size; 0 before the first measurement."""
        return self.of(Work(1, self._is / self._ii)) if self._ii else 0.0

    def add(self, work: Work, seconds: float) -> None:
        """Take the time of one turn into account."""
        items, size = work
        weight, kept = 1 / max(seconds, self.of(work), 1e-9), 1 - 1 / MEMORY_TURNS
        self._ii = kept * self._ii + weight * items * items
        self._is = kept * self._is + weight * items * size
        self._ss = kept * self._ss + weight * size * size
        self._it = kept * self._it + weight * items * seconds
        self._st = kept * self._st + weight * size * seconds
        spread = self._ii * self._ss - self._is * self._is
        if spread > LEAST_SPREAD * self._ii * self._ss:
            self.unit_s = max(0.0, (self._ii * self._st - self._is * self._it) / spread)
        self.item_s = (self._it - self.unit_s * self._is) / self._ii
        if self.item_s < 0:
            self.item_s = 0.0
            self.unit_s = self._st / self._ss


class Backlog:
    """The work that waits for the lanes of one Runner, or is in one, and whom it leaves room for.

    It knows nothing of threads: its owner calls it with a lock held, `is_full` aside.

    Args:
        lanes: how many turns there are at a time.
        limit_s: the most seconds that a newcomer may have to wait for its turn.
        clock: the time that deadlines refer to.
    """

    def __init__(self, lanes: int, limit_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._lanes, self._clock, self.limit_s = lanes, clock, limit_s
        self._items = self._size = 0.0
        self._crowded, self._lone = ServiceTime(), ServiceTime()
        self._service = self._lone
        self._under_way, self._under_way_items, self._under_way_s, self._began, self._ended = 0, 0.0, 0.0, 0.0, 0
        self._promised_until, self._promises, self._free_times = 0.0, dict[Hashable, float](), list[float]()
        self._kept_s = min(1.0, limit_s) / RETRY_MARGIN  # so much work may be told to come at the same whole second

    def add(self, work: Work) -> None:
        """Count work that waits from now on, and keep no other place for who asked for it."""
        if not self._items:
            self._promised_until = 0.0  # whoever was sent away is taken at once
            self._promises.clear()
            self._free_times.clear()
        elif self._promises and (due := self._promises.pop(asked_by.get(), None)) is not None:
            heapq.heappush(self._free_times, due)  # one that is over is never given to anybody
        self._items += work[0]
        self._size += work[1]

    def remove(self, work: Work) -> None:
        """Stop counting work that nobody waits for any more."""
        self._items -= work[0]
        self._size -= work[1]

    def begin(self, work: Work) -> Turn:
        """Return the turn that a lane begins with work that was added before."""
        now, expected_s = self._clock(), self._service.of(work)
        self._under_way += 1
        self._under_way_items += work[0]
        self._began += now
        self._under_way_s += expected_s
        return Turn(work, now, expected_s, self._under_way == self._lanes)

    def end(self, turn: Turn, done: Work) -> None:
        """End a turn, whose work is counted no more, and whose time goes into what the next ones are expected to take.

        Where nothing waits, the time of one turn in eight is enough.

        Args:
            turn: the turn.
            done: the part of its work that was carried out, rather than found late or cancelled.
        """
        work, began, expected_s, is_crowded = turn
        self.remove(work)
        self._under_way -= 1
        self._under_way_items -= work[0]
        self._began = self._began - began if self._under_way else 0.0
        self._under_way_s = self._under_way_s - expected_s if self._under_way else 0.0
        if done[0] and (self._items or self._ended % 8 == 0):
            self.measured(done, self._clock() - began, is_crowded=is_crowded)
        self._ended += 1

    def measured(self, work: Work, seconds: float, *, is_crowded: bool) -> None:
        """Take into account how long a lane took for work.

        A lane that is alone may have all cores for itself, so what it takes counts only until all were at work at once.
        """
        if is_crowded:
            self._crowded.add(work, seconds)
            self._service = self._crowded
        elif self._service is self._lone:
            self._lone.add(work, seconds)

    def seconds(self) -> float:
        """Return how long somebody who comes now waits for a lane; 0 before anything was measured."""
        if self._under_way < self._lanes and self._items == self._under_way_items:
            return 0.0
        service = self._service
        passed_s = min(self._under_way * self._clock() - self._began, self._under_way_s)
        return max(0.0, (service.item_s * self._items + service.unit_s * self._size - passed_s) / self._lanes)

    def item_seconds(self) -> float:
        """Return how long a lane takes for an item of the mean size; 0 before anything was measured."""
        return self._service.of_usual_item()

    def is_full(self) -> bool:
        """Return whether a newcomer would wait longer than it may; who was told to come now may have a place kept."""
        service, most_s = self._service, self.limit_s - self._kept_s if self._promises else self.limit_s
        at_most_s = (service.item_s * self._items + service.unit_s * self._size) / self._lanes
        return at_most_s > most_s and self.seconds() > most_s

    def usual_work(self) -> Work:
        """Return what somebody may bring of whom nothing is known yet: as much as an item of those that wait."""
        return Work(1, self._size / self._items) if self._items else Work()

    def wait_for_room(self, work: Work, count: int, deadline: float | None, now: float) -> float:
        """Return how long work has to stay away before there is room for it; 0 if it can be added now.

        Only the work ahead counts against the limit, what is asked for against its own deadline alone, and where a lane
        is free the lanes tell.

        Args:
            work: all that would be added.
            count: the number of payloads it consists of, which lanes carry side by side.
            deadline: when all of it has to be done, a value of the clock.
            now: what the clock says.
        """
        service = self._service
        ahead_s = (service.item_s * self._items + service.unit_s * self._size) / self._lanes
        most_s = self.most_s(now)
        if ahead_s and deadline is not None:
            own_s = service.item_s * work[0] + service.unit_s * work[1]
            most_s = min(most_s, deadline - now - own_s / min(self._lanes, count))
        if ahead_s <= most_s or not ahead_s:
            return 0.0
        return max(0.0, self.seconds() - max(0.0, most_s))

    def retry_after_s(self, work: Work, wait_s: float) -> int:
        """Return after how many seconds to come back with work that has to stay away for `wait_s`.

        Those who are sent away are told different times, one after the other as the lanes get to their work, or they
        would come back together and be refused again. Where the queue takes less than a second of work, those told the
        same whole second must be no more than it takes, or one. Who is sent away for another reason than the limit is
        told what it has to wait.

        Who comes back too early is told the rest of its time and makes nobody else wait for longer. Who comes back when
        it was told to finds a place, even if others who do not do as they were told have filled the queue meanwhile.
        """
        now, who = self._clock(), asked_by.get()
        if self.seconds() <= self.most_s(now):
            return max(1, math.ceil(wait_s))
        if (due := self._promises.get(who, now)) > now:
            return max(1, math.ceil(due - now))
        while self._free_times:
            if (due := heapq.heappop(self._free_times)) >= now + max(1.0, wait_s):
                retry_after_s = math.ceil(due - now)
                self._promise(who, now + retry_after_s, now)
                return retry_after_s
        share_s = RETRY_MARGIN * self._service.of(work) / self._lanes
        until = max(self._promised_until, now + wait_s) + max(share_s, min(1.0, share_s / self.limit_s))
        self._promised_until = min(until, now + LONGEST_RETRY_S)
        retry_after_s = max(1, math.ceil(self._promised_until - now))
        self._promise(who, now + retry_after_s, now)
        return retry_after_s

    def most_s(self, now: float) -> float:
        """Return how long who asks may have to wait: less while places are kept for others than its own."""
        if not self._promises or 0 <= now - self._promises.get(asked_by.get(), inf) <= KEPT_FOR_S:
            return self.limit_s
        return self.limit_s - self._kept_s

    def _promise(self, who: Hashable, due: float, now: float) -> None:
        if who is None:
            return
        self._promises.pop(who, None)
        while self._promises:  # the oldest come first
            oldest = next(iter(self._promises))
            if len(self._promises) < MOST_PROMISES and self._promises[oldest] + KEPT_FOR_S >= now:
                break
            del self._promises[oldest]
        self._promises[who] = due
