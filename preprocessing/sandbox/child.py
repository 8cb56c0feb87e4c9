"""The inside of the decoding process: one picture after the other, each within its own limits of time and memory."""

import contextlib
import os
import resource
import signal
import sys
import threading
from multiprocessing.connection import Connection

import cv2

from errors import InvalidInput, TooLarge
from preprocessing.decode import check_structure, lacks_memory
from preprocessing.prepare import PreparedPicture, prepare
from preprocessing.sandbox.wire import receive_request, send_answer

BYTES_A_PIXEL = 10
"""The memory that decoding may take beside the file; the greediest ordinary picture, a progressive JPEG, takes nine."""
SPARE_BYTES = 96 * 2**20
"""What decoders, buffers and the transform may take beside that, whatever the picture's size."""


def main() -> None:
    """Answer pictures until the process that started this one is gone."""
    _, descriptor, cpu_seconds = sys.argv
    connection = Connection(int(descriptor))
    for stop in (signal.SIGINT, signal.SIGTERM):  # they may reach all processes; the server drains first
        signal.signal(stop, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    cv2.setNumThreads(1)
    with contextlib.suppress(OSError):
        os.nice(5)
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write("1000")  # where memory runs out, this process goes first
    connection.send_bytes(b"ready")
    with contextlib.suppress(EOFError, ConnectionError):
        while True:
            _answer(connection, int(cpu_seconds))


def _answer(connection: Connection, cpu_seconds: int) -> None:
    data, limits, spec, keep = receive_request(connection)
    answer: PreparedPicture | InvalidInput
    try:
        structure = check_structure(data, limits)
        more_bytes = BYTES_A_PIXEL * structure.width * structure.height + 3 * len(data) + SPARE_BYTES
        limit_resources(cpu_seconds, more_bytes)
        answer = prepare(data, limits, spec, keep)
    except InvalidInput as error:
        answer = error.with_traceback(None)
    except (MemoryError, cv2.error) as error:
        if not lacks_memory(error):
            raise
        answer = TooLarge(
            f"The picture takes more than {more_bytes // 2**20:,} MiB of memory to prepare. "
            "Send a smaller one, or save it as a plain (not progressive) JPEG."
        )
    send_answer(connection, answer)


def limit_resources(cpu_seconds: int, more_bytes: int) -> None:
    """Let this process use so many more seconds of processor time, and so many more bytes, than it has used yet."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    _, most = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (int(used.ru_utime + used.ru_stime) + 1 + cpu_seconds, most))
    with contextlib.suppress(OSError, ValueError):  # without /proc, only the deadline limits
        with open("/proc/self/statm") as file:
            mapped = int(file.read().split()[0]) * resource.getpagesize()
        _, most = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (mapped + more_bytes, most))


def _end_with_parent() -> None:
    """End at once when the other end of the standard input closes, which is when the parent ends, however it does."""
    os.read(sys.stdin.fileno(), 1)
    os._exit(0)


if __name__ == "__main__":
    main()
