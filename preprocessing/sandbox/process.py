"""The decoding process as its parent sees it: always one ready, one picture at a time, killed at the deadline."""

import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path

from errors import DeadlineExceeded, InvalidImage, TooLarge, Unavailable, VitrineError
from preprocessing.prepare import Keep, PreparedPicture
from preprocessing.sandbox.wire import Garbled, receive_answer, send_request
from preprocessing.spec import ImageInput, ImageLimits

logger = logging.getLogger("vitrine.decode")

CPU_SECONDS, DEADLINE_S = 4, 12.0
"""What one picture may take: of processor time, and in all, since other work may share the cores."""
START_S = 60.0
"""How long the process may take to start, in seconds."""
CODE_FOLDER = Path(__file__).resolve().parents[2]
_KEPT_VARIABLES = ("PATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "PYTHONHOME")


class DecodingProcess:
    """Prepares slow pictures in a process of its own, which `start` or the first of them starts.

    A picture that is not ready in time costs its process, and nobody else anything: the next one is started at once.

    Args:
        cpu_seconds: the processor time that one picture may take.
        deadline_s: the time that one picture may take in all, in seconds.
    """

    def __init__(self, cpu_seconds: int = CPU_SECONDS, deadline_s: float = DEADLINE_S) -> None:
        self._cpu_seconds, self._deadline_s = cpu_seconds, deadline_s
        self._turn, self._lifecycle = threading.Lock(), threading.Lock()
        self._child: _Child | None = None
        self._closed = False

    def start(self) -> None:
        """Start the process, which takes its first picture a second or so later; returns at once."""
        with self._lifecycle, contextlib.suppress(OSError):  # the first picture tries again, and says what is wrong
            if self._child is None and not self._closed:
                self._child = self._started()

    @property
    def pid(self) -> int | None:
        """The id of the process that is ready or at work; None before the first slow picture, and once closed."""
        child = self._child
        return child.process.pid if child is not None else None

    def prepare(self, data: bytes, limits: ImageLimits, spec: ImageInput, keep: Keep = "nothing") -> PreparedPicture:
        """Decode and transform one picture there; pictures wait for each other.

        Raises:
            DeadlineExceeded: it was not ready in time, because the machine is busy.
            InvalidImage: as `decode`; or the decoder crashed on it.
            TooLarge: as `decode`; or it took more processor time than a picture may.
            Unavailable: the process cannot be started, is closed, or was ended by somebody else.
        """
        with self._turn:
            child = self._start_if_none()
            try:
                with child.killed_after(self._deadline_s):
                    send_request(child.connection, data, limits, spec, keep)
                    return receive_answer(child.connection, limits, spec, keep)
            except (EOFError, OSError, Garbled) as error:
                refusal = self._refusal(child)
                logger.warning("a picture of %d bytes was given up with its process: %s", len(data), refusal)
                self._replace(child)
                raise refusal from error

    def close(self) -> None:
        """Kill the process; pictures are refused from now on."""
        with self._lifecycle:
            self._closed = True
            if self._child is not None:
                self._child.kill()
                self._child = None

    def _start_if_none(self) -> "_Child":
        with self._lifecycle:
            if self._closed:
                raise Unavailable("The server is shutting down. Send the picture to another, or later.")
            if self._child is not None and self._child.process.poll() is not None:
                self._child.kill()  # it has ended while it was idle; this closes what is left
                self._child = None
            try:
                child = self._child = self._child or self._started()
            except OSError as error:
                raise _cannot_start() from error
        try:
            child.wait_ready(START_S)
        except (EOFError, OSError) as error:
            self._replace(child)
            raise _cannot_start() from error
        return child

    def _replace(self, child: "_Child") -> None:
        """End a process, and start the next one without waiting for it."""
        child.kill()
        with self._lifecycle:
            self._child = None
            if not self._closed:
                with contextlib.suppress(OSError):
                    self._child = self._started()

    def _started(self) -> "_Child":
        """Return a new process, which is watched where Python can."""
        child = _Child(self._cpu_seconds)
        if hasattr(os, "waitid"):  # not on macOS before Python 3.13: there the next picture replaces it
            threading.Thread(target=self._replace_once_ended, args=(child,), name="decoder-watch", daemon=True).start()
        return child

    def _replace_once_ended(self, child: "_Child") -> None:
        """Wait for the end of a process; start the next one at once if it was ready and had no picture."""
        with contextlib.suppress(ChildProcessError):  # whoever ended it has seen its end already
            os.waitid(os.P_PID, child.process.pid, os.WEXITED | os.WNOWAIT)
        with self._turn:
            if self._child is child and not self._closed:
                with contextlib.suppress(EOFError, OSError):
                    child.wait_ready(0)  # one that cannot even start would be started again and again
                    logger.warning("the decoding process ended while it was idle, exit code %s", child.kill())
                    self._replace(child)

    def _refusal(self, child: "_Child") -> VitrineError:
        """Return the error of the picture on which a process ended, or was killed."""
        code = child.kill()
        advice = "Send a smaller one, or save it as a plain (not progressive) JPEG."
        if code == -signal.SIGXCPU:
            return TooLarge(f"The picture takes more than {self._cpu_seconds} s of processor time to decode. {advice}")
        if child.is_late:
            return DeadlineExceeded(f"The picture could not be decoded within {self._deadline_s:g} s. {advice}")
        if self._closed:
            return Unavailable("The server was shut down before it got to this. Send it again.")
        if code in (-signal.SIGKILL, -signal.SIGTERM) and not child.is_killed:  # by the system, when memory runs out
            return Unavailable("The process that decodes slow pictures was ended from outside. Retry later.", 5)
        return InvalidImage(f"The picture made its decoder fail (exit code {code}). Save it again and send that.")


class _Child:
    """One decoding process and the connection to it."""

    def __init__(self, cpu_seconds: int) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "preprocessing.sandbox.child", str(theirs.fileno()), str(cpu_seconds)],
                stdin=subprocess.PIPE,  # closes when this process ends, however it does
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                cwd=CODE_FOLDER,
                env=_environment(),
            )
        self.connection = Connection(ours.detach())
        self.is_late, self.is_killed, self._is_ready = False, False, False

    def wait_ready(self, timeout_s: float) -> None:
        """Return once it takes pictures; EOFError or OSError if it ends before, or takes too long."""
        if not self._is_ready:
            if not self.connection.poll(timeout_s):
                raise TimeoutError
            self.connection.recv_bytes(5)
            self._is_ready = True

    @contextlib.contextmanager
    def killed_after(self, seconds: float) -> Iterator[None]:
        """Kill the process unless the block ends in time."""

        def kill() -> None:
            self.is_late = True
            self.process.kill()

        timer = threading.Timer(seconds, kill)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def kill(self) -> int:
        """End the process if it has not ended, and return its exit code; a negative one is a signal."""
        try:
            code = self.process.wait(0.2)  # it may be about to end for a reason of its own
        except subprocess.TimeoutExpired:
            self.is_killed = True
            self.process.kill()
            code = self.process.wait()
        if self.process.stdin is not None:
            self.process.stdin.close()
        self.connection.close()
        return code


def _cannot_start() -> Unavailable:
    return Unavailable("The process that decodes slow pictures cannot be started. Retry later.", 5)


def _environment() -> dict[str, str]:
    """Return the environment of the process: nothing that hostile bytes should ever see."""
    kept = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
    # Fixed thresholds give the memory of a large picture back to the system as soon as it is freed.
    return kept | {
        "PYTHONPATH": str(CODE_FOLDER),
        "MALLOC_TRIM_THRESHOLD_": "1048576",
        "MALLOC_MMAP_THRESHOLD_": "1048576",
    }
