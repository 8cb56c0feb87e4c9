"""Temporary folders of a server: made at its start, gone at its end; those of killed ones the next removes."""

import atexit
import contextlib
import os
import re
import shutil
import sys
import tempfile
from pathlib import Path

OTHERS = (Path("/dev/shm"), Path("/var/tmp"))
"""Where else temporary folders are made, if there is no room where they should be."""
_NAME = re.compile(r"vitrine-[a-z]+-(\d+)-(\d+)-(\d+)-\w+")
_NUMBER = re.compile(r"\d+")


def temporary_folder(kind: str, parent: Path | None = None) -> str:
    """Make a folder that goes when this process ends.

    On Linux its name says which process made it: the id, when it started, and in which namespace of process ids.

    Args:
        kind: what it is for, in small letters.
        parent: where it is made; None for the usual place.
    """
    owner = f"{os.getpid()}-{_started(os.getpid())}-{_namespace()}-" if _is_linux() else ""
    folder = tempfile.mkdtemp(prefix=f"vitrine-{kind}-{owner}", dir=parent)
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def has_room(folder: Path, size: int) -> bool:
    """Return whether so many bytes more can be written to a folder; True where the system cannot tell."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)
    except OSError:
        return False
    return True


def remove_stale_folders() -> None:
    """Delete the temporary folders of servers that were killed; on Linux only.

    Those of other users, or of processes that cannot be seen from here, such as in another container, are left alone,
    and so are folders with a file that is named after a process which still runs.
    """
    if not _is_linux():
        return
    for parent in (Path(tempfile.gettempdir()), *OTHERS):
        with contextlib.suppress(OSError):
            for folder in parent.glob("vitrine-*"):
                with contextlib.suppress(OSError):
                    if _is_stale(folder):
                        shutil.rmtree(folder, ignore_errors=True)


def _is_stale(folder: Path) -> bool:
    """Return whether a folder is of this user, and of a process of this namespace that is gone with its children."""
    match, status = _NAME.fullmatch(folder.name), folder.lstat()
    if match is None or status.st_uid != os.getuid() or folder.is_symlink() or not folder.is_dir():
        return False
    process, started, namespace = map(int, match.groups())
    if namespace != _namespace() or _started(process) == started:
        return False
    names = [path.name for path in folder.iterdir()]
    return not any(_started(int(number)) for name in names for number in _NUMBER.findall(name))


def _started(process: int) -> int:
    """Return when a process started, in ticks since the machine did; 0 if there is none."""
    try:
        return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return 0


def _namespace() -> int:
    """Return the number of this process's namespace of process ids; 0 where it cannot be told."""
    try:
        return os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return 0


def _is_linux() -> bool:
    return sys.platform == "linux"
