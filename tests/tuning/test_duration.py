"""How long a search is said to take, against the time that its measurements add up to on a queue that is worked out."""

import pytest

from runners.plan import Plan, make_plan
from serving.options import RunnerOptions
from tests.tuning.test_search import Queue
from tuning.candidates import search_space
from tuning.duration import alone_duration_s, arrivals, expected_s, probe_duration_s, saturation_s
from tuning.search import Latencies, search


class TimedQueue(Queue):
    """A queue that adds up what measuring it takes; every measurement drifts by a twentieth."""

    def __init__(self, alone_ms: float, cores: int, probe_s: float) -> None:
        def service(plan: Plan, size: int) -> float:
            width = max(plan.widths) if plan.lanes == 1 else min(plan.widths)
            alone = size * alone_ms * (0.3 + 0.7 / width)  # Amdahl 1967
            return alone * max(1.0, plan.lanes * width / cores)

        super().__init__(service, noise=0.05)
        self.probe_s, self.seconds = probe_s, 0.0

    def lone_latencies(self, plan: Plan) -> Latencies:
        latencies = super().lone_latencies(plan)
        self.seconds += 1 + alone_duration_s(float(latencies[0]) / 1e3, self.probe_s)
        return latencies

    def saturation(self, plan: Plan) -> float:
        saturation = super().saturation(plan)
        self.seconds += saturation_s(2 * plan.lanes * plan.max_batch, saturation, self.probe_s)
        return saturation

    def latencies(self, plan: Plan, rate: float, seed: int) -> Latencies:
        self._arrivals = arrivals(rate, self.probe_s)
        self.seconds += probe_duration_s(rate, self.probe_s)
        return super().latencies(plan, rate, seed)


@pytest.mark.parametrize("probe_s", [2.0, 5.0])
@pytest.mark.parametrize("alone_ms", [20.0, 38.0, 80.0])
def test_on_two_cores_a_search_takes_about_what_was_said(alone_ms: float, probe_s: float) -> None:
    default, cores = make_plan(2, takes_images=True), 2
    space = search_space(default, cores, "cpu", RunnerOptions())
    queue = TimedQueue(alone_ms, cores, probe_s)
    low_s, high_s = expected_s(space, default, queue.capacity(default), alone_ms / 1e3, probe_s, 0.25)
    search(queue, default, space, 250.0)
    assert 0.7 * low_s < queue.seconds < 1.15 * high_s


def test_a_probe_has_few_arrivals_only_where_they_would_take_too_long() -> None:
    assert arrivals(1000.0, 5.0) == 5000 and arrivals(20.0, 5.0) == 300 and arrivals(4.0, 5.0) == 100
    assert probe_duration_s(20.0, 5.0) == pytest.approx(1.1 * 300 / 20)
