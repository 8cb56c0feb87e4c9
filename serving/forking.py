"""The supervisor forks its processes, where Linux lets it: they start without importing anything anew.

To import BentoML and the rest takes each process more than a second, and 90 MB that forked ones share.
"""

import asyncio
import atexit
import contextlib
import ctypes
import gc
import importlib
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

logger = logging.getLogger("vitrine")

WORKER = "_bentoml_impl.worker.service"
"""The module that BentoML runs in each process, `python -m`."""
PRELOADED = ("uvicorn.logging", "uvloop", "_bentoml_impl.server.app", "_bentoml_impl.client")
"""What the processes import beside `service.py`."""
NEEDED = (
    "circus.watcher:Watcher._process_class",
    "circus.process:Process.spawn",
    "circus.process:Process.format_args",
    "circus.process:Process._get_sockets_fds",
    "circus.arbiter:Arbiter.manage_watchers",
    "circus.arbiter:Arbiter.iter_watchers",
    "circus.controller:Controller.start",
    f"{WORKER}:main",
    "bentoml._internal.log:_component_name.cache_clear",
    "bentoml._internal.log:SERVER_LOGGING_CONFIG",
)
"""What is used here and in `serving.supervisor` of circus and BentoML, as `module:name`."""
_ENDING = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}


def fork_processes(forget: Callable[[], object]) -> None:
    """Have circus fork BentoML's processes from this one, in place of starting Python anew; only on Linux.

    Args:
        forget: makes a new process forget what this one has read when it started, such as its settings.
    """
    if sys.platform == "linux" and Path("/proc/self/fd").exists():
        from circus.watcher import Watcher

        if missing := missing_names():
            logger.warning("processes are started anew, not forked, because there is no %s", " or ".join(missing))
            return
        Watcher._process_class = _forked_process_class(forget)


def missing_names() -> list[str]:
    """Return which names of circus and BentoML are missing that forking needs; they are not part of what these promise.

    Those on which `serving.supervisor` builds are among them.
    """
    return [name for name in NEEDED if not _exists(*name.split(":"))]


def _exists(module: str, path: str) -> bool:
    try:
        value: Any = importlib.import_module(module)
        for part in path.split("."):
            value = getattr(value, part)
    except (ImportError, AttributeError):
        return False
    return True


def _forked_process_class(forget: Callable[[], object]) -> type[Any]:
    from circus.process import Process

    class ForkedProcess(Process):  # type: ignore[misc]
        """A process of BentoML's that is forked; any other is started as ever."""

        def spawn(self) -> None:
            """Start the process."""
            command = self.format_args(sockets_fds=self._get_sockets_fds())
            if command[1:3] != ["-m", WORKER]:
                super().spawn()
                return
            main = importlib.import_module(WORKER).main
            for name in PRELOADED:
                with contextlib.suppress(ImportError):
                    importlib.import_module(name)
            gc.freeze()  # a collection in the new process would copy what is shared
            before = signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
            try:
                pid = os.fork()
                if not pid:
                    _run(main, command[3:], self.env, self.working_dir, forget)
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
            self.started, self._worker = time.time(), ForkedChild(pid)

    return ForkedProcess


class ForkedChild(psutil.Process):
    """A child as circus knows those of `psutil.Popen`."""

    stdout = stderr = None
    returncode: int | None = None

    def poll(self) -> int | None:
        """Return the exit code of a process that has ended, else None."""
        if self.returncode is None:
            try:
                self.returncode = self.wait(0) or 0  # None where circus has asked already
            except psutil.TimeoutExpired:
                return None
        return self.returncode


def _run(
    main: Callable[[Sequence[str]], object],
    arguments: Sequence[str],
    env: Mapping[str, str],
    folder: str,
    forget: Callable[[], object],
) -> None:
    """Be a process of its own from here on, and never return."""
    code = 1
    try:
        _leave_supervisor(listening=int(_after("--fd", arguments)))
        # service.py is run anew, so that it reads what is installed now. The rest holds no state.
        sys.modules.pop("service", None)
        forget()
        os.environ.clear()
        os.environ.update(env)
        os.chdir(folder)
        sys.argv[:] = [WORKER, *arguments]
        _set_title(arguments)
        main(arguments)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        logger.critical("this process ends because of an exception", exc_info=True)
    finally:
        try:
            atexit._run_exitfuncs()
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(code)


def _leave_supervisor(listening: int) -> None:
    """Undo what belongs to the supervisor: its signals, event loop, open files and what it would do at its end.

    Args:
        listening: the socket that is kept, of this process's own port. While one process keeps that of another, who
            comes when the other has closed it waits for ever.
    """
    atexit._clear()
    os.setsid()
    asyncio._set_running_loop(None)
    asyncio.set_event_loop_policy(None)
    signal.set_wakeup_fd(-1)
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        if callable(signal.getsignal(number)) and number != signal.SIGINT:
            signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDING)
    if listening:  # it is the first that is free where the supervisor was started with its standard input closed
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.closerange(3, max(3, listening))
    os.closerange(max(3, listening + 1), 1 + max(map(int, os.listdir("/proc/self/fd"))))


def _set_title(arguments: Sequence[str]) -> None:
    """Show what this process is in place of the supervisor's command line."""
    line = Path("/proc/self/cmdline").read_bytes()
    start, end = map(int, Path("/proc/self/stat").read_text().rpartition(")")[2].split()[45:47])
    if end - start == len(line):  # not where a sandbox tells something else
        words = ["bentoml", "worker", _after("--service-name", arguments)]
        title = b"\0".join(word.encode() for word in words)[: len(line) - 1]
        ctypes.memmove(start, title.ljust(len(line), b"\0"), len(line))


def _after(option: str, arguments: Sequence[str]) -> str:
    return arguments[arguments.index(option) + 1]
