"""A server's processes: started together, measured together, stopped together; and processes beside this one.

Imports nothing heavy: what runs beside this process imports it too.
"""

import contextlib
import multiprocessing
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import uuid
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import psutil

MARK = "COMPARE_RUN"
"""Variable by which processes are found again that their parents have let go of, as Ray's and BentoML's do."""
GRACE_S, AGAIN_S = 15.0, 5.0
"""How long processes have to end by themselves, and after the second signal."""


class Tree:
    """A process and all that came of it."""

    def __init__(self, process: subprocess.Popen[bytes], mark: str) -> None:
        self.process = process
        self._mark = mark

    def members(self) -> list[psutil.Process]:
        """All that are alive."""
        found = set[psutil.Process]()
        with contextlib.suppress(psutil.Error):
            root = psutil.Process(self.process.pid)
            found |= {root, *root.children(recursive=True)}
        for each in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                if each.environ().get(MARK) == self._mark:
                    found.add(each)
        return [each for each in found if alive(each)]

    def memory_mib(self) -> float:
        """Memory of all of them: proportional, so that shared pages count once; resident where that is not known."""
        total = 0
        for each in self.members():
            with contextlib.suppress(psutil.Error):
                total += getattr(each.memory_full_info(), "pss", 0) or each.memory_info().rss
        return total / 2**20

    def cpu_s(self) -> float:
        """Processor time that all of them have taken so far; also, on Linux, their children that have ended."""
        total = 0.0
        for each in self.members():
            with contextlib.suppress(psutil.Error):
                total += sum(each.cpu_times()[:4])
        return total

    def stop(self) -> None:
        """End them all: the first one is asked, then all that are left, then they are killed."""
        left = self.members()
        for step, patience_s in enumerate((GRACE_S, AGAIN_S, AGAIN_S)):
            for each in left[:] if step else [each for each in left if each.pid == self.process.pid]:
                with contextlib.suppress(psutil.Error):
                    each.send_signal(signal.SIGTERM if step < 2 else signal.SIGKILL)
            psutil.wait_procs(left, timeout=patience_s)
            if not (left := self.members()):
                return
        raise RuntimeError(f"processes that could not be stopped: {[each.pid for each in left]}")


@contextlib.contextmanager
def started(command: Sequence[str], settings: Mapping[str, str], cwd: Path | None, log: Path) -> Iterator[Tree]:
    """Run a server until the block ends, however it ends.

    Args:
        command: the server.
        settings: variables beside this process's own.
        cwd: where it runs; without one in a temporary folder that is its home as well (Ray keeps a token there), and
            goes when it ends. Its temporary files are there in any case.
        log: takes what it prints.
    """
    mark, scratch = uuid.uuid4().hex, Path(tempfile.mkdtemp(prefix="vc"))
    own = {"TMPDIR": str(scratch), "RAY_TMPDIR": str(scratch), MARK: mark} | ({} if cwd else {"HOME": str(scratch)})
    environment = {**os.environ, **own, **settings}
    try:
        with log.open("wb") as file:
            # In a session of its own, Ctrl-C reaches this process alone, which then stops it in order.
            process = subprocess.Popen(
                command, cwd=cwd or scratch, env=environment, stdout=file, stderr=file, start_new_session=True
            )
            tree = Tree(process, mark)
            try:
                yield tree
            finally:
                with _without_interrupts():
                    tree.stop()
                    process.wait()
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def beside(*, fresh: bool) -> ProcessPoolExecutor:
    """One process beside this one: the same for good, or a fresh one for each call."""
    spawn = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(1, spawn, _leave_interrupts, max_tasks_per_child=1 if fresh else None)


def _leave_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that stops the servers


@contextlib.contextmanager
def _without_interrupts() -> Iterator[None]:
    """A second Ctrl-C does not leave a server half stopped; signals belong to the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def alive(process: psutil.Process) -> bool:
    """Whether it still runs; one that has ended, but that nobody has asked after, does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
