"""The control groups of this process: where Linux writes what a container may use."""

from collections.abc import Iterator
from pathlib import Path


def cgroups(controller: str, root: Path = Path("/")) -> Iterator[tuple[int, Path]]:
    """Yield each cgroup of this process and each of their parents, as the cgroup version (1 or 2) and the folder.

    Args:
        controller: which limit is asked for, such as `cpu` or `memory`; version 2 has one hierarchy for all.
        root: the folder that holds `proc` and `sys`; tests give another one.
    """
    for line in read_lines(root / "proc/self/cgroup"):
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            version, mount = 2, root / "sys/fs/cgroup"
        elif controller in controllers.split(","):
            version, mount = 1, root / "sys/fs/cgroup" / controller
        else:
            continue
        folder = mount / path.lstrip("/")
        for group in (folder, *folder.parents):
            if group == mount.parent:
                break
            yield version, group


def read_lines(path: Path) -> list[str]:
    """Return the lines of a file; none where it cannot be read."""
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
