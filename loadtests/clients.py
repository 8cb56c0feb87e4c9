"""Clients of the benchmarks: threads, each of which sends its next request when the last is answered."""

import http.client
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import cycle
from multiprocessing import get_context
from typing import NamedTuple

Call = Callable[[], object]
"""Makes one request, or whatever is measured, and returns when it is done."""


class Calls(NamedTuple):
    """The seconds that each call took, and those from the first start to the last end."""

    latencies_s: list[float]
    took_s: float

    @property
    def rate(self) -> float:
        """Calls a second."""
        return len(self.latencies_s) / self.took_s

    @property
    def p50_ms(self) -> float:
        """The median of the latencies."""
        return statistics.median(self.latencies_s) * 1e3


def call_in_threads(new_call: Callable[[int], Call], threads: int, seconds: float) -> Calls:
    """Call as fast as it goes from several threads.

    Args:
        new_call: makes the call of a thread, in that thread, from its index.
        threads: how many threads.
        seconds: no call begins later than this after the start.

    Raises:
        RuntimeError: a call failed.
    """
    latencies_s: list[list[float]] = [[] for _ in range(threads)]
    errors: list[Exception] = []
    began = time.perf_counter()
    stop = began + seconds

    def loop(index: int) -> None:
        try:
            call = new_call(index)
            while (started := time.perf_counter()) < stop:
                call()
                latencies_s[index].append(time.perf_counter() - started)
        except Exception as error:
            errors.append(error)

    pool = [threading.Thread(target=loop, args=(index,)) for index in range(threads)]
    for thread in pool:
        thread.start()
    for thread in pool:
        thread.join()
    if errors:
        raise RuntimeError(f"one of {threads} clients: {errors[0]}") from errors[0]
    return Calls([latency for own in latencies_s for latency in own], time.perf_counter() - began)


def call_in_processes(new_call: Callable[[int], Call], clients: int, seconds: float, processes: int = 1) -> Calls:
    """Call as `call_in_threads` does, from threads of so many processes beside this one."""
    processes = min(processes, clients)
    shares = [clients // processes + (index < clients % processes) for index in range(processes)]
    with get_context("spawn").Pool(processes) as pool:
        calls = pool.starmap(call_in_threads, [(new_call, share, seconds) for share in shares], chunksize=1)
    return Calls([latency for own in calls for latency in own.latencies_s], max(own.took_s for own in calls))


class HttpClient:
    """One keep-alive connection to a server on this machine."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)

    def post(self, path: str, body: bytes, headers: Mapping[str, str]) -> bytes:
        """Return the body of the answer to a POST request.

        Raises:
            RuntimeError: the status is not 200.
        """
        self._connection.request("POST", path, body, dict(headers))
        response = self._connection.getresponse()
        answer = response.read()
        if response.status != 200:
            raise RuntimeError(f"{response.status}: {answer[:200]!r}")
        return answer


def from_place(images: Sequence[bytes], place: int) -> Iterator[bytes]:
    """Return the images one after the other without an end, from a place on: the index of a client, say."""
    start = place % len(images)
    return cycle([*images[start:], *images[:start]])


def new_image_call(port: int, images: Sequence[bytes], path: str, index: int) -> Call:
    """Return the call of one client, which posts one JPEG after the other on a connection of its own."""
    client, own = HttpClient(port), from_place(images, index)
    return lambda: client.post(path, next(own), {"Content-Type": "image/jpeg"})


def served_rate(port: int, images: Sequence[bytes], clients: int, seconds: float, path: str = "/predict") -> float:
    """Return the images a second that the server answers to so many clients, which are a process of their own."""
    return call_in_processes(partial(new_image_call, port, images, path), clients, seconds).rate
