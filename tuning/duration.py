"""How long a search takes, estimated before it begins from what the default plan does."""

import math

from runners.plan import Plan
from tuning.search import ROUNDS, Space

FEWEST, MOST_S = 300, 5.0
"""A probe has at least `FEWEST` arrivals, unless they would take more than `MOST_S` times its length."""
LOADING_S = 1.0
"""What loading a plan's sessions takes, roughly, in seconds."""
FIRST_PROBES = 4
"""Probes that find the default's rate, roughly: some by halving, the others between two of these."""
PROBES_OF_A_ROUND = 4
"""Probes of one plan in one of the final rounds, roughly."""


def expected_s(
    space: Space, default: Plan, saturation: float, alone_s: float, probe_s: float, slo_s: float
) -> tuple[float, float]:
    """Return the seconds that a search takes where nothing rivals the default, and where another plan does to the end.

    Args:
        space: what is tried.
        default: the default plan.
        saturation: requests a second that the default answers while more of them are waiting.
        alone_s: what a request takes alone, in seconds.
        probe_s: seconds of a probe, as the user gave them.
        slo_s: the limit of the p99, in seconds.
    """
    shapes = [space.override(shape) for shape in space.shapes]
    larger = [size for size in space.batches if size > default.max_batch][:1]  # a size that does not pay is the last
    waiting = [2 * shape.lanes * shape.max_batch for shape in shapes]
    waiting += [2 * default.lanes * size for size in larger] * min(2, len(shapes))
    plan_s = LOADING_S + alone_duration_s(alone_s, probe_s)
    screening_s = sum(plan_s + saturation_s(count, saturation, probe_s) for count in waiting)
    probing_s = probe_duration_s(likely_share(alone_s, slo_s) * saturation, probe_s)
    anew_s = saturation_s(2 * default.lanes * default.max_batch, saturation, probe_s) + PROBES_OF_A_ROUND * probing_s
    one_plan_s = FIRST_PROBES * probing_s + ROUNDS * anew_s
    return screening_s + one_plan_s, screening_s + 2 * one_plan_s


def likely_share(alone_s: float, slo_s: float) -> float:
    """Return the share of the saturation at which a queue's p99 is about the limit.

    Kingman 1961, of an M/D/1 queue in heavy traffic: one in a hundred waits for more than ln(100) u / (2 (1 - u))
    services, where u is that share.
    """
    ratio = 2 * max(0.0, slo_s / alone_s - 1) / math.log(100)
    return min(max(ratio / (1 + ratio), 0.05), 0.95)


def alone_duration_s(alone_s: float, probe_s: float) -> float:
    """Return how many seconds it takes to measure requests one after the other: 52 of them, or fewer slow ones."""
    return min(52 * alone_s, max(8 * alone_s, probe_s / 4))


def saturation_s(waiting: int, saturation: float, probe_s: float) -> float:
    """Return how many seconds it takes to measure a saturation with so many requests waiting, and to let them end."""
    until_answered = 4 * waiting / saturation
    return max(probe_s / 2, min(5 * probe_s, until_answered)) + waiting / saturation


def probe_duration_s(rate: float, probe_s: float) -> float:
    """Return how many seconds a probe at a rate takes, its warm-up included."""
    return 1.1 * arrivals(rate, probe_s) / rate


def arrivals(rate: float, probe_s: float) -> int:
    """Return how many requests of a probe count."""
    return round(min(max(FEWEST, rate * probe_s), max(30, MOST_S * probe_s * rate)))
