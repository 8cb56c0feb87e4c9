"""A process of the server shows its supervisor that its event loop turns, and ends with it."""

import asyncio
import logging
import mmap
import os
import signal
import struct
from collections.abc import Callable, Collection, Iterable
from pathlib import Path

logger = logging.getLogger("vitrine")

BEAT_S = 0.5
"""How often a process shows that its event loop turns, in seconds."""
SUPERVISOR = "_VITRINE_SUPERVISOR"
"""The variable in which the supervisor tells the server's processes its process id."""
_COUNT = struct.Struct("=Q")
NOT_BEGUN = bytes(_COUNT.size)
"""What the file of a process holds that has not begun to beat, or cannot."""


class Heartbeat:
    """Counts up in a small file while the event loop of this process turns.

    The file lies in memory, so a disk that stalls does not stop the count.

    Args:
        folder: shared by the server's processes.
        checks: called at every beat; one that raises is logged and called again at the next.
    """

    def __init__(self, folder: Path, checks: Iterable[Callable[[], object]] = ()) -> None:
        self._path, self._checks = heartbeat_file(folder, os.getpid()), list(checks)
        self._memory: mmap.mmap | None = None
        self._count, self._is_ending = 0, False
        supervisor = int(os.environ.get(SUPERVISOR, "0"))
        self._supervisor = supervisor if supervisor != os.getpid() else 0

    def start(self) -> None:
        """Begin to beat on the running event loop, until it closes or the process ends."""
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)  # something that cleans up may delete it
            with self._path.open("w+b") as file:
                file.write(NOT_BEGUN)  # in a file without a block of its own, the first beat on a full disk is SIGBUS
                file.flush()
                self._memory = mmap.mmap(file.fileno(), _COUNT.size)
        except OSError as error:
            logger.error("the supervisor will not notice if this process hangs: %s", error)
        self._beat(asyncio.get_running_loop())

    def _beat(self, loop: asyncio.AbstractEventLoop) -> None:
        self._count += 1
        if self._memory is not None:
            _COUNT.pack_into(self._memory, 0, self._count)
        if self._supervisor and os.getppid() != self._supervisor and not self._is_ending:
            self._is_ending = True
            logger.error("the supervisor is gone: ending")
            os.kill(os.getpid(), signal.SIGTERM)
        for check in self._checks:
            try:
                check()
            except Exception:
                logger.exception("a check of this process failed")
        loop.call_later(BEAT_S, self._beat, loop)


class Watchdog:
    """Tells which processes have stopped beating.

    It counts its own looks, not time, so that nobody is blamed for what stopped the whole machine, such as sleep. A
    process without a count is left alone: it is still importing, or the folder is full or cannot be written to.

    Args:
        folder: shared by the server's processes.
        most_looks: how many looks in a row may find the same count.
    """

    def __init__(self, folder: Path, most_looks: int) -> None:
        self._folder, self._most_looks = folder, most_looks
        self._seen = dict[int, tuple[bytes, int]]()

    def hung(self, processes: Collection[int]) -> list[int]:
        """Look once; return which of the processes, by their ids, hang."""
        before, self._seen = self._seen, {}
        for process in processes:
            try:
                count = heartbeat_file(self._folder, process).read_bytes()
            except OSError:
                continue
            if len(count) != _COUNT.size or count == NOT_BEGUN:
                continue
            last_count, looks = before.get(process, (b"", 0))
            self._seen[process] = count, looks + 1 if count == last_count else 0
        for process in before.keys() - set(processes):
            heartbeat_file(self._folder, process).unlink(missing_ok=True)  # its id may come again
        return [process for process, (_, looks) in self._seen.items() if looks >= self._most_looks]


def heartbeat_file(folder: Path, process: int) -> Path:
    """Return the file in which a process counts."""
    return folder / f"{process}.beat"
