"""The root file system of the tests' base image: Debian's packages, as no registry may be at hand."""

import os
import signal
import subprocess
from pathlib import Path

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vitrine-tests"
"""Where the base and the layers stay between two runs of the tests."""
ROOTFS, LOG = CACHE / "base" / "rootfs.tar", CACHE / "base" / "rootfs.log"
UNUSED = ("doc", "man", "info", "locale")
"""Folders of /usr/share that slim images leave out as well."""
# Of several test processes one makes the file; the others wait, and find it.
SCRIPT = """
exec 9>"$1.lock" && flock 9 && [ -e "$1" ] && exit
cat $(ls /etc/apt/sources.list /etc/apt/sources.list.d/debian.* 2>/dev/null) |
  mmdebstrap --quiet --variant=minbase --include=usr-is-merged,ca-certificates,python3-venv,python3-pip \\
  --hook-dir=/usr/share/mmdebstrap/hooks/merged-usr "${@:2}" bookworm "$1.part.tar" - && mv "$1.part.tar" "$1"
"""  # without usr-is-merged, usrmerge would bring Perl


class Bootstrap:
    """The making of the root file system, in a process beside the tests, unless an earlier run has made it."""

    def __init__(self) -> None:
        ROOTFS.parent.mkdir(parents=True, exist_ok=True)
        unused = [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in UNUSED]
        command = ["bash", "-c", SCRIPT, "bash", str(ROOTFS), *unused]
        with LOG.open("wb") as log:
            # In a session of its own, so that `stop` reaches all that it has started.
            self._process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)

    def wait(self) -> Path:
        """Return the file, once it is there."""
        self._process.wait()
        assert ROOTFS.exists(), LOG.read_text()
        return ROOTFS

    def stop(self) -> None:
        """End it if it still runs."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGTERM)
            self._process.wait()
