"""Long pieces of Python work, such as reading large JSON: one at a time, in a thread that steps back for lanes."""

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from math import inf
from typing import Any, Generic, Protocol, TypeVar

from errors import QueueFull
from runners.admission import Backlog, Work
from runners.awaiting import awaitable

Result = TypeVar("Result")

SHARE = 0.2
"""The part of the cores that the thread takes, at most, from lanes at work, which then take a quarter longer."""
LONGEST_REST_S, GLANCE_S = 0.5, 0.001
"""The longest rest after one piece, and how often a resting thread looks whether the others still work, in seconds."""


class Job(Protocol):
    """The work of one request, in one piece or several."""

    async def run(self, piece: Callable[[], Result]) -> Result:
        """Return what a piece returns, or raise what it raises."""


class SerialExecutor:
    """Runs the long pieces of all requests one after the other.

    The interpreter runs one thread at a time, so a second one would finish no more, and each keeps the event loop
    waiting for its turn. Who is admitted is known by the same measure as at a Runner: a request whose work would have
    to wait longer than anybody may is refused at once. What has begun is finished before others begin.

    After each piece the thread rests for as long as others are at work, up to the time after which it has taken `SHARE`
    of the cores.

    Args:
        limit_s: how long a request may have to wait for its turn.
        cores: of this process.
        others_work: returns whether somebody needs the cores for more pressing work.
        clock: seconds, as of `time.monotonic`.
        sleep: waits for so many seconds.
    """

    def __init__(
        self,
        limit_s: float = inf,
        cores: int = 1,
        others_work: Callable[[], bool] = lambda: False,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self._clock, self._sleep, self._others_work = clock, sleep, others_work
        self._rest_of_second_s = max(0.0, 1 / (SHARE * cores) - 1)
        self._backlog, self._rested_at = Backlog(1, limit_s, clock), -inf
        self._changed, self._is_closing = threading.Condition(), False
        self._begun, self._new = deque[_Piece[Any]](), deque[_Piece[Any]]()
        self._thread: threading.Thread | None = None

    def check_room(self) -> None:
        """Return if a job that came now would be admitted; else QueueFull."""
        if self._backlog.is_full():
            with self._changed:
                self._admit(self._backlog.usual_work())

    def job(self, size: int) -> "SerialJob":
        """Admit the work of one request, which counts until the job's block ends.

        Args:
            size: what its time grows with, such as the bytes of a body.

        Raises:
            QueueFull: it would have to wait too long.
        """
        work = Work(1, size)
        with self._changed:
            self._admit(work)
            self._backlog.add(work)
        return SerialJob(self, work)

    def seconds(self) -> float:
        """Return how long somebody who came now would wait."""
        return self._backlog.seconds()

    def close(self) -> None:
        """Finish what waits, and end the thread; what comes later all the same is finished, too."""
        with self._changed:
            self._is_closing = True
            self._changed.notify_all()

    def _admit(self, work: Work) -> None:
        if wait_s := self._backlog.wait_for_room(work, 1, None, self._clock()):
            message = (
                f"Large bodies of JSON have {self._backlog.seconds():.1f} seconds of work waiting, and this server "
                f"takes {self._backlog.most_s(self._clock()):g}. Retry later."
            )
            raise QueueFull(message, self._backlog.retry_after_s(work, wait_s))

    def put(self, piece: "_Piece[Any]") -> None:
        """Queue a piece: before those of jobs that have not begun if its own has."""
        with self._changed:
            (self._begun if piece.job.took_s else self._new).append(piece)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="large-json", daemon=True)
                self._thread.start()
            self._changed.notify()

    def end(self, work: Work, took_s: float) -> None:
        """Count a job no more, which took so long; 0 if it never began."""
        with self._changed:
            self._backlog.remove(work)
            if took_s:
                self._backlog.measured(work, took_s, is_crowded=True)

    def _run(self) -> None:
        while (piece := self._take()) is not None:
            if piece.set_running_or_notify_cancel():
                self._carry(piece)
            del piece  # or an idle thread keeps the last one alive

    def _take(self) -> "_Piece[Any] | None":
        with self._changed:
            while not self._begun and not self._new:
                if self._is_closing:
                    self._thread = None
                    return None
                self._changed.wait()
            return (self._begun or self._new).popleft()

    def _carry(self, piece: "_Piece[Any]") -> None:
        taken_at = self._clock()
        while (left_s := self._rested_at - self._clock()) > 0 and self._others_work():
            self._sleep(min(left_s, GLANCE_S))
        began = self._clock()
        result, error = None, None
        try:
            result = piece.work()
        except BaseException as raised:  # the thread outlives whatever happens in it
            error = raised
        ended = self._clock()
        self._rested_at = ended + min(LONGEST_REST_S, (ended - began) * self._rest_of_second_s)
        piece.job.took_s += ended - taken_at
        if error is None:
            piece.set_result(result)
        else:
            piece.set_exception(error)
            del error  # whose traceback leads to this frame


class SerialJob:
    """The work of one request in a `SerialExecutor`, which counts there until the block ends that it is the context of.

    Attributes:
        took_s: how long its pieces have taken so far, with the rests before them.
    """

    def __init__(self, executor: SerialExecutor, work: Work) -> None:
        self._executor, self._work, self.took_s = executor, work, 0.0

    def __enter__(self) -> "SerialJob":
        return self

    def __exit__(self, *exception: object) -> None:
        self._executor.end(self._work, self.took_s)

    async def run(self, piece: Callable[[], Result]) -> Result:
        """Return what a piece returns, or raise what it raises; a piece that has not begun can be cancelled."""
        queued = _Piece(piece, self)
        self._executor.put(queued)
        try:
            return await awaitable(queued)
        finally:
            del queued  # whose error leads back to this frame


class ShortJob:
    """Work that is so short that the event loop does it at once."""

    def __enter__(self) -> "ShortJob":
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    async def run(self, piece: Callable[[], Result]) -> Result:
        """Return what a piece returns, or raise what it raises."""
        return piece()


class _Piece(Future[Result], Generic[Result]):
    def __init__(self, work: Callable[[], Result], job: SerialJob) -> None:
        super().__init__()
        self.work, self.job = work, job
