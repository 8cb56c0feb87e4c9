"""What became of the requests of one scenario, in numbers."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from loadtests.compare.load import REFUSALS, Exchange, Target, mismatch

LATE_S = 1.0
"""An answer that takes longer than this, after a fault, shows that the fault is still felt."""


@dataclass(frozen=True)
class Outcome:
    """The requests of one scenario.

    Attributes:
        offered: all that were sent.
        answered: those whose answer was right.
        refused: those that were refused in words, or found nobody who listens.
        failed: those with another answer.
        lost: those that got no answer: the server hung up, or 30 s passed.
        p50_ms: median latency of right answers.
        p99_ms: the 99th percentile of the same.
        heal_s: seconds from a fault until its last trace: the answer of a request that took over `LATE_S`, or the
            sending of one that was not answered. NaN without a fault.
        reason: what the first request that failed or was lost got.
    """

    offered: int
    answered: int
    refused: int
    failed: int
    lost: int
    p50_ms: float
    p99_ms: float
    heal_s: float = math.nan
    reason: str = ""


def outcome_of(target: Target, exchanges: Sequence[Exchange], fault_at_s: float = math.nan) -> Outcome:
    """Count exchanges by what became of them.

    Args:
        target: what is right for each request.
        exchanges: all of the scenario.
        fault_at_s: seconds from the start of the load to the fault; NaN if there is none.
    """
    kinds, traces, took, reason = {"answered": 0, "refused": 0, "failed": 0, "lost": 0}, [fault_at_s], list[float](), ""
    for exchange in exchanges:
        problem = mismatch(target, exchange)
        kind = "answered" if not problem else _kind(exchange)
        kinds[kind] += 1
        begun_s = exchange.ended_s - exchange.took_s
        if kind == "answered":
            took.append(exchange.took_s)
            if exchange.took_s > LATE_S:
                traces.append(exchange.ended_s)
        else:
            traces.append(begun_s)
            reason = reason or (problem if kind in ("failed", "lost") else "")
    p50, p99 = np.percentile(np.array(took) * 1e3, [50, 99]) if took else (math.nan, math.nan)
    heal_s = math.nan if math.isnan(fault_at_s) else max(traces) - fault_at_s
    return Outcome(len(exchanges), **kinds, p50_ms=float(p50), p99_ms=float(p99), heal_s=heal_s, reason=reason)


def _kind(exchange: Exchange) -> str:
    if exchange.status in REFUSALS or (exchange.status == 0 and exchange.body.startswith(b"ConnectionRefusedError")):
        return "refused"
    return "failed" if exchange.status else "lost"


def share_of_what_is_left(
    rate: float, best_rate: float, generator_s: float, server_s: float, answer_s: float, took_s: float, cores: int
) -> float:
    """Return the rate of right answers under overload over the best rate that the machine still had to give.

    The load generator and the refusals take processor time of the same cores, and what they take is not there for
    answers. What the refusals took is the server's processor time less that of its right answers.

    Args:
        rate: right answers a second under overload.
        best_rate: the same where nothing is refused.
        generator_s: processor seconds of the load generator.
        server_s: those of the server.
        answer_s: those of the server for one answer where nothing is refused.
        took_s: the length of the overload in seconds.
        cores: of this machine.
    """
    refusals_s = max(0.0, server_s - rate * took_s * answer_s)
    left = 1 - (generator_s + refusals_s) / (cores * took_s)
    return rate / (best_rate * left)
