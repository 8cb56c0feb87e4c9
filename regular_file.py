"""Read a file that somebody may have put something else in place of: a pipe, a folder, a network that has stalled."""

import errno
import os
import stat
import threading
from pathlib import Path

READ_LIMIT_S = 5.0
"""A file that cannot be read within this time, in seconds, is given up."""
MAX_BYTES = 2**24
_KINDS = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"}


def read_regular_file(path: Path, max_bytes: int | None = None) -> bytes:
    """Return the content of a regular file, without waiting for anyone to write to it.

    Raises:
        OSError: it cannot be read, has more than `max_bytes` (by default `MAX_BYTES`), or is a folder, a pipe or a
            device.
    """
    max_bytes = MAX_BYTES if max_bytes is None else max_bytes
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            kind = _KINDS.get(stat.S_IFMT(mode), "something else")
            raise OSError(errno.EINVAL, f"It is {kind}, not a regular file", str(path))
        with open(descriptor, "rb", closefd=False) as file:
            content = file.read(max_bytes + 1)
    finally:
        os.close(descriptor)
    if len(content) > max_bytes:
        raise OSError(errno.EFBIG, f"It has more than {max_bytes:,} bytes", str(path))
    return content


def read_within(path: Path, seconds: float = READ_LIMIT_S) -> bytes:
    """Return what `read_regular_file` does, in a thread that is left behind if the file's system does not answer.

    Raises:
        OSError: as there, or the time is over.
    """
    outcome = list[bytes | OSError]()

    def read() -> None:
        try:
            outcome.append(read_regular_file(path))
        except OSError as error:
            outcome.append(error)

    thread = threading.Thread(target=read, name=f"read {path.name}", daemon=True)
    thread.start()
    thread.join(seconds)
    if not outcome:
        raise TimeoutError(errno.ETIMEDOUT, f"Nothing came within {seconds:g} seconds", str(path))
    if isinstance(outcome[0], OSError):
        raise outcome[0]
    return outcome[0]
