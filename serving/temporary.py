"""Temporary folders of a server: made at its start, gone at its end; those of killed ones the next removes."""

import atexit
import contextlib
import os
import re
import shutil
import sys
import tempfile
from pathlib import Path

_NAME = re.compile(r"vitrine-[a-z]+-(\d+)-(\d+)-(\d+)-\w+")
_NUMBER = re.compile(r"\d+")


def temporary_folder(kind: str) -> str:
    """Make a folder that goes when this process ends.

    On Linux its name says which process made it: the id, when it started, and in which namespace of process ids.

    Args:
        kind: what it is for, in small letters.
    """
    owner = f"{os.getpid()}-{_started(os.getpid())}-{_namespace()}-" if _is_linux() else ""
    folder = tempfile.mkdtemp(prefix=f"vitrine-{kind}-{owner}")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def remove_stale_folders() -> None:
    """Delete the temporary folders of servers that were killed; on Linux only.

    Those of other users, or of processes that cannot be seen from here, such as in another container, are left alone,
    and so are folders with a file that is named after a process which still runs.
    """
    if not _is_linux():
        return
    with contextlib.suppress(OSError):
        for folder in Path(tempfile.gettempdir()).glob("vitrine-*"):
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
