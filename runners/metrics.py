"""What Prometheus reads: counted in plain numbers of this process, and written to the files of all now and then.

A metric of several processes writes to a file, which takes ten times what counting here does. So requests only count,
and `write_all` writes what has been counted since: at every heartbeat of a process, before an answer of `/metrics`, and
at its end. A process that is killed takes the counts since its last heartbeat with it.
"""

import threading
import weakref
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from prometheus_client import Counter, Histogram

OTEL_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
"""The buckets that OpenTelemetry's semantic conventions advise for `http.server.request.duration`."""
REQUEST_SECONDS = (0.001, 0.0025, *OTEL_SECONDS, 30.0)
STAGE_SECONDS = (
    0.0001,
    0.00025,
    0.0005,
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
    30.0,
)
EXPLAIN_SECONDS = STAGE_SECONDS[3:]
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
PIXELS = tuple(4**power for power in range(5, 14))
"""From 32 × 32 to 8,192 × 8,192, the side doubling."""

MODEL = ("model", "version")
RUNNER = (*MODEL, "runner")
"""The labels of a Runner's series; `runner` is `predict`, or `explain` in the Grad-CAM process."""


@dataclass(frozen=True)
class Metrics:
    """Vitrine's Prometheus metrics, made at first use because BentoML sets their folder only when a worker starts."""

    request: Histogram
    queue: Histogram
    decode: Histogram
    infer: Histogram
    batch: Histogram
    pixels: Histogram
    waited: Counter
    failures: Counter
    explain: Histogram
    predictions: Counter
    confidence: Counter
    evaluations: Counter
    evaluation_seconds: Counter
    out_of_memory: Counter
    cache: Counter
    early_exit: Counter
    limits: Counter
    quota_refusals: Counter
    without_redis: Counter
    redis_failures: Counter
    shared_answers: Counter


_making = threading.Lock()
_made: list[Metrics] = []


def metrics() -> Metrics:
    """Return the one set of metrics of this process; the lock keeps two threads from making it twice."""
    with _making:
        if not _made:
            _made.append(_make())
    return _made[0]


def _make() -> Metrics:
    def stage(name: str, text: str) -> Histogram:
        return Histogram(f"vitrine_{name}_seconds", text, RUNNER, buckets=STAGE_SECONDS)

    return Metrics(
        request=Histogram(
            "vitrine_request_seconds",
            "Seconds from a request's first byte to its answer's last.",
            (*MODEL, "route", "status", "method", "protocol"),
            buckets=REQUEST_SECONDS,
        ),
        queue=stage("queue", "Seconds an item waited for a lane."),
        decode=stage("decode", "Seconds to decode and transform an item."),
        infer=stage("infer", "Seconds of a batch in the backend."),
        batch=Histogram("vitrine_batch_size", "Pictures or rows in a batch.", RUNNER, buckets=SIZES),
        pixels=Histogram("vitrine_image_pixels", "Pixels of a picture as it came.", RUNNER, buckets=PIXELS),
        waited=Counter("vitrine_waited_seconds", "Seconds items spent in the backend, each that of its batch.", RUNNER),
        failures=Counter("vitrine_failures", "Items that got no result, by reason.", (*RUNNER, "reason")),
        explain=Histogram(
            "vitrine_explain_seconds",
            "Seconds to explain a picture, or the rows of a request, its prediction included.",
            (*MODEL, "method"),
            buckets=EXPLAIN_SECONDS,
        ),
        predictions=Counter("vitrine_predictions", "Pictures or rows answered, by label.", (*MODEL, "label")),
        confidence=Counter("vitrine_prediction_confidence", "Sum of their confidences, by label.", (*MODEL, "label")),
        evaluations=Counter("vitrine_evaluations", "Pictures or rows computed for explanations.", MODEL),
        evaluation_seconds=Counter("vitrine_evaluation_seconds", "Seconds that lanes worked on those.", MODEL),
        cache=Counter(
            "vitrine_cache_requests", "Pictures looked up in the response cache, by outcome.", (*MODEL, "outcome")
        ),
        early_exit=Counter(
            "vitrine_early_exit", "Pictures of a model with an early exit, by who answered.", (*MODEL, "by")
        ),
        limits=Counter("vitrine_limits_reached", "Times that clients reached a limit of the server.", ["limit"]),
        quota_refusals=Counter("vitrine_quota_refusals", "Requests refused by a quota of their key.", ["key", "quota"]),
        without_redis=Counter(
            "vitrine_quota_without_redis",
            "Times that a quota was to be counted while Redis did not answer.",
            ["decision"],
        ),
        redis_failures=Counter(
            "vitrine_redis_failures", "Times that Redis failed or was late, and was left alone.", ["reason"]
        ),
        shared_answers=Counter("vitrine_cache_shared", "Answers looked up in Redis, by outcome.", ["outcome"]),
        out_of_memory=Counter("vitrine_out_of_memory", "Batches that did not fit the device, and were halved.", MODEL),
    )


class Source(Protocol):
    """Something that counts."""

    def write(self) -> None:
        """Write what has been counted since the last time to the metrics."""


_sources, _listing = weakref.WeakSet[Source](), threading.Lock()


def written_regularly(source: Source) -> None:
    """Have a source written by `write_all` for as long as it lives; before it goes, it writes itself."""
    with _listing:
        _sources.add(source)


def write_all() -> None:
    """Write what every source of this process has counted."""
    with _listing:
        sources = list(_sources)
    for source in sources:
        source.write()


class Amount:
    """One series of a counter, of which the whole amount is known here.

    Args:
        name: the metric's attribute of `Metrics`.
        labels: the values of its labels.
    """

    def __init__(self, name: str, *labels: str) -> None:
        self._name, self._labels, self._written = name, labels, 0.0
        self._series: Counter | None = None

    def write(self, amount: float) -> None:
        """Write how much it is by now."""
        if amount != self._written:
            if self._series is None:
                self._series = getattr(metrics(), self._name).labels(*self._labels)
            self._series.inc(amount - self._written)
            self._written = amount


class Distribution:
    """One series of a histogram: how many amounts there were in all and of each size, and their sum.

    It is for one thread at a time.

    Args:
        bounds: the upper bounds of the buckets, in order.
        name: the metric's attribute of `Metrics`.
        labels: the values of its labels.
    """

    __slots__ = ("_bounds", "_labels", "_name", "_series", "_written", "counts", "sum")

    def __init__(self, bounds: Sequence[float], name: str, *labels: str) -> None:
        self._bounds, self._name, self._labels = bounds, name, labels
        self._series: Histogram | None = None
        self.counts, self.sum = [0] * (len(bounds) + 1), 0.0
        self._written = [*self.counts], 0.0

    @property
    def count(self) -> int:
        """How many amounts there were."""
        return sum(self.counts)

    def add(self, amount: float) -> None:
        """Count one amount."""
        self.counts[bisect_left(self._bounds, amount)] += 1
        self.sum += amount

    def write(self) -> None:
        """Write what was added since the last time."""
        counts, total = self._written
        if self.counts == counts:
            return
        if self._series is None:
            self._series = getattr(metrics(), self._name).labels(*self._labels)
        self._series._sum.inc(self.sum - total)
        for bucket, count, written in zip(self._series._buckets, self.counts, counts, strict=True):
            if count != written:
                bucket.inc(count - written)
        self._written = [*self.counts], self.sum
