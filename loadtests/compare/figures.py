"""The figures of a run: medians over its rounds, and the ratios that Vitrine aims for."""

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from loadtests.compare.load import Load
from loadtests.compare.regimes import COMPUTE, OVERHEAD
from loadtests.compare.turns import CLIENTS, RAW, Turn

OURS = "vitrine"
EQUAL = 0.9
"""A peer with at least this share of Vitrine's throughput counts as equally fast."""


class Row(NamedTuple):
    """One contestant in one regime: medians over its rounds, by number of clients, and the errors of all rounds."""

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
    """Why there are no figures, or the first thing that was wrong; empty if nothing was."""


class Aim(NamedTuple):
    """A ratio with its least and greatest value over the rounds, and the bound that it should keep.

    Attributes:
        what: the name of the ratio, as it is printed.
        ratio: median over the rounds.
        low: least of a round.
        high: greatest of a round.
        sign: `≥` or `≤`.
        bound: what the ratio should be at least, or at most.
    """

    what: str
    ratio: float
    low: float
    high: float
    sign: str
    bound: float

    @property
    def met(self) -> bool:
        """Whether the ratio keeps its bound; False if there is no figure."""
        return self.ratio >= self.bound if self.sign == "≥" else self.ratio <= self.bound


def row(turns: Sequence[Turn], regime: str, name: str) -> Row:
    """Sum up the turns of one contestant in one regime."""
    own = [turn for turn in turns if (turn.regime, turn.name) == (regime, name)]
    measured = [turn for turn in own if turn.loads]

    def medians(figure: Callable[[Load], float]) -> dict[int, float]:
        return {clients: median(figure(turn.loads[clients]) for turn in measured) for clients in CLIENTS}

    loads = [load for turn in measured for load in (*turn.loads.values(), turn.open_loop) if load]
    problems = [turn.problem for turn in own] + [load.problem for load in loads]
    return Row(
        name,
        medians(lambda load: load.rate),
        medians(lambda load: load.p50_ms),
        medians(lambda load: load.p99_ms),
        medians(lambda load: load.cpu_ms),
        sum(load.errors for load in loads),
        sum(load.requests for load in loads),
        median(turn.memory_mib for turn in measured),
        median(turn.start_s for turn in measured),
        next(filter(None, problems), ""),
    )


def aims(turns: Sequence[Turn], names: Iterable[str]) -> list[Aim]:
    """Return the ratios, each the median of those of the rounds: a machine that drifts moves both sides of it."""
    peers = [name for name in names if name not in (OURS, RAW)]
    compute = {name: row(turns, COMPUTE, name) for name in (*peers, OURS)}
    answering = [name for name in peers if compute[name].rate[16] > 0]
    best = max(answering, key=lambda name: compute[name].rate[16], default="")
    equal = [name for name in answering if compute[name].rate[16] >= EQUAL * compute[OURS].rate[16]] or answering
    quickest = min(equal, key=lambda name: compute[name].p50_ms[1], default="")

    def by_round(regime: str, clients: int, figure: Callable[[Load], float], other: str) -> list[float]:
        return [
            figure(ours.loads[clients]) / figure(theirs.loads[clients])
            for ours, theirs in pairs(turns, regime, other)
            if figure(theirs.loads[clients])
        ]

    def rate(load: Load) -> float:
        return load.rate

    def p50(load: Load) -> float:
        return load.p50_ms

    spread = {
        regime: [
            turn.open_loop.p99_ms / turn.open_loop.p50_ms for turn in turns if turn.open_loop and turn.regime == regime
        ]
        for regime in (COMPUTE, OVERHEAD)
    }
    ours = [turn for turn in turns if turn.name == OURS and turn.loads]
    errors = [float(sum(row(turns, regime, OURS).errors for regime in (COMPUTE, OVERHEAD)))] if ours else []
    ratios = [
        ("kidney-stone, 16 clients: images/s over raw's best", by_round(COMPUTE, 16, rate, RAW), "≥", 0.95),
        (
            f"kidney-stone, 16 clients: images/s over the best peer ({best})",
            by_round(COMPUTE, 16, rate, best),
            "≥",
            1.0,
        ),
        ("kidney-stone, 1 client: p50 over raw's best single-image time", by_round(COMPUTE, 1, p50, RAW), "≤", 1.15),
        (
            f"kidney-stone, 1 client: p50 over the quickest peer of equal throughput ({quickest})",
            by_round(COMPUTE, 1, p50, quickest),
            "≤",
            0.5,
        ),
        ("cheapest model, 64 clients: requests/s over Mosec", by_round(OVERHEAD, 64, rate, "mosec"), "≥", 1.5),
        (
            "cheapest model, 64 clients: requests/s over BentoML's own batching",
            by_round(OVERHEAD, 64, rate, "bentoml"),
            "≥",
            6.0,
        ),
        ("kidney-stone, open loop at 70 %: p99 over p50", spread[COMPUTE], "≤", 2.5),
        ("cheapest model, open loop at 70 %: p99 over p50", spread[OVERHEAD], "≤", 2.5),
        ("Vitrine: failed or wrong answers", errors, "≤", 0.0),
    ]
    return [Aim(what, median(values), *extremes(values), sign, bound) for what, values, sign, bound in ratios]


def pairs(turns: Sequence[Turn], regime: str, other: str) -> list[tuple[Turn, Turn]]:
    """Return Vitrine's turn and another contestant's, of each round in which both were measured."""
    measured = {(turn.round, turn.name): turn for turn in turns if turn.regime == regime and turn.loads}
    rounds = sorted(number for number, name in measured if name == OURS and (number, other) in measured)
    return [(measured[number, OURS], measured[number, other]) for number in rounds]


def median(values: Iterable[float]) -> float:
    """Return the median of the values that are numbers, NaN if none is."""
    numbers = [value for value in values if not math.isnan(value)]
    return statistics.median(numbers) if numbers else math.nan


def extremes(values: Sequence[float]) -> tuple[float, float]:
    """Return the least and the greatest value, NaN if there is none."""
    return (min(values), max(values)) if values else (math.nan, math.nan)
