"""What all turns come to: medians over the rounds, and the ratios that are aimed for."""

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from loadtests.compare.load import Load
from loadtests.compare.regimes import COMPUTE, OVERHEAD
from loadtests.compare.turns import CLIENTS, RAW, Turn

OURS = "vitrine"
EQUAL = 0.9
"""Share of Vitrine's throughput from which on a peer's counts as equal."""


class Row(NamedTuple):
    """One contestant in one regime: medians over its rounds, by number of clients; errors of all rounds."""

    name: str
    rate: dict[int, float]
    p50_ms: dict[int, float]
    p99_ms: dict[int, float]
    cpu_ms: dict[int, float]
    errors: int
    requests: int
    memory_mib: float
    start_s: float
    problem: str
    """Why there is nothing, or what was first wrong."""


class Aim(NamedTuple):
    """A ratio, what it should be, and how far it went from round to round."""

    what: str
    ratio: float
    low: float
    high: float
    sign: str
    wanted: float

    @property
    def met(self) -> bool:
        """Whether it is what it should be; never where there is no figure."""
        return self.ratio >= self.wanted if self.sign == "≥" else self.ratio <= self.wanted


def row(turns: Sequence[Turn], regime: str, name: str) -> Row:
    """Sum up a contestant's turns."""
    own = [turn for turn in turns if (turn.regime, turn.name) == (regime, name)]
    good = [turn for turn in own if turn.loads]

    def over(figure: Callable[[Load], float]) -> dict[int, float]:
        return {clients: median(figure(turn.loads[clients]) for turn in good) for clients in CLIENTS}

    loads = [each for turn in good for each in (*turn.loads.values(), turn.open_loop) if each]
    problems = [turn.problem for turn in own] + [each.problem for each in loads]
    return Row(
        name,
        over(lambda each: each.rate),
        over(lambda each: each.p50_ms),
        over(lambda each: each.p99_ms),
        over(lambda each: each.cpu_ms),
        sum(each.errors for each in loads),
        sum(each.requests for each in loads),
        median(turn.memory_mib for turn in good),
        median(turn.start_s for turn in good),
        next(filter(None, problems), ""),
    )


def aims(turns: Sequence[Turn], names: Iterable[str]) -> list[Aim]:
    """The ratios, each the median of those of the rounds, so that a machine that drifts moves both sides of it."""
    peers = [name for name in names if name not in (OURS, RAW)]
    compute = {name: row(turns, COMPUTE, name) for name in (*peers, OURS)}
    rated = [name for name in peers if compute[name].rate[16] > 0]
    best = max(rated, key=lambda name: compute[name].rate[16], default="")
    equal = [name for name in rated if compute[name].rate[16] >= EQUAL * compute[OURS].rate[16]] or rated
    quick = min(equal, key=lambda name: compute[name].p50_ms[1], default="")

    def over(regime: str, clients: int, figure: Callable[[Load], float], other: str) -> list[float]:
        return [
            figure(ours.loads[clients]) / figure(theirs.loads[clients])
            for ours, theirs in pairs(turns, regime, other)
            if figure(theirs.loads[clients])
        ]

    def rate(each: Load) -> float:
        return each.rate

    def p50(each: Load) -> float:
        return each.p50_ms

    spread = {
        regime: [
            turn.open_loop.p99_ms / turn.open_loop.p50_ms for turn in turns if turn.open_loop and turn.regime == regime
        ]
        for regime in (COMPUTE, OVERHEAD)
    }
    ours = [turn for turn in turns if turn.name == OURS and turn.loads]
    errors = [float(sum(row(turns, regime, OURS).errors for regime in (COMPUTE, OVERHEAD)))] if ours else []
    found = [
        ("kidney-stone, 16 clients: images/s over raw's best", over(COMPUTE, 16, rate, RAW), "≥", 0.95),
        (f"kidney-stone, 16 clients: images/s over the best peer ({best})", over(COMPUTE, 16, rate, best), "≥", 1.0),
        ("kidney-stone, 1 client: p50 over raw's best single-image time", over(COMPUTE, 1, p50, RAW), "≤", 1.15),
        (
            f"kidney-stone, 1 client: p50 over the quickest peer of equal throughput ({quick})",
            over(COMPUTE, 1, p50, quick),
            "≤",
            0.5,
        ),
        ("cheapest model, 64 clients: requests/s over Mosec", over(OVERHEAD, 64, rate, "mosec"), "≥", 1.5),
        (
            "cheapest model, 64 clients: requests/s over BentoML's own batching",
            over(OVERHEAD, 64, rate, "bentoml"),
            "≥",
            6.0,
        ),
        ("kidney-stone, open loop at 70 %: p99 over p50", spread[COMPUTE], "≤", 2.5),
        ("cheapest model, open loop at 70 %: p99 over p50", spread[OVERHEAD], "≤", 2.5),
        ("Vitrine: failed or wrong answers", errors, "≤", 0.0),
    ]
    return [Aim(what, median(each), *ends(each), sign, wanted) for what, each, sign, wanted in found]


def pairs(turns: Sequence[Turn], regime: str, other: str) -> list[tuple[Turn, Turn]]:
    """Vitrine's turn and another's, of each round in which both came to something."""
    by = {(turn.round, turn.name): turn for turn in turns if turn.regime == regime and turn.loads}
    rounds = sorted({number for number, _ in by})
    return [(by[each, OURS], by[each, other]) for each in rounds if (each, OURS) in by and (each, other) in by]


def median(values: Iterable[float]) -> float:
    """The median of what is a number; NaN where nothing is."""
    numbers = [value for value in values if not math.isnan(value)]
    return statistics.median(numbers) if numbers else math.nan


def ends(values: Sequence[float]) -> tuple[float, float]:
    """Least and greatest."""
    return (min(values), max(values)) if values else (math.nan, math.nan)
