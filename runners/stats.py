"""What a Runner has done: its own counters, and the same to Prometheus."""

import threading
import time
from collections import Counter as Tally
from dataclasses import dataclass

from prometheus_client import Counter, Histogram

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


@dataclass(frozen=True)
class RunnerStats:
    """Since the start: items by outcome, batches, seconds in all; and what is waiting and running now.

    waited_seconds: in the backend, the whole time of its batch for each item. batches: executions and their seconds
    in the backend, by size. last_inference: `time.time()` of the latest; 0.0
    before the first.
    """

    succeeded: int
    failed: dict[str, int]
    executions: int
    mean_batch: float
    queue_seconds: float
    decode_seconds: float
    infer_seconds: float
    waited_seconds: float
    batches: dict[int, tuple[int, float]]
    last_inference: float
    waiting: int
    running: int


@dataclass(frozen=True)
class Metrics:
    """Vitrine's Prometheus metrics. Made at first use: BentoML sets the multi-process folder when a worker starts."""

    requests: Counter
    request: Histogram
    queue: Histogram
    decode: Histogram
    infer: Histogram
    batch: Histogram
    out_of_memory: Counter


_making = threading.Lock()
_made: list[Metrics] = []


def metrics() -> Metrics:
    """The one set of metrics of this process; whoever comes first makes it (`functools.cache` would let two)."""
    with _making:
        if not _made:
            _made.append(_make())
    return _made[0]


def _make() -> Metrics:
    def seconds(name: str, text: str) -> Histogram:
        return Histogram(f"vitrine_{name}_seconds", text, ["model"], buckets=_SECONDS)

    return Metrics(
        requests=Counter("vitrine_requests", "Requests by model and HTTP status.", ["model", "status"]),
        request=seconds("request", "Seconds from a request's first byte to its answer's last."),
        queue=seconds("queue", "Seconds an item waited for a lane."),
        decode=seconds("decode", "Seconds to decode and transform an item."),
        infer=seconds("infer", "Seconds of a batch in the backend."),
        batch=Histogram("vitrine_batch_size", "Items in a batch.", ["model"], buckets=_SIZES),
        out_of_memory=Counter(
            "vitrine_out_of_memory", "Batches that did not fit the device, and were halved.", ["model"]
        ),
    )


class StatsKeeper:
    """Counts for one Runner, from any of its lanes."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.Lock()
        self._failed: Tally[str] = Tally()
        self._succeeded = 0
        self._batches = dict[int, tuple[int, float]]()
        self._last = 0.0
        self._queue_s = self._decode_s = self._waited_s = 0.0

    def count(self, outcome: str) -> None:
        """One item that was not answered: `cancelled`, `rejected` or the name of its error."""
        with self._lock:
            self._failed[outcome] += 1

    def executed(self, size: int, seconds: float) -> None:
        """One batch went through the backend."""
        metrics().batch.labels(self._name).observe(size)
        metrics().infer.labels(self._name).observe(seconds)
        with self._lock:
            times, before = self._batches.get(size, (0, 0.0))
            self._batches[size] = (times + 1, before + seconds)
            self._last = time.time()

    def answered(self, queue_s: float, decode_s: float, waited_s: float) -> None:
        """One item got its result."""
        metrics().queue.labels(self._name).observe(queue_s)
        metrics().decode.labels(self._name).observe(decode_s)
        with self._lock:
            self._succeeded += 1
            self._queue_s += queue_s
            self._decode_s += decode_s
            self._waited_s += waited_s

    def seconds_an_item(self) -> float:
        """Mean seconds of decode and inference an item; 0 before the first."""
        with self._lock:
            _, computed, infer_s = self._sums()
            return (self._decode_s + infer_s) / computed if computed else 0.0

    def snapshot(self, waiting: int, running: int) -> RunnerStats:
        """The counters as they stand."""
        with self._lock:
            executions, computed, infer_s = self._sums()
            return RunnerStats(
                succeeded=self._succeeded,
                failed=dict(self._failed),
                executions=executions,
                mean_batch=computed / executions if executions else 0.0,
                queue_seconds=round(self._queue_s, 6),
                decode_seconds=round(self._decode_s, 6),
                infer_seconds=round(infer_s, 6),
                waited_seconds=round(self._waited_s, 6),
                batches={size: (times, round(seconds, 6)) for size, (times, seconds) in sorted(self._batches.items())},
                last_inference=self._last,
                waiting=waiting,
                running=running,
            )

    def _sums(self) -> tuple[int, int, float]:
        """Executions, items in them, their seconds."""
        each = self._batches.items()
        return (
            sum(times for _, (times, _) in each),
            sum(size * times for size, (times, _) in each),
            sum(seconds for _, (_, seconds) in each),
        )
