"""The search behind `vitrine tune`: which plan keeps a latency limit at the highest rate.

Every measurement goes through a `World`, so that the search itself can be tested on a queue that is worked out.
"""

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
import numpy.typing as npt

from errors import VitrineError
from runners.plan import CpuPlan

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
"""Final rounds, the default and the best in turns; medians count."""


class LimitMissed(VitrineError):
    """No plan keeps the limit at any rate; `lowest_ms` is the lowest p99 that was measured."""

    def __init__(self, slo_ms: float, lowest_ms: float) -> None:
        super().__init__(f"No plan keeps a p99 of {slo_ms:g} ms here: the lowest measured is {lowest_ms:.1f} ms.")
        self.lowest_ms = lowest_ms


class World(Protocol):
    """Where plans are measured."""

    def alone(self, layout: CpuPlan) -> Latencies:
        """Of requests one after the other."""
        ...

    def saturation(self, layout: CpuPlan) -> float:
        """Requests a second while more of them wait than it can take."""
        ...

    def latencies(self, layout: CpuPlan, rate: float, seed: int) -> Latencies:
        """Of requests that arrive at random, so many a second on average."""
        ...


@dataclass(frozen=True)
class Space:
    """What may be tried.

    shapes: plans that differ in lanes, widths and decoders. batches: sizes in rising order, for the best of these.
    lingers_ms: for the best of those that batch. over: puts what an operator set over any plan.
    """

    shapes: Sequence[CpuPlan]
    batches: Sequence[int] = ()
    lingers_ms: Sequence[float] = ()
    over: Callable[[CpuPlan], CpuPlan] = lambda layout: layout


@dataclass
class Candidate:
    """A plan and what it came to. rate: within the limit, 0 if it never kept it; None where it could not win."""

    layout: CpuPlan
    alone_p50_ms: float
    saturation: float
    rate: float | None = None

    @property
    def ceiling(self) -> int:
        """The highest step that may be accepted."""
        return math.floor(math.log(STABLE * self.saturation, STEP))


@dataclass(frozen=True)
class Probe:
    """One measurement at one rate."""

    layout: CpuPlan
    rate: float
    p99_ms: float


@dataclass
class Outcome:
    """What a search found: `best` is the default itself unless another beat it by the margin."""

    default: Candidate
    best: Candidate
    candidates: list[Candidate]
    probes: list[Probe] = field(default_factory=list)


def p99(latencies: Latencies) -> float:
    """The latency that at most one request in a hundred exceeds, as measured, not interpolated."""
    return float(np.percentile(latencies, 99, method="inverted_cdf"))


def search(
    world: World, default: CpuPlan, space: Space, slo_p99_ms: float, said: Callable[[str], None] = lambda what: None
) -> Outcome:
    """Find the plan with the highest rate whose p99 is within the limit.

    Candidates are measured for their saturation first. Only one that could serve more within it than the best so far
    is probed, once, at a rate that it must keep to go on. What is left meets the default in rounds by turns, each with
    arrivals of its own that are the same for both and in every run.

    Args:
        world: where to measure.
        default: the plan that would be served untuned.
        space: what else may be tried.
        slo_p99_ms: the limit.
        said: is told what comes next.

    Raises:
        LimitMissed: nothing keeps the limit.
    """
    return _Search(world, slo_p99_ms, said).run(space.over(default), space)


class _Search:
    def __init__(self, world: World, slo_ms: float, said: Callable[[str], None]) -> None:
        self._world, self._slo_ms, self._said = world, slo_ms, said
        self._known: dict[CpuPlan, Candidate] = {}
        self._probes: list[Probe] = []
        self._lowest_ms = math.inf

    def run(self, layout: CpuPlan, space: Space) -> Outcome:
        default = self._screen(layout)
        self._screen_all(space)
        default.rate = self._highest(default)
        best = default
        for each in sorted(self._known.values(), key=lambda other: -other.saturation):
            if each is not default and self._challenges(each, best):
                best = each
        return self._final(default, best)

    def _screen(self, layout: CpuPlan) -> Candidate:
        if layout not in self._known:
            self._said(f"saturation of {layout}")
            alone = self._world.alone(layout)
            self._lowest_ms = min(self._lowest_ms, p99(alone))
            self._known[layout] = Candidate(layout, float(np.median(alone)), self._world.saturation(layout))
        return self._known[layout]

    def _screen_all(self, space: Space) -> None:
        shapes = [self._screen(space.over(each)) for each in space.shapes]
        batching = [each for each in shapes if each.layout.max_batch > 1]
        for shape in _fastest(shapes, 2):
            before = 0.0
            for size in space.batches:
                found = self._screen(space.over(replace(shape.layout, max_batch=size)))
                if found.saturation < PAYS * before:
                    break
                before = found.saturation
                batching += [found] * (found.layout.max_batch > 1)
        for each in _fastest(batching, 1):
            for linger in space.lingers_ms:
                self._screen(space.over(replace(each.layout, linger_ms=linger)))

    def _challenges(self, candidate: Candidate, best: Candidate) -> bool:
        """Whether a candidate beats the best so far; its rate is then known."""
        if candidate.alone_p50_ms > self._slo_ms:
            return False
        if not best.rate:
            candidate.rate = self._highest(candidate)
            return candidate.rate > 0
        wanted = math.ceil(math.log(MARGIN * best.rate, STEP))
        if wanted > candidate.ceiling or not self._meets(candidate, wanted):
            return False
        candidate.rate = STEP ** self._above(candidate, wanted, candidate.ceiling + 1)
        return True

    def _highest(self, candidate: Candidate) -> float:
        """The highest rate of a candidate within the limit, from nothing; 0 if there is none."""
        if candidate.alone_p50_ms > self._slo_ms:
            return 0.0
        too_much = candidate.ceiling + 1
        for share in (1.0, 0.8, 0.5, 0.2, 0.05):
            step = candidate.ceiling + round(math.log(share, STEP))
            if self._meets(candidate, step):
                return float(STEP ** self._above(candidate, step, too_much))
            too_much = step
        return 0.0

    def _above(self, candidate: Candidate, good: int, too_much: int, seed: int = 0) -> int:
        """Halve what lies between a step that is kept and one that is not, or may not be tried."""
        while too_much - good > 1:
            middle = (good + too_much) // 2
            if self._meets(candidate, middle, seed):
                good = middle
            else:
                too_much = middle
        return good

    def _near(self, candidate: Candidate, start: int, seed: int) -> float:
        """The highest rate within the limit, looked for from where it should be; 0 if it is nowhere near."""
        start, stride = min(start, candidate.ceiling), 1
        if self._meets(candidate, start, seed):
            while start + stride <= candidate.ceiling and self._meets(candidate, start + stride, seed):
                start, stride = start + stride, 2 * stride
            return float(STEP ** self._above(candidate, start, min(start + stride, candidate.ceiling + 1), seed))
        while not self._meets(candidate, start - stride, seed):
            start, stride = start - stride, 2 * stride
            if stride > 32:
                return 0.0
        return float(STEP ** self._above(candidate, start - stride, start, seed))

    def _meets(self, candidate: Candidate, step: int, seed: int = 0) -> bool:
        rate = STEP**step
        self._said(f"{rate:.3g} requests/s on {candidate.layout}")
        worst = p99(self._world.latencies(candidate.layout, rate, seed))
        self._lowest_ms = min(self._lowest_ms, worst)
        self._probes.append(Probe(candidate.layout, rate, worst))
        return worst <= self._slo_ms

    def _final(self, default: Candidate, best: Candidate) -> Outcome:
        """Measure both anew, in turns: a machine whose speed drifts slows both."""
        if not best.rate:
            raise LimitMissed(self._slo_ms, self._lowest_ms)
        finalists = [default, best] if best is not default else [default]
        rounds = [
            [self._round(each, seed) for each in (finalists if seed % 2 else reversed(finalists))]
            for seed in range(1, ROUNDS + 1)
        ]
        turns = [found if seed % 2 else found[::-1] for seed, found in enumerate(rounds, 1)]
        for place, each in enumerate(finalists):
            each.rate = statistics.median(found[place][0] for found in turns)
            each.saturation = statistics.median(found[place][1] for found in turns)
        if statistics.median(_ratio(found[-1][0], found[0][0]) for found in turns) < MARGIN:
            best = default
        if not best.rate:
            raise LimitMissed(self._slo_ms, self._lowest_ms)
        return Outcome(default, best, list(self._known.values()), self._probes)

    def _round(self, candidate: Candidate, seed: int) -> tuple[float, float]:
        """Rate within the limit and saturation, measured anew; the rate is 0 for one that never kept the limit."""
        fresh = replace(candidate, saturation=self._world.saturation(candidate.layout))
        if not candidate.rate:
            return 0.0, fresh.saturation
        return self._near(fresh, round(math.log(candidate.rate, STEP)), seed), fresh.saturation


def _ratio(one: float, other: float) -> float:
    if other:
        return one / other
    return math.inf if one else 0.0


def _fastest(candidates: Iterable[Candidate], count: int) -> list[Candidate]:
    return sorted(candidates, key=lambda each: -each.saturation)[:count]
