"""The counters of quotas that all workers of one server share: a file that each of them maps into its memory."""

import contextlib
import fcntl
import hashlib
import math
import mmap
import os
import struct
import time
from collections.abc import Iterator
from pathlib import Path

from limits.aio.storage import MemoryStorage

from errors import Unavailable

COUNTERS = 16_384
"""How many counters there are; one that counts nothing any more makes room for another."""
LOCK_S = 0.02
"""A worker holds the lock for microseconds. One that was stopped while it did is not waited for: a count may get lost,
which is better than all workers standing still."""
LOCK_POLL_S = 0.0002
_COUNTER = struct.Struct("<16s4q")
"""The beginning of a key's SHA-256; the seconds of a window; its number; what was counted in it and the one before."""


class SharedCounters(MemoryStorage):
    """The library's storage in memory, whose sliding windows are in memory that several processes share.

    Args:
        path: the file; it is made if it is not there, and nothing but counters is in it.
    """

    STORAGE_SCHEME = None  # type: ignore[assignment]

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        os.ftruncate(self._file, COUNTERS * _COUNTER.size)
        self._memory = mmap.mmap(self._file, COUNTERS * _COUNTER.size)

    def close(self) -> None:
        """Let go of the file."""
        self._memory.close()
        os.close(self._file)

    async def acquire_sliding_window_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        """Count `amount` and return True, or False where that would exceed the limit; then nothing is counted.

        What was counted in the window before weighs by the share of it that lies within the last `expiry` seconds.

        Args:
            key: what is counted.
            limit: the most of it.
            expiry: the length of a window, in seconds.
            amount: how much is to be counted.
        """
        with self._locked():
            now = time.time()
            digest, place, current, previous = self._read(key, expiry, now)
            if math.floor(previous * (1 - now / expiry % 1)) + current + amount > limit:
                return False
            _COUNTER.pack_into(self._memory, place, digest, expiry, int(now // expiry), current + amount, previous)
            return True

    async def get_sliding_window(self, key: str, expiry: int) -> tuple[int, float, int, float]:
        """Return what was counted in the window before, the seconds it still counts for, and both of this window."""
        with self._locked():
            now = time.time()
            _, _, current, previous = self._read(key, expiry, now)
        rest = (1 - now / expiry % 1) * expiry
        return previous, rest if previous else 0.0, current, rest + expiry

    def _read(self, key: str, expiry: int, now: float) -> tuple[bytes, int, int, int]:
        """Return the digest of a key, the place of its counter, and its counts in this window and in the one before.

        Raises:
            Unavailable: all counters count something else.
        """
        digest, window = hashlib.sha256(key.encode()).digest()[:16], int(now // expiry)
        first, room = int.from_bytes(digest[:4], "little") % COUNTERS, -1
        for step in range(COUNTERS):
            place = (first + step) % COUNTERS * _COUNTER.size
            owner, seconds, number, current, previous = _COUNTER.unpack_from(self._memory, place)
            if owner == digest:
                if number >= window:  # later, if the clock was set back
                    return digest, place, current, previous
                return digest, place, 0, current if number == window - 1 else 0
            if room < 0 and (not seconds or (number + 2) * seconds <= now):
                room = place
            if not seconds:  # never used, so the key has none further on
                break
        if room < 0:
            raise Unavailable("Too many quotas are counted at once. Send the request again later.")
        return digest, room, 0, 0

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Keep other processes from changing counters; a lock that a process held is free once it has died."""
        is_locked, deadline = False, time.monotonic() + LOCK_S
        while not is_locked and time.monotonic() < deadline:
            try:
                fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # not inherited by a process that is forked
                is_locked = True
            except (BlockingIOError, PermissionError):
                time.sleep(LOCK_POLL_S)
        try:
            yield
        finally:
            if is_locked:
                fcntl.lockf(self._file, fcntl.LOCK_UN)
