"""What carries the payloads of one loaded model: its Runner, and the event loop for the cheapest networks."""

import threading
from typing import Any

from runners.cores import CoreShare
from runners.gathered import Gathered
from runners.lane_watch import LaneWatch
from runners.runner import Runner
from runners.serial import SerialExecutor
from runners.stats import RunnerStats, Series, add_stats
from serving.loading import LoadedPipeline
from serving.options import RunnerOptions


class ModelLanes:
    """A Runner, which another one replaces if a lane hangs, and what runs on the event loop beside it.

    Args:
        loaded: the model.
        options: what the operator set for every Runner.
        share: the cores of this process.
        series: the labels of its metrics.

    Attributes:
        runner: takes what is queued.
        gathered: takes what is quick; None where nothing is.
        large_json: reads and writes what is large and belongs to this model.
        times_replaced: how often a lane has hung.
    """

    def __init__(self, loaded: LoadedPipeline, options: RunnerOptions, share: CoreShare, series: Series) -> None:
        self._loaded, self._options, self._series = loaded, options, series
        self._abandoned = list[tuple[Runner[Any, Any, Any], LaneWatch]]()
        self.gathered: Gathered[Any, Any, Any] | None = None
        if loaded.is_quick is not None:
            pipeline = loaded.gathered or loaded.pipeline
            self.gathered = Gathered(loaded.runner_name, pipeline, loaded.is_quick, share, self._series)
        self.large_json = SerialExecutor(options.queue_ms / 1000, share.available, share.is_in_use)
        self._start(LaneWatch(share, options.timeout_ms / 1000))

    def __str__(self) -> str:
        """Return how the model is run, and what an item was measured to take."""
        where = "on the event loop where that is quick" if self.gathered is not None else "in a lane"
        return f"an item takes {1e3 * self.stats().item_seconds:.3g} ms {where}"

    @property
    def times_replaced(self) -> int:
        """How often a lane has hung."""
        return len(self._abandoned)

    def stuck_s(self) -> float:
        """Return for how many seconds a lane has hung that was replaced; 0 if none does any more."""
        return max((watch.stuck_s() for _, watch in self._abandoned), default=0.0)

    def replace_if_stuck(self) -> bool:
        """Start another Runner with the same backend if a lane hangs; return whether one did.

        The requests that hang are answered by their deadlines. Those that wait go to the lanes that are left.
        """
        runner, watch = self.runner, self._watch
        if not watch.stuck_s():
            return False
        self._abandoned.append((runner, watch))
        self._start(watch.renewed())
        threading.Thread(target=runner.close, args=(watch.least_s,), daemon=True).start()
        return True

    def expected_s(self) -> float:
        """Return how long somebody who came now would wait, for a lane or to have large JSON read."""
        return max(self.runner.stats().expected_seconds, self.large_json.seconds())

    def stats(self) -> RunnerStats:
        """Return the counts since the start."""
        counting = [self.runner, self.gathered, *(runner for runner, _ in self._abandoned)]
        return add_stats([part.stats() for part in counting if part is not None])

    def occupancy(self) -> dict[str, float]:
        """Return what waits and for how long one more would, how many lanes there are, and how many are busy now."""
        stats, lanes = self.stats(), float(self._loaded.plan.lanes)
        return {
            "queue_depth": float(stats.waiting),
            "expected_wait": self.expected_s(),
            "lanes": lanes,
            "lanes_busy": self.runner.busy_lanes(),
        }

    def close(self, timeout_s: float) -> bool:
        """Refuse new payloads and finish those that wait; return False if something was stuck."""
        if self.gathered is not None:
            self.gathered.close()
        self.large_json.close()
        return self.runner.close(timeout_s) and not self.stuck_s()

    def _start(self, watch: LaneWatch) -> None:
        loaded, options = self._loaded, self._options
        self.runner: Runner[Any, Any, Any] = Runner(
            loaded.runner_name,
            loaded.pipeline,
            loaded.plan,
            queue_size=options.queue_size,
            queue_ms=options.queue_ms,
            working=watch,
            series=self._series,
        )
        self._watch = watch
