"""Which lanes of a Runner have been at work for far too long."""

import contextlib
import threading
import time

FAR_LONGER = 20
"""A lane is stuck once it takes so many times as long as the longest turn before."""


class LaneWatch:
    """A context that a Runner's lanes enter while they carry items, and that knows since when.

    Args:
        working: another context that they enter with it.
        least_s: no lane is stuck before so many seconds.
    """

    def __init__(self, working: contextlib.AbstractContextManager[object], least_s: float) -> None:
        self._working, self.least_s, self._limit_s = working, least_s, least_s
        self._since = dict[int, float]()

    def __enter__(self) -> None:
        self._working.__enter__()
        self._since[threading.get_ident()] = time.monotonic()

    def __exit__(self, *exception: object) -> None:
        taken_s = time.monotonic() - self._since.pop(threading.get_ident())
        if FAR_LONGER * taken_s > self._limit_s:
            self._limit_s = FAR_LONGER * taken_s
        self._working.__exit__(None, None, None)

    def renewed(self) -> "LaneWatch":
        """Return one for the lanes of another Runner that does the same work."""
        watch = LaneWatch(self._working, self.least_s)
        watch._limit_s = self._limit_s
        return watch

    def stuck_s(self) -> float:
        """Return for how many seconds the lane that is stuck longest has been at work; 0 if none is."""
        now = time.monotonic()
        longest_s = max((now - since for since in tuple(self._since.values())), default=0.0)
        return longest_s if longest_s > self._limit_s else 0.0
