"""The search behind `vitrine tune`: which plan keeps a latency limit at the highest rate.

Every measurement goes through a `Measurer`, so that the search can be tested on a queue whose latencies are computed.
"""

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
import numpy.typing as npt

from errors import LimitMissed
from runners.plan import Plan

Latencies = npt.NDArray[np.float64]
"""Milliseconds, shape (n,), from the moment a request was due; infinite for one that was refused or failed."""

STEP = 1.03
"""Rates are powers of this, in every run the same, so that two runs differ by whole steps or not at all."""
STABLE = 0.95
"""No rate above this share of the saturation is accepted: within seconds, a queue that grows for ever looks short."""
MARGIN = 1.05
"""How much higher a plan's rate must be than the default's to take its place: less is noise."""
PAYS = 1.03
"""How much a larger batch must add to the saturation for a still larger one to be tried."""
ROUNDS = 3
"""Final rounds, in which the default and the best take turns; medians count."""


class Measurer(Protocol):
    """What the search measures plans with."""

    def lone_latencies(self, plan: Plan) -> Latencies:
        """Return the latencies of requests that come one after the other."""

    def saturation(self, plan: Plan) -> float:
        """Return the requests answered a second while more of them are waiting than the plan can take."""

    def latencies(self, plan: Plan, rate: float, seed: int) -> Latencies:
        """Return the latencies of requests that arrive at random, `rate` of them a second on average."""


@dataclass(frozen=True)
class Space:
    """What may be tried.

    Attributes:
        shapes: plans that differ in lanes, widths and decoders.
        batches: batch sizes in rising order, tried on the best of the shapes.
        lingers_ms: lingers, tried on the best of the plans that batch.
        override: puts what an operator set into a plan.
    """

    shapes: Sequence[Plan]
    batches: Sequence[int] = ()
    lingers_ms: Sequence[float] = ()
    override: Callable[[Plan], Plan] = lambda plan: plan


@dataclass
class Candidate:
    """A plan and what was measured of it.

    Attributes:
        plan: the plan.
        alone_p50_ms: median latency of one request at a time.
        saturation: requests a second while more are waiting than it can take.
        rate: the highest rate within the limit, 0 if no rate is; None if it was not looked for, as it could not win.
    """

    plan: Plan
    alone_p50_ms: float
    saturation: float
    rate: float | None = None

    @property
    def highest_step(self) -> int:
        """The highest rate that may be accepted, as an exponent of `STEP`."""
        return math.floor(math.log(STABLE * self.saturation, STEP))


@dataclass(frozen=True)
class Probe:
    """One measurement at one rate."""

    plan: Plan
    rate: float
    p99_ms: float


@dataclass
class Outcome:
    """The result of a search: `best` is the default itself unless another beat it by the margin."""

    default: Candidate
    best: Candidate
    candidates: list[Candidate]
    probes: list[Probe] = field(default_factory=list)


def p99(latencies: Latencies) -> float:
    """Return the measured latency that at most one request in a hundred exceeds; it is not interpolated."""
    return float(np.percentile(latencies, 99, method="inverted_cdf"))


def search(
    measurer: Measurer,
    default: Plan,
    space: Space,
    slo_p99_ms: float,
    report: Callable[[str], None] = lambda what: None,
) -> Outcome:
    """Find the plan with the highest rate whose p99 is within the limit.

    Candidates are measured for their saturation first. Only one that could serve more within it than the best so far
    is probed, once, at a rate that it must keep to go on. The best that remains is compared with the default in rounds
    by turns; the arrivals of a round are the same for both, and in every run.

    Args:
        measurer: measures plans.
        default: the plan that would be served untuned.
        space: what else may be tried.
        slo_p99_ms: the limit.
        report: is called with a description of each measurement before it starts.

    Raises:
        LimitMissed: no plan keeps the limit.
    """
    return _Search(measurer, slo_p99_ms, report).run(space.override(default), space)


class _Search:
    def __init__(self, measurer: Measurer, slo_ms: float, report: Callable[[str], None]) -> None:
        self._measurer, self._slo_ms, self._report = measurer, slo_ms, report
        self._screened: dict[Plan, Candidate] = {}
        self._probes: list[Probe] = []
        self._lowest_ms = math.inf

    def run(self, plan: Plan, space: Space) -> Outcome:
        default = self._screen(plan)
        self._screen_all(space)
        default.rate = self._highest_rate(default)
        best = default
        for candidate in _fastest(self._screened.values(), len(self._screened)):
            if candidate is not default and self._beats(candidate, best):
                best = candidate
        return self._final(default, best)

    def _screen(self, plan: Plan) -> Candidate:
        if plan not in self._screened:
            self._report(f"saturation of {plan}")
            alone = self._measurer.lone_latencies(plan)
            self._lowest_ms = min(self._lowest_ms, p99(alone))
            self._screened[plan] = Candidate(plan, float(np.median(alone)), self._measurer.saturation(plan))
        return self._screened[plan]

    def _screen_all(self, space: Space) -> None:
        shapes = [self._screen(space.override(shape)) for shape in space.shapes]
        batching = [candidate for candidate in shapes if candidate.plan.max_batch > 1]
        for shape in _fastest(shapes, 2):
            saturation = 0.0
            for size in space.batches:
                candidate = self._screen(space.override(replace(shape.plan, max_batch=size)))
                if candidate.saturation < PAYS * saturation:
                    break
                saturation = candidate.saturation
                batching += [candidate] * (candidate.plan.max_batch > 1)
        for candidate in _fastest(batching, 1):
            for linger in space.lingers_ms:
                self._screen(space.override(replace(candidate.plan, linger_ms=linger)))

    def _beats(self, candidate: Candidate, best: Candidate) -> bool:
        """Whether a candidate beats the best so far; if it does, its rate is then known."""
        if candidate.alone_p50_ms > self._slo_ms:
            return False
        if not best.rate:
            candidate.rate = self._highest_rate(candidate)
            return candidate.rate > 0
        step_to_beat = math.ceil(math.log(MARGIN * best.rate, STEP))
        if step_to_beat > candidate.highest_step or not self._keeps_limit(candidate, step_to_beat):
            return False
        candidate.rate = STEP ** self._bisect(candidate, step_to_beat, candidate.highest_step + 1)
        return True

    def _highest_rate(self, candidate: Candidate) -> float:
        """Return the highest rate of a candidate within the limit, 0 if there is none; nothing is known of it yet."""
        if candidate.alone_p50_ms > self._slo_ms:
            return 0.0
        too_much = candidate.highest_step + 1
        for share in (1.0, 0.8, 0.5, 0.2, 0.05):
            step = candidate.highest_step + round(math.log(share, STEP))
            if self._keeps_limit(candidate, step):
                return float(STEP ** self._bisect(candidate, step, too_much))
            too_much = step
        return 0.0

    def _bisect(self, candidate: Candidate, good: int, too_much: int, seed: int = 0) -> int:
        """Return the highest step within the limit, between one that is and one that is not, or may not be tried."""
        while too_much - good > 1:
            middle = (good + too_much) // 2
            if self._keeps_limit(candidate, middle, seed):
                good = middle
            else:
                too_much = middle
        return good

    def _highest_rate_near(self, candidate: Candidate, start: int, seed: int) -> float:
        """Return the highest rate within the limit, looked for around a step; 0 if it is not near there."""
        start, stride = min(start, candidate.highest_step), 1
        if self._keeps_limit(candidate, start, seed):
            while start + stride <= candidate.highest_step and self._keeps_limit(candidate, start + stride, seed):
                start, stride = start + stride, 2 * stride
            return float(STEP ** self._bisect(candidate, start, min(start + stride, candidate.highest_step + 1), seed))
        while not self._keeps_limit(candidate, start - stride, seed):
            start, stride = start - stride, 2 * stride
            if stride > 32:
                return 0.0
        return float(STEP ** self._bisect(candidate, start - stride, start, seed))

    def _keeps_limit(self, candidate: Candidate, step: int, seed: int = 0) -> bool:
        rate = STEP**step
        self._report(f"{rate:.3g} requests/s on {candidate.plan}")
        p99_ms = p99(self._measurer.latencies(candidate.plan, rate, seed))
        self._lowest_ms = min(self._lowest_ms, p99_ms)
        self._probes.append(Probe(candidate.plan, rate, p99_ms))
        return p99_ms <= self._slo_ms

    def _final(self, default: Candidate, best: Candidate) -> Outcome:
        """Measure both anew, in turns: a machine whose speed drifts slows both."""
        if not best.rate:
            raise LimitMissed(self._slo_ms, self._lowest_ms)
        finalists = [default, best] if best is not default else [default]
        rounds = list[list[tuple[float, float]]]()
        for seed in range(1, ROUNDS + 1):
            turn = 1 if seed % 2 else -1
            rounds.append([self._measure_anew(finalist, seed) for finalist in finalists[::turn]][::turn])
        for finalist, measured in zip(finalists, zip(*rounds, strict=True), strict=True):
            finalist.rate = statistics.median(rate for rate, _ in measured)
            finalist.saturation = statistics.median(saturation for _, saturation in measured)
        if statistics.median(_ratio(measured[-1][0], measured[0][0]) for measured in rounds) < MARGIN:
            best = default
        if not best.rate:
            raise LimitMissed(self._slo_ms, self._lowest_ms)
        return Outcome(default, best, list(self._screened.values()), self._probes)

    def _measure_anew(self, candidate: Candidate, seed: int) -> tuple[float, float]:
        """Return the rate within the limit and the saturation; the rate is 0 for one that never kept the limit."""
        fresh = replace(candidate, saturation=self._measurer.saturation(candidate.plan))
        if not candidate.rate:
            return 0.0, fresh.saturation
        return self._highest_rate_near(fresh, round(math.log(candidate.rate, STEP)), seed), fresh.saturation


def _ratio(rate: float, default_rate: float) -> float:
    if default_rate:
        return rate / default_rate
    return math.inf if rate else 0.0


def _fastest(candidates: Iterable[Candidate], count: int) -> list[Candidate]:
    return sorted(candidates, key=lambda candidate: -candidate.saturation)[:count]
