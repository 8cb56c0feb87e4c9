"""The other client: asks for health and sends ordinary pictures all the while, and notes how long answers take."""

import http.client
import threading
import time
from multiprocessing import get_context
from multiprocessing.synchronize import Event
from typing import Any, NamedTuple

HEALTH_EVERY_S, PREDICT_EVERY_S = 0.02, 0.1
HEALTH_LIMIT_MS, PREDICT_LIMIT_MS = 100.0, 1500.0
TIMEOUT_S = 30.0


class Latencies(NamedTuple):
    """What the other client saw: milliseconds of every answer, and what went wrong."""

    health_ms: list[float]
    predict_ms: list[float]
    failures: list[str]

    def problems(self, health_limit_ms: float = HEALTH_LIMIT_MS) -> list[str]:
        """Return which limits were not kept, one sentence each."""
        limits = ("/health", self.health_ms, health_limit_ms), ("predictions", self.predict_ms, PREDICT_LIMIT_MS)
        late = [
            f"{sum(value > limit for value in values)} of {len(values)} {name} took more than {limit:g} ms"
            for name, values, limit in limits
            if any(value > limit for value in values)
        ]
        return late + [f"the other client: {failure}" for failure in self.failures[:5]]

    def summary(self) -> str:
        """Return both latencies in one line: how many, their median, their 99th percentile and their maximum."""
        return "; ".join(
            f"{name} {len(values)}: {_at(values, 0.5):.0f} / {_at(values, 0.99):.0f} / {_at(values, 1):.0f} ms"
            for name, values in (("/health", self.health_ms), ("predictions", self.predict_ms))
        )


class Bystander:
    """Runs the other client in a process of its own while the block lasts; `latencies` is there afterwards.

    Args:
        port: the server's.
        body: an ordinary picture.
    """

    def __init__(self, port: int, body: bytes) -> None:
        context = get_context("spawn")
        self._stop, self._results = context.Event(), context.Queue()
        self._process = context.Process(target=_run, args=(port, body, self._stop, self._results), daemon=True)
        self.latencies = Latencies([], [], [])

    def __enter__(self) -> "Bystander":
        self._process.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        self.latencies = Latencies(*self._results.get(timeout=2 * TIMEOUT_S))
        self._process.join()


def _run(port: int, body: bytes, stop: Event, results: Any) -> None:
    seen = Latencies([], [], [])
    health = threading.Thread(
        target=_ask, args=(port, "GET", "/health", b"", HEALTH_EVERY_S, stop, seen.health_ms, seen.failures)
    )
    health.start()
    _ask(port, "POST", "/predict", body, PREDICT_EVERY_S, stop, seen.predict_ms, seen.failures)
    health.join()
    results.put(tuple(seen))


def _ask(
    port: int, method: str, path: str, body: bytes, every_s: float, stop: Event, took_ms: list[float], failed: list[str]
) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
    while not stop.wait(every_s):
        started = time.perf_counter()
        try:
            connection.request(method, path, body or None)
            response = connection.getresponse()
            response.read()
            took_ms.append((time.perf_counter() - started) * 1e3)
            if response.status != 200:
                failed.append(f"{path} answered {response.status}")
        except (OSError, http.client.HTTPException) as error:
            failed.append(f"{path}: {error!r}")
            connection.close()


def _at(values: list[float], share: float) -> float:
    ordered = sorted(values) or [float("nan")]
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
