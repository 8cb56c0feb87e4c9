"""The processes of one server, measured and stopped together; and the processes that run the load beside this one.

This module imports nothing heavy, since the processes beside this one import it too.
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
"""Environment variable that marks a server's processes, also those that outlive their parents, as Ray's do."""
GRACE_S, AGAIN_S = 15.0, 5.0
"""Seconds that processes are given to end after the first signal, and after each further one."""


class Tree:
    """A process and all processes that it has started, directly or not."""

    def __init__(self, process: subprocess.Popen[bytes], mark: str) -> None:
        self.process = process
        self._mark = mark

    def members(self) -> list[psutil.Process]:
        """Return all of them that are alive."""
        members = set[psutil.Process]()
        with contextlib.suppress(psutil.Error):
            root = psutil.Process(self.process.pid)
            members |= {root, *root.children(recursive=True)}
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                if process.environ().get(MARK) == self._mark:
                    members.add(process)
        return [process for process in members if is_alive(process)]

    def pids(self) -> list[int]:
        """Return the process ids of the same."""
        return [process.pid for process in self.members()]

    def memory_mib(self) -> tuple[float, float]:
        """Return the resident and the proportional memory of all of them in MiB.

        Resident memory counts a page again in each process that shares it, proportional memory counts it once.
        """
        resident = proportional = 0
        for process in self.members():
            with contextlib.suppress(psutil.Error):
                resident += process.memory_info().rss
                proportional += memory_bytes(process)
        return resident / 2**20, proportional / 2**20

    def cpu_s(self) -> float:
        """Return the processor seconds of all of them so far and, on Linux, of their children that have ended."""
        total = 0.0
        for process in self.members():
            with contextlib.suppress(psutil.Error):
                total += sum(process.cpu_times()[:4])
        return total

    def stop(self) -> None:
        """Send SIGTERM to the first process, then to all that are left, and kill those that remain.

        Raises:
            RuntimeError: some could not be stopped.
        """
        left = self.members()
        for step, patience_s in enumerate((GRACE_S, AGAIN_S, AGAIN_S)):
            for process in left if step else [member for member in left if member.pid == self.process.pid]:
                with contextlib.suppress(psutil.Error):
                    process.send_signal(signal.SIGTERM if step < 2 else signal.SIGKILL)
            psutil.wait_procs(left, timeout=patience_s)
            if not (left := self.members()):
                return
        raise RuntimeError(f"processes that could not be stopped: {[process.pid for process in left]}")


@contextlib.contextmanager
def started(command: Sequence[str], settings: Mapping[str, str], cwd: Path | None, log: Path) -> Iterator[Tree]:
    """Run a server until the block ends, however it ends; yield its processes.

    Args:
        command: the server.
        settings: variables beside this process's own.
        cwd: where it runs; without one in a temporary folder that is its home as well (Ray keeps a token there), and
            is deleted when it ends. Its temporary files are there in any case.
        log: takes what it prints.
    """
    mark, scratch = uuid.uuid4().hex, Path(tempfile.mkdtemp(prefix="vc"))
    folders = {"TMPDIR": str(scratch), "RAY_TMPDIR": str(scratch), MARK: mark} | ({} if cwd else {"HOME": str(scratch)})
    environment = {**os.environ, **folders, **settings}
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


def process_beside(*, fresh: bool) -> ProcessPoolExecutor:
    """Return an executor of one process beside this one: the same for all calls, or a fresh one for each."""
    spawn = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(1, spawn, _leave_interrupts, max_tasks_per_child=1 if fresh else None)


def _leave_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that stops the servers


@contextlib.contextmanager
def _without_interrupts() -> Iterator[None]:
    """Ignore Ctrl-C inside the block: a second one must not leave a server half stopped."""
    if threading.current_thread() is not threading.main_thread():  # no other thread may set what a signal does
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def memory_bytes(process: psutil.Process) -> int:
    """Return a process's proportional memory, its resident memory where the system does not know that."""
    return int(getattr(process.memory_full_info(), "pss", 0) or process.memory_info().rss)


def is_alive(process: psutil.Process) -> bool:
    """Whether a process still runs; a zombie does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
