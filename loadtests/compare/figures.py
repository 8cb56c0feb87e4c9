"""The figures of a run: medians over its rounds, and the ratios that Vitrine aims for."""

import math
import statistics
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from loadtests.compare.load import Load
from loadtests.compare.regimes import COMPUTE, OVERHEAD, REGIMES, ROWS
from loadtests.compare.turns import CLIENTS, RAW, Turn

OURS = "vitrine"
DECIDES = {COMPUTE: 16, OVERHEAD: 64, ROWS: 64}
"""The number of clients whose throughput orders a regime's contestants."""
EQUAL = 0.9
"""A peer with at least this share of Vitrine's throughput counts as equally fast."""
NEAR = 0.05
"""Who differs from Vitrine's throughput by less than this share of it is measured in more rounds."""


class Row(NamedTuple):
    """One contestant in one regime over all rounds.

    Attributes:
        name: of the contestant.
        rounds: how many have figures.
        loads: medians of the closed loops' figures by number of clients; errors and requests are not summed up here.
        errors: of all loops, the open ones too.
        requests: of the same loops.
        memory_mib: the median.
        start_s: the median.
        problem: why there are no figures, or the first thing that was wrong; empty if nothing was.
    """

    name: str
    rounds: int
    loads: dict[int, Load]
    errors: int
    requests: int
    memory_mib: float
    start_s: float
    problem: str


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
    loads = [load for turn in measured for load in (*turn.loads.values(), turn.open_loop) if load]
    problems = [turn.problem for turn in own] + [load.problem for load in loads]
    return Row(
        name,
        len(measured),
        {clients: _median_load([turn.loads[clients] for turn in measured]) for clients in CLIENTS},
        sum(load.errors for load in loads),
        sum(load.requests for load in loads),
        median(turn.memory_mib for turn in measured),
        median(turn.start_s for turn in measured),
        next(filter(None, problems), ""),
    )


def _median_load(loads: Sequence[Load]) -> Load:
    def of(figure: str) -> float:
        return median(getattr(load, figure) for load in loads)

    return Load(of("rate"), of("p50_ms"), of("p99_ms"), 0, 0, cpu_ms=of("cpu_ms"), instructions=of("instructions"))


def near_ours(turns: Sequence[Turn], regime: str, names: Iterable[str]) -> list[str]:
    """Return who differs from Vitrine in the median of the deciding throughput by less than `NEAR`, and Vitrine too.

    Returns:
        Their names, in the order of `names`; none if Vitrine alone would be left, or was not measured.
    """
    rates = {name: row(turns, regime, name).loads[DECIDES[regime]].rate for name in names}
    ours = rates.get(OURS, math.nan)
    near = [name for name, rate in rates.items() if abs(rate - ours) < NEAR * ours]
    return near if len(near) > 1 else []


def aims(turns: Sequence[Turn], names: Iterable[str]) -> list[Aim]:
    """Return the ratios, each the median of those of the rounds: a machine that drifts moves both sides of it."""
    peers = [name for name in names if name not in (OURS, RAW)]
    compute = {name: row(turns, COMPUTE, name).loads for name in (*peers, OURS)}
    answering = [name for name in peers if compute[name][16].rate > 0]
    best = max(answering, key=lambda name: compute[name][16].rate, default="")
    equal = [name for name in answering if compute[name][16].rate >= EQUAL * compute[OURS][16].rate] or answering
    quickest = min(equal, key=lambda name: compute[name][1].p50_ms, default="")

    def rates(regime: str, clients: int, other: str) -> list[float]:
        loads = [(ours.loads[clients], theirs.loads[clients]) for ours, theirs in pairs(turns, regime, other)]
        return [ours.rate / theirs.rate for ours, theirs in loads if theirs.rate]

    def lone_p50s(other: str) -> list[float]:
        return [ours.loads[1].p50_ms / theirs.loads[1].p50_ms for ours, theirs in pairs(turns, COMPUTE, other)]

    def spread(regime: str) -> list[float]:
        loads = [turn.open_loop for turn in turns if turn.open_loop and turn.regime == regime]
        return [load.p99_ms / load.p50_ms for load in loads]

    def refused(regime: str) -> list[float]:
        return [float(turn.open_loop.refused) for turn in turns if turn.open_loop and turn.regime == regime]

    ours = [turn for turn in turns if turn.name == OURS and turn.loads]
    errors = [float(sum(row(turns, regime, OURS).errors for regime in REGIMES))] if ours else []
    kidney_stone, cheapest = "kidney-stone, 16 clients: images/s over", "cheapest model, 64 clients: requests/s over"
    lone = "kidney-stone, 1 client: p50 over"
    ratios = [
        (f"{kidney_stone} raw's best", rates(COMPUTE, 16, RAW), "≥", 0.95),
        (f"{kidney_stone} the best peer ({best})", rates(COMPUTE, 16, best), "≥", 1.0),
        (f"{lone} raw's best single-image time", lone_p50s(RAW), "≤", 1.15),
        (f"{lone} the quickest peer of equal throughput ({quickest})", lone_p50s(quickest), "≤", 0.5),
        (f"{cheapest} Mosec", rates(OVERHEAD, 64, "mosec"), "≥", 1.0),
        (f"{cheapest} BentoML's own batching", rates(OVERHEAD, 64, "bentoml"), "≥", 6.0),
        ("one row, 64 clients: requests/s over Mosec", rates(ROWS, 64, "mosec"), "≥", 1.0),
        ("kidney-stone, open loop at 70 %: p99 over p50", spread(COMPUTE), "≤", 2.5),
        ("kidney-stone, open loop at 70 %: refused requests", refused(COMPUTE), "≤", 0.0),
        ("cheapest model, open loop at 70 %: p99 over p50", spread(OVERHEAD), "≤", 3.0),
        ("cheapest model, open loop at 70 %: refused requests", refused(OVERHEAD), "≤", 0.0),
        ("one row, open loop at 70 %: p99 over p50", spread(ROWS), "≤", 2.5),
        ("one row, open loop at 70 %: refused requests", refused(ROWS), "≤", 0.0),
        ("Vitrine: failed or wrong answers", errors, "≤", 0.0),
    ]
    return [
        Aim(what, median(values), min(values, default=math.nan), max(values, default=math.nan), sign, bound)
        for what, values, sign, bound in ratios
    ]


def pairs(turns: Sequence[Turn], regime: str, other: str) -> list[tuple[Turn, Turn]]:
    """Return Vitrine's turn and another contestant's, of each round in which both were measured."""
    measured = {(turn.round, turn.name): turn for turn in turns if turn.regime == regime and turn.loads}
    rounds = sorted(number for number, name in measured if name == OURS and (number, other) in measured)
    return [(measured[number, OURS], measured[number, other]) for number in rounds]


def median(values: Iterable[float]) -> float:
    """Return the median of the values that are numbers, NaN if none is."""
    numbers = [value for value in values if not math.isnan(value)]
    return statistics.median(numbers) if numbers else math.nan
