"""What the supervisor does beside starting processes: it notices soon that one has died, or hangs, and replaces it.

BentoML's supervisor is circus. It looks for dead processes every ten seconds, and for hanging ones never.
"""

import contextlib
import functools
import logging
import os
import re
import select
import signal
import socket
import time
from collections import deque
from math import ceil
from pathlib import Path
from typing import Any

from serving.heartbeat import SUPERVISOR, Watchdog

logger = logging.getLogger("vitrine")

LOOK_S = 0.25
"""How often the supervisor looks at its processes, in seconds."""
MOST_AT_ONCE, WITHIN_S = 5, 60.0
"""How many times within so many seconds dead processes are replaced at once.

If more die, as they do where none can start, it is left to circus, which waits for up to ten seconds each time.
"""
MOST_REFUSED = 1000
"""The most connections that are refused at one look."""
_BODY = b"""{"type": "about:blank", "title": "Service Unavailable", "status": 503, \
"detail": "The server's processes die again and again; the next one starts within ten seconds. Its log says more.", \
"error": "The server's processes die again and again."}"""
REFUSAL = b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/problem+json\r\nRetry-After: 10\r\n"
REFUSAL += b"Connection: close\r\nContent-Length: %d\r\n\r\n%s" % (len(_BODY), _BODY)
"""What clients are told while no process can be started."""


def watch_processes(folder: Path, hang_seconds: float) -> None:
    """Have the supervisor, once it starts, replace processes that have died, and kill those that hang.

    Args:
        folder: shared by the server's processes, in which they beat.
        hang_seconds: for how long the event loop of a process may stand still, in seconds; 0 for ever.
    """
    from circus.controller import Controller

    start = getattr(Controller.start, "__wrapped__", Controller.start)

    @functools.wraps(start)
    def start_and_watch(controller: Any) -> None:
        start(controller)
        for watcher in controller.arbiter.watchers:
            watcher.env = {**(watcher.env or {}), SUPERVISOR: str(os.getpid())}
        watch = Watch(controller.arbiter, folder, hang_seconds)
        controller.sys_hdl.quit = watch.stop

        def look_and_go_on() -> None:
            # Not a PeriodicCallback: it goes by the wall clock, and rests for an hour that this is put back.
            controller.loop.call_later(LOOK_S, look_and_go_on)
            watch.look()

        look_and_go_on()

    Controller.start = start_and_watch


def refuse_connections(listening: socket.socket) -> None:
    """Answer every connection that waits at a socket with a 503, and close it."""
    for _ in range(MOST_REFUSED):
        if not select.select([listening], [], [], 0)[0]:
            return
        with contextlib.suppress(OSError):
            connection, _address = listening.accept()
            with connection:
                connection.setblocking(False)
                with contextlib.suppress(BlockingIOError):
                    connection.recv(2**16)  # closed with something unread, it would be reset before it is answered
                connection.send(REFUSAL)


def _is_dead(process: Any) -> bool:
    from circus.process import DEAD_OR_ZOMBIE, UNEXISTING

    return process.status in (DEAD_OR_ZOMBIE, UNEXISTING)


def _socket_names(arguments: Any) -> set[str]:
    """Return the names of the sockets that a process of circus is given by its arguments."""
    text = arguments if isinstance(arguments, str) else " ".join(map(str, arguments or ()))
    return set(re.findall(r"\$\(circus\.sockets\.([^)]+)\)", text))


def _forget_gauges(pid: int) -> None:
    """Delete what Prometheus would be told of the present of a process that is gone."""
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        from prometheus_client.multiprocess import mark_process_dead

        with contextlib.suppress(OSError):  # the folder is gone, or another process deletes the file
            mark_process_dead(pid)  # type: ignore[no-untyped-call]


class Watch:
    """Looks after the processes of one supervisor.

    Args:
        arbiter: circus's, which starts the processes.
        folder: as of `watch_processes`.
        hang_seconds: as of `watch_processes`.
    """

    def __init__(self, arbiter: Any, folder: Path, hang_seconds: float) -> None:
        self._arbiter, self._hang_seconds = arbiter, hang_seconds
        self._watchdog = Watchdog(folder, ceil(hang_seconds / LOOK_S))
        self._replaced_at = deque[float](maxlen=MOST_AT_ONCE)
        self._is_asked_to_stop = False
        self._left_to_circus = dict[int, int | None]()

    def stop(self) -> None:
        """End the processes at the next look, or once circus can; by itself it forgets a signal while it starts one."""
        self._is_asked_to_stop = True

    def look(self) -> None:
        """Look once."""
        from circus.exc import ConflictError

        if self._is_asked_to_stop and not self._arbiter._stopping:
            with contextlib.suppress(ConflictError):
                self._arbiter.stop()
        if self._arbiter._stopping:
            self._stop_listening()
        processes = [process for watcher in self._arbiter.iter_watchers() for process in watcher.processes.values()]
        # Where a machine is busy, some threads of a killed process end long after its first: it has no code yet.
        ended = [(process, process.poll()) for process in processes if _is_dead(process)]
        dead = [process for process, code in ended if code is not None]
        codes = {process.pid: code for process, code in ended if code is not None}
        for pid in codes:
            _forget_gauges(pid)
        if dead and self._may_replace_at_once():
            with contextlib.suppress(ConflictError):  # it is at work on the processes already
                self._arbiter.manage_watchers()
                self._replaced_at.append(time.monotonic())
                for pid, code in codes.items():
                    logger.error("process %d has died (exit code %s): replaced", pid, code)
        elif dead and not self._arbiter._stopping:
            if codes != self._left_to_circus:
                self._left_to_circus = codes
                logger.error(
                    "processes die again and again: the next one starts within ten seconds (exit codes %s)", codes
                )
            self._refuse_waiting()
        living = [process.pid for process in processes if not _is_dead(process)]
        for pid in self._watchdog.hung(living) if self._hang_seconds else ():
            logger.error("process %d hangs: replacing it (VITRINE_HANG_SECONDS=%g)", pid, self._hang_seconds)
            os.kill(pid, signal.SIGKILL)

    def _stop_listening(self) -> None:
        """Close the ports here too, so that who comes when the workers have closed them is refused and does not wait.

        Calls to the Grad-CAM process go through a Unix socket, which is needed until the last request is answered.
        """
        for listening in self._arbiter.sockets.values():
            if not listening.is_unix:
                listening.close()

    def _refuse_waiting(self) -> None:
        """Answer those who wait at a port that no process listens on, which would be until one can be started."""
        for name, listening in self._arbiter.sockets.items():
            users = [watcher for watcher in self._arbiter.iter_watchers() if name in _socket_names(watcher.args)]
            processes = [process for watcher in users for process in watcher.processes.values()]
            if not listening.is_unix and all(map(_is_dead, processes)):
                refuse_connections(listening)

    def _may_replace_at_once(self) -> bool:
        is_often = len(self._replaced_at) == MOST_AT_ONCE and time.monotonic() < self._replaced_at[0] + WITHIN_S
        return not is_often
