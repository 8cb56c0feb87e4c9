"""The end of a process: it refuses new work, finishes what is in flight, and does not outlive its deadline."""

import logging
import os
import signal
import sys
import threading
from types import FrameType

from serving.repository import ModelRepository

logger = logging.getLogger("vitrine")


def end_within(seconds: float, repository: ModelRepository) -> None:
    """From the first SIGTERM or SIGINT on, refuse new work, and end the process after `seconds` whatever is stuck.

    The server waits for requests in flight without a limit, and its supervisor waits for the server.
    """
    if threading.current_thread() is not threading.main_thread():
        return

    def watch(number: signal.Signals) -> None:
        earlier_handler = signal.getsignal(number)

        def drain(received: int, frame: FrameType | None) -> None:
            if not repository.closing:
                repository.drain()
                timer = threading.Timer(seconds, _end, [seconds])
                timer.daemon = True
                timer.start()
            if callable(earlier_handler):
                earlier_handler(received, frame)

        signal.signal(number, drain)

    watch(signal.SIGTERM)
    watch(signal.SIGINT)


def _end(seconds: float) -> None:
    logger.error("Not drained after %g s: ending with requests unanswered.", seconds)
    sys.stdout.flush()
    os._exit(1)
