"""The search against queues that are worked out, not run: deterministic service, first come first served."""

import heapq
import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from errors import LimitMissed
from runners.plan import Plan
from serving.options import RunnerOptions
from tuning.candidates import search_space
from tuning.measure import poisson_arrivals
from tuning.search import STABLE, Latencies, Outcome, Space, p99, search

Service = Callable[[Plan, int], float]
PLAIN = Plan(lanes=4, widths=(4, 1), max_batch=1)


class Queue:
    """A queue in which a run of n requests takes `service(plan, n)` ms, exactly, in each of the plan's lanes."""

    def __init__(self, service: Service, arrivals: int = 600, noise: float = 0.0, seed: int = 0) -> None:
        self._service, self._arrivals, self._noise = service, arrivals, noise
        self._random = np.random.default_rng(seed)
        self.probed: list[tuple[Plan, float]] = []
        self.screened: list[Plan] = []

    def lone_latencies(self, plan: Plan) -> Latencies:
        return np.full(20, self._service(plan, 1) + plan.linger_ms * (plan.max_batch > 1))

    def capacity(self, plan: Plan) -> float:
        return 1e3 * plan.lanes * plan.max_batch / self._service(plan, plan.max_batch)

    def saturation(self, plan: Plan) -> float:
        self.screened.append(plan)
        return self.capacity(plan) / self._drift()

    def latencies(self, plan: Plan, rate: float, seed: int) -> Latencies:
        self.probed.append((plan, rate))
        due = poisson_arrivals(rate, self._arrivals, seed) * 1e3
        drift, free, ends, head = self._drift(), [0.0] * plan.lanes, np.empty_like(due), 0
        while head < len(due):
            lane = heapq.heappop(free)
            full = due[head + plan.max_batch - 1] if head + plan.max_batch <= len(due) else math.inf
            start = max(lane, due[head], min(full, due[head] + plan.linger_ms))
            tail = min(head + plan.max_batch, int(np.searchsorted(due, start, "right")))
            ends[head:tail] = start + drift * self._service(plan, tail - head)
            heapq.heappush(free, ends[head])
            head = tail
        return np.asarray(ends - due)

    def _drift(self) -> float:
        """How much slower the machine is just now."""
        return 1 + self._noise * self._random.uniform(-1, 1)


def lanes_alone(plan: Plan, size: int) -> float:
    """A lane takes 60 ms for each request, whatever the others do."""
    return 60.0 * size


def searched(queue: Queue, *shapes: Plan, slo_ms: float = 250, default: Plan = PLAIN) -> Outcome:
    return search(queue, default, Space(shapes, (1, 4, 16, 64), (2.0, 5.0)), slo_ms)


def test_no_rate_that_the_lanes_cannot_bear_is_accepted_however_loose_the_limit() -> None:
    for slo_ms in (100.0, 1e3, 1e6):
        queue = Queue(lanes_alone, arrivals=300)
        outcome = searched(queue, *(replace(PLAIN, lanes=lanes) for lanes in (1, 2, 8)), slo_ms=slo_ms)
        assert outcome.best.plan.lanes == 8
        for candidate in outcome.candidates:
            assert not candidate.rate or candidate.rate <= STABLE * candidate.plan.lanes / 0.060
        assert all(rate < queue.capacity(plan) for plan, rate in queue.probed)


def test_one_lane_gets_the_rate_that_queueing_theory_gives_it() -> None:
    # Erlang 1909, M/D/1: P(wait <= t) = (1 - u) Σ_{k <= t/D} (λ(kD - t))^k / k! · e^{-λ(kD - t)}, u = λD
    service, limit = 10.0, 60.0

    def within(rate: float) -> float:
        wait, rate_ms = limit - service, rate / 1e3
        terms = [
            (rate_ms * (k * service - wait)) ** k / math.factorial(k) * math.exp(-rate_ms * (k * service - wait))
            for k in range(int(wait // service) + 1)
        ]
        return (1 - rate_ms * service) * sum(terms)

    expected = max(rate for rate in np.arange(1.0, 99.0, 0.1) if within(rate) >= 0.99)
    lane = Plan(1, (1,), 1)
    outcome = search(Queue(lambda plan, size: service, arrivals=10_000), lane, Space(()), limit)
    assert outcome.best.rate == pytest.approx(expected, rel=0.05)


def test_a_tight_limit_wants_the_plan_that_is_quick_alone_not_the_one_that_saturates_high() -> None:
    def service(plan: Plan, size: int) -> float:
        return size * (25.0 if plan.widths == (4,) else 70.0)

    wide = Plan(1, (4,), 1)
    narrow = Plan(4, (1,), 1)
    tight = searched(Queue(service), wide, default=narrow, slo_ms=60)
    assert tight.best.plan == wide and tight.default.rate == 0 and tight.best.rate
    assert searched(Queue(service), wide, default=narrow, slo_ms=400).best.plan == narrow


def test_a_gain_within_the_margin_leaves_the_default() -> None:
    def service(plan: Plan, size: int) -> float:
        return 60.0 * size if plan == PLAIN else 58.5 * size

    other = replace(PLAIN, widths=(1,))
    outcome = searched(Queue(service), other)
    assert outcome.best is outcome.default and outcome.best.plan == PLAIN


def test_batches_are_tried_for_as_long_as_they_pay_and_lingers_only_with_them() -> None:
    costly = Queue(lanes_alone)
    searched(costly)
    assert {plan.max_batch for plan in costly.screened} == {1}
    searched(costly, PLAIN)
    assert {plan.max_batch for plan in costly.screened} == {1, 4}  # 4 did not pay: no 16, no linger
    assert not any(plan.linger_ms for plan in costly.screened)

    cheap = Queue(lambda plan, size: 1 + 0.01 * size)
    outcome = searched(cheap, replace(PLAIN, lanes=1), default=replace(PLAIN, lanes=1))
    assert {plan.max_batch for plan in cheap.screened} == {1, 4, 16, 64}
    assert {plan.max_batch for plan in cheap.screened if plan.linger_ms} == {64}
    assert outcome.best.plan.max_batch == 64
    assert outcome.best.rate and outcome.default.rate and outcome.best.rate > 10 * outcome.default.rate


def test_a_candidate_that_cannot_win_is_not_probed() -> None:
    queue = Queue(lanes_alone)
    outcome = searched(queue, *(replace(PLAIN, lanes=lanes) for lanes in (1, 2)))
    assert {plan for plan, _ in queue.probed} == {PLAIN}
    assert [candidate.rate for candidate in outcome.candidates if candidate.plan != PLAIN] == [None] * (
        len(outcome.candidates) - 1
    )


@pytest.mark.parametrize("seed", range(8))
def test_on_a_machine_that_drifts_a_second_run_agrees_and_the_default_is_never_undercut(seed: int) -> None:
    def service(plan: Plan, size: int) -> float:
        return size * {(4, 1): 60.0, (1,): 57.5, (2, 1): 66.0}[plan.widths]

    shapes = [replace(PLAIN, widths=widths) for widths in ((1,), (2, 1))]
    first, second = (searched(Queue(service, noise=0.04, seed=2 * seed + run), *shapes) for run in (0, 1))
    assert first.best.rate and second.best.rate
    assert second.best.rate == pytest.approx(first.best.rate, rel=0.10)
    for outcome in (first, second):
        assert outcome.best.plan.widths in ((4, 1), (1,))  # never the one that is worse
        assert outcome.best.rate and outcome.default.rate and outcome.best.rate >= outcome.default.rate


def test_a_limit_below_the_service_time_is_refused_with_the_lowest_p99() -> None:
    with pytest.raises(LimitMissed, match="p99 of 50 ms") as missed:
        searched(Queue(lanes_alone), replace(PLAIN, lanes=1), slo_ms=50)
    assert missed.value.lowest_ms == pytest.approx(60)


def test_what_an_operator_set_holds_for_every_plan_that_is_measured() -> None:
    queue = Queue(lambda plan, size: 1 + 0.1 * size)
    options = RunnerOptions(max_batch=8, linger_ms=0.0)
    search(queue, PLAIN, search_space(PLAIN, 4, "cpu", options), 250)
    assert {(plan.max_batch, plan.linger_ms) for plan in queue.screened} == {(8, 0.0)}


def test_p99_is_the_latency_that_one_in_a_hundred_may_exceed() -> None:
    latencies = np.arange(1.0, 301.0)
    assert p99(latencies) == 297
    latencies[:3] = math.inf  # refused
    assert p99(latencies) == 300
    latencies[3] = math.inf
    assert p99(latencies) == math.inf


@pytest.mark.parametrize("available", [1, 2, 4, 32])
def test_the_space_holds_the_default_and_no_plan_twice(available: int) -> None:
    default = Plan(available, tuple(sorted({available, 1}, reverse=True)), 1)
    shapes = search_space(default, available, "cpu", RunnerOptions()).shapes
    assert default in shapes and len(set(shapes)) == len(shapes)
    accelerator = Plan(2, (1,), 32, decoders=available)
    space = search_space(accelerator, available, "cuda:0", RunnerOptions())
    assert accelerator in space.shapes and {shape.lanes for shape in space.shapes} == {2} and max(space.batches) > 32
