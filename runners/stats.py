"""The counters of a Runner, kept for its own statistics and reported to Prometheus."""

import threading
import time
from bisect import bisect_left
from collections import Counter as Tally
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple

from prometheus_client import Counter, Gauge, Histogram

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


@dataclass
class RunnerStats:
    """Counts and sums since the start, and what is waiting and running now.

    Attributes:
        succeeded: items that got their result.
        failed: items that did not, by outcome.
        executions: batches that went through the backend.
        inferences: pictures or rows that were computed.
        mean_batch: inferences an execution.
        queue_seconds: the time that items waited for a lane.
        decode_seconds: the time that items took to preprocess.
        infer_seconds: the time that batches took in the backend.
        waited_seconds: the time that items spent in the backend, each the whole time of its batch.
        batches: the number of executions and their seconds, by batch size; above 64 by the next power of two.
        last_inference: `time.time()` of the latest batch; 0.0 before the first.
        waiting: items in the queue now.
        running: items in a lane now.
        evaluations: pictures or rows that were computed for explanations; they count nowhere above but in `waiting`
            and `running`.
        evaluation_seconds: the time that lanes worked on them.
        expected_seconds: how long an item that came now would wait for a lane; of several processes the longest.
        item_seconds: how long a lane takes for an item of usual size, as measured; of several processes the longest.
    """

    succeeded: int = 0
    failed: dict[str, int] = field(default_factory=dict)
    executions: int = 0
    inferences: int = 0
    mean_batch: float = 0.0
    queue_seconds: float = 0.0
    decode_seconds: float = 0.0
    infer_seconds: float = 0.0
    waited_seconds: float = 0.0
    batches: dict[int, tuple[int, float]] = field(default_factory=dict)
    last_inference: float = 0.0
    waiting: int = 0
    running: int = 0
    evaluations: int = 0
    evaluation_seconds: float = 0.0
    expected_seconds: float = 0.0
    item_seconds: float = 0.0


@dataclass(frozen=True)
class Metrics:
    """Vitrine's Prometheus metrics, made at first use because BentoML sets their folder only when a worker starts."""

    requests: Counter
    request: Histogram
    queue: Histogram
    decode: Histogram
    infer: Histogram
    batch: Histogram
    evaluations: Counter
    evaluation_seconds: Counter
    expected: Gauge
    out_of_memory: Counter
    cache: Counter
    early_exit: Counter
    limits: Counter


_making = threading.Lock()
_made: list[Metrics] = []


def metrics() -> Metrics:
    """Return the one set of metrics of this process; the lock keeps two threads from making it twice."""
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
        evaluations=Counter("vitrine_evaluations", "Pictures or rows computed for explanations.", ["model"]),
        evaluation_seconds=Counter("vitrine_evaluation_seconds", "Seconds that lanes worked on those.", ["model"]),
        expected=Gauge(
            "vitrine_expected_wait_seconds",
            "Seconds that an item which came now would wait for its turn; the longest of all workers.",
            ["model"],
            multiprocess_mode="livemax",
        ),
        cache=Counter(
            "vitrine_cache_requests", "Pictures looked up in the response cache, by outcome.", ["model", "outcome"]
        ),
        early_exit=Counter(
            "vitrine_early_exit", "Pictures of a model with an early exit, by who answered.", ["model", "by"]
        ),
        limits=Counter("vitrine_limits_reached", "Times that clients reached a limit of the server.", ["limit"]),
        out_of_memory=Counter(
            "vitrine_out_of_memory", "Batches that did not fit the device, and were halved.", ["model"]
        ),
    )


def observe_all(histogram: Histogram, amounts: Sequence[float]) -> None:
    """Observe several amounts at once: a histogram of several processes writes to a file, three times an amount."""
    histogram._sum.inc(sum(amounts))
    for place, times in Tally(bisect_left(histogram._upper_bounds, amount) for amount in amounts).items():
        histogram._buckets[place].inc(times)


class _Observed(NamedTuple):
    """The metrics of one Runner, kept because looking them up takes as long as observing."""

    queue: Histogram
    decode: Histogram
    infer: Histogram
    batch: Histogram


class StatsKeeper:
    """Counts what the lanes of one Runner do, but nothing while it is `muted`.

    Args:
        name: the Runner's.
        of_evaluations: whether it counts what explanations ask for, which has metrics of its own.
    """

    def __init__(self, name: str, *, of_evaluations: bool = False) -> None:
        self._name, self._of_evaluations, self.muted = name, of_evaluations, False
        self._lock = threading.Lock()
        self._stats = RunnerStats(failed=Tally[str]())

    @cached_property
    def _observed(self) -> _Observed:
        every = metrics()
        histograms = (every.queue, every.decode, every.infer, every.batch)
        return _Observed(*(histogram.labels(self._name) for histogram in histograms))

    def count(self, outcome: str, times: int = 1) -> None:
        """Count items that got no result, as `cancelled`, `rejected` or by the name of their error."""
        if self.muted:
            return
        with self._lock:
            self._stats.failed[outcome] += times

    def executed(self, size: int, seconds: float) -> None:
        """Count one batch of `size` inferences that went through the backend."""
        if self.muted:
            return
        if self._of_evaluations:
            metrics().evaluations.labels(self._name).inc(size)
            metrics().evaluation_seconds.labels(self._name).inc(seconds)
        else:
            self._observed.batch.observe(size)
            self._observed.infer.observe(seconds)
        key, stats = size if size <= 64 else 1 << (size - 1).bit_length(), self._stats
        with self._lock:
            times, before = stats.batches.get(key, (0, 0.0))
            stats.batches[key] = (times + 1, before + seconds)
            stats.executions += 1
            stats.inferences += size
            stats.infer_seconds += seconds
            stats.last_inference = time.time()

    def answered(self, queue_s: float, decode_s: float, waited_s: float) -> None:
        """Count one item that got its result."""
        if self.muted:
            return
        if self._of_evaluations:
            metrics().evaluation_seconds.labels(self._name).inc(decode_s)
        else:
            self._observed.queue.observe(queue_s)
            self._observed.decode.observe(decode_s)
        with self._lock:
            self._stats.succeeded += 1
            self._stats.queue_seconds += queue_s
            self._stats.decode_seconds += decode_s
            self._stats.waited_seconds += waited_s

    def answered_together(self, queue_s: Sequence[float], decode_s: Sequence[float], waited_s: float) -> None:
        """Count the items of one batch that got their results, each of which spent `waited_s` in the backend."""
        if self.muted or not queue_s:
            return
        observe_all(self._observed.queue, queue_s)
        observe_all(self._observed.decode, decode_s)
        with self._lock:
            self._stats.succeeded += len(queue_s)
            self._stats.queue_seconds += sum(queue_s)
            self._stats.decode_seconds += sum(decode_s)
            self._stats.waited_seconds += waited_s * len(queue_s)

    def snapshot(
        self,
        waiting: int,
        running: int,
        expected_s: float,
        evaluations: "StatsKeeper | None" = None,
        item_s: float = 0.0,
    ) -> RunnerStats:
        """Return the counters as they stand, with what is waiting and running now, and the wait that follows.

        Args:
            waiting: items in the queue.
            running: items in a lane.
            expected_s: how long an item that came now would wait.
            evaluations: counts what explanations ask for.
            item_s: how long a lane takes for an item.
        """
        with self._lock:
            counted = add_stats([self._stats])
        computed, seconds = evaluations.computed() if evaluations else (0, 0.0)
        counted = replace(counted, evaluations=computed, evaluation_seconds=round(seconds, 6))
        counted = replace(counted, expected_seconds=round(expected_s, 6), item_seconds=float(f"{item_s:.4g}"))
        return replace(counted, waiting=waiting, running=running)

    def computed(self) -> tuple[int, float]:
        """Return how many pictures or rows were computed, and the seconds that lanes worked on them."""
        with self._lock:
            return self._stats.inferences, self._stats.decode_seconds + self._stats.infer_seconds


def add_stats(parts: Sequence[RunnerStats]) -> RunnerStats:
    """Return the sum of the counts of several processes; seconds are rounded to microseconds."""
    failed, batches = Tally[str](), dict[int, tuple[int, float]]()
    for part in parts:
        failed.update(part.failed)
        for size, (times, seconds) in part.batches.items():
            before = batches.get(size, (0, 0.0))
            batches[size] = (before[0] + times, round(before[1] + seconds, 6))
    sums: dict[str, Any] = {
        name: sum(getattr(part, name) for part in parts)
        for name in ("succeeded", "executions", "inferences", "waiting", "running", "evaluations")
    }
    sums |= {
        name: round(sum(getattr(part, name) for part in parts), 6)
        for name in ("queue_seconds", "decode_seconds", "infer_seconds", "waited_seconds", "evaluation_seconds")
    }
    return RunnerStats(
        **sums,
        failed=dict(failed),
        mean_batch=sums["inferences"] / sums["executions"] if sums["executions"] else 0.0,
        batches=dict(sorted(batches.items())),
        last_inference=max(part.last_inference for part in parts),
        expected_seconds=max(part.expected_seconds for part in parts),
        item_seconds=max(part.item_seconds for part in parts),
    )


def stats_from_json(fields: dict[str, Any]) -> RunnerStats:
    """Return the counts that another process sent as JSON, whose keys are texts."""
    batches = {int(size): (times, seconds) for size, (times, seconds) in fields["batches"].items()}
    return RunnerStats(**fields | {"batches": batches})
