"""The counters of a Runner, kept for its own statistics and reported to Prometheus."""

import threading
import time
from collections import Counter as Tally
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from runners.metrics import PIXELS, SIZES, STAGE_SECONDS, Amount, Distribution, written_regularly

PREDICT, EXPLAIN = "predict", "explain"
"""What the Runners of the two processes do."""


class Series(NamedTuple):
    """The labels of one Runner's metrics.

    Attributes:
        model: the model's name.
        version: the model's; empty for a Runner of no stored model.
        runner: `predict` or `explain`.
    """

    model: str
    version: str = ""
    runner: str = PREDICT


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


class StatsKeeper:
    """Counts what the lanes of one Runner do, but nothing while it is `muted`.

    Args:
        series: the labels of its metrics.
        of_evaluations: whether it counts what explanations ask for, which has metrics of its own.
    """

    def __init__(self, series: Series, *, of_evaluations: bool = False) -> None:
        self._labels, self._of_evaluations, self.muted = series, of_evaluations, False
        self._lock, labels = threading.Lock(), series
        self._queue = Distribution(STAGE_SECONDS, "queue", *labels)
        self._decode = Distribution(STAGE_SECONDS, "decode", *labels)
        self._infer = Distribution(STAGE_SECONDS, "infer", *labels)
        self._batch = Distribution(SIZES, "batch", *labels)
        self._pixels = Distribution(PIXELS, "pixels", *labels)
        self._waited_s, self._waited = 0.0, Amount("waited", *labels)
        self._failed, self._failures = Tally[str](), dict[str, Amount]()
        self._evaluations = Amount("evaluations", *labels[:2]), Amount("evaluation_seconds", *labels[:2])
        self._batches, self._last_inference = dict[int, tuple[int, float]](), 0.0
        written_regularly(self)

    def count(self, outcome: str, times: int = 1) -> None:
        """Count items that got no result, as `cancelled`, `rejected` or by the name of their error."""
        if self.muted:
            return
        with self._lock:
            self._failed[outcome] += times

    def executed(self, size: int, seconds: float) -> None:
        """Count one batch of `size` inferences that went through the backend."""
        if self.muted:
            return
        key = size if size <= 64 else 1 << (size - 1).bit_length()
        with self._lock:
            self._batch.add(size)
            self._infer.add(seconds)
            times, before = self._batches.get(key, (0, 0.0))
            self._batches[key] = (times + 1, before + seconds)
            self._last_inference = time.time()

    def answered(self, queue_s: float, decode_s: float, waited_s: float, pixels: int = 0) -> None:
        """Count one item that got its result; `pixels` are those of its picture, 0 where there is none."""
        self.answered_together((queue_s,), (decode_s,), waited_s, (pixels,))

    def answered_together(
        self, queue_s: Sequence[float], decode_s: Sequence[float], waited_s: float, pixels: Sequence[int] = ()
    ) -> None:
        """Count the items of one batch that got their results, each of which spent `waited_s` in the backend."""
        if self.muted:
            return
        with self._lock:
            for seconds in queue_s:
                self._queue.add(seconds)
            for seconds in decode_s:
                self._decode.add(seconds)
            for count in pixels:
                if count:
                    self._pixels.add(count)
            self._waited_s += waited_s * len(queue_s)

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
        computed, seconds = evaluations.computed() if evaluations else (0, 0.0)
        with self._lock:
            counted = RunnerStats(
                succeeded=self._queue.count,
                failed=self._failed,
                executions=self._infer.count,
                inferences=int(self._batch.sum),
                queue_seconds=self._queue.sum,
                decode_seconds=self._decode.sum,
                infer_seconds=self._infer.sum,
                waited_seconds=self._waited_s,
                batches=self._batches,
                last_inference=self._last_inference,
                waiting=waiting,
                running=running,
                evaluations=computed,
                evaluation_seconds=seconds,
                expected_seconds=expected_s,
                item_seconds=float(f"{item_s:.4g}"),
            )
            return add_stats([counted])

    def computed(self) -> tuple[int, float]:
        """Return how many pictures or rows were computed, and the seconds that lanes worked on them."""
        with self._lock:
            return int(self._batch.sum), self._decode.sum + self._infer.sum

    def write(self) -> None:
        """Write to the metrics what was counted since the last time."""
        if self._of_evaluations:
            for amount, counted in zip(self._evaluations, self.computed(), strict=True):
                amount.write(counted)
            return
        with self._lock:
            for distribution in (self._queue, self._decode, self._infer, self._batch, self._pixels):
                distribution.write()
            self._waited.write(self._waited_s)
            for reason, times in self._failed.items():
                if reason not in self._failures:
                    self._failures[reason] = Amount("failures", *self._labels, reason)
                self._failures[reason].write(times)


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
        expected_seconds=round(max(part.expected_seconds for part in parts), 6),
        item_seconds=max(part.item_seconds for part in parts),
    )


def stats_from_json(fields: dict[str, Any]) -> RunnerStats:
    """Return the counts that another process sent as JSON, whose keys are texts."""
    batches = {int(size): (times, seconds) for size, (times, seconds) in fields["batches"].items()}
    return RunnerStats(**fields | {"batches": batches})
