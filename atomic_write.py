"""Write a file whole or not at all, so that nobody ever reads half of it."""

import contextlib
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


@contextlib.contextmanager
def atomic_write(path: Path, *, private: bool = False) -> Iterator[BinaryIO]:
    """Open a temporary file that takes the place of `path` in one step when the block ends.

    If the block raises, the temporary file is deleted and `path` stays as it was. The temporary file lies in the same
    folder, which has to exist.

    Args:
        path: the file to write. A link is replaced by a file; resolve it first to keep it.
        private: True for a file with secrets. A new one can then be read by its owner alone (mode 0600), and one that
            is replaced keeps its mode, owner and group. Otherwise the process's umask decides.

    Yields:
        The temporary file, open for writing bytes.

    Raises:
        OSError: the folder cannot be written to, or the disk is full.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600 if private else 0o666)
    try:
        with open(descriptor, "wb") as file:
            yield file
            if private and path.exists():
                _copy_access(path.stat(), descriptor)
            file.flush()
            os.fsync(descriptor)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _copy_access(status: os.stat_result, descriptor: int) -> None:
    os.fchmod(descriptor, stat.S_IMODE(status.st_mode))
    if (status.st_uid, status.st_gid) != (os.geteuid(), os.getegid()):
        os.fchown(descriptor, status.st_uid, status.st_gid)
