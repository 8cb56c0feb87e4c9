"""What became of the requests of one scenario, before a fault and from then on."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from loadtests.chaos.outcomes import Outcome, outcome_of
from loadtests.compare.load import Exchange, Target, mismatch

GONE = (0, 502, 503, 504)
"""What a client gets whose request was in the hands of a replica that is gone, and cannot be sent again.

Where the connection was used before, HAProxy hangs up (0) and leaves it to the client to try again; else it is a 502.
"""


@dataclass(frozen=True)
class Scenario:
    """One line of the table.

    Attributes:
        name: what was done.
        model: that was asked.
        outcome: of the requests that a buffer of the balancer holds.
        p99_before_ms: the 99th percentile of the latency of right answers that came before the fault.
        p99_after_ms: the same of those that came after it.
        left_s: seconds from the fault until the balancer sent the replica nothing more; NaN if it went on.
        large: uploads that no buffer holds.
        large_gone: those of them that were answered with one of `GONE`.
        large_answered: those of them that were answered right.
        large_reason: what the first of them that was not answered right got.
        sent_again: requests that the balancer sent a second time.
        refused: requests that got a 429.
        refused_by_replicas: the 429s that the replicas gave, as they counted them themselves, in an overload.
    """

    name: str
    model: str
    outcome: Outcome
    p99_before_ms: float = math.nan
    p99_after_ms: float = math.nan
    left_s: float = math.nan
    large: int = 0
    large_gone: int = 0
    large_answered: int = 0
    large_reason: str = ""
    sent_again: int = 0
    refused: int = 0
    refused_by_replicas: int = 0


def scenario(
    name: str,
    model: str,
    target: Target,
    exchanges: Sequence[Exchange],
    fault_at_s: float,
    *,
    left_s: float = math.nan,
    large: tuple[Target, Sequence[Exchange]] | None = None,
    sent_again: int = 0,
) -> Scenario:
    """Count what became of the requests.

    Args:
        name: what was done.
        model: that was asked.
        target: what is right for each request.
        exchanges: of requests that a buffer holds.
        fault_at_s: seconds from the start of the load to the fault.
        left_s: seconds until the balancer sent the replica nothing more.
        large: what is right for uploads that no buffer holds, and what became of them.
        sent_again: requests that the balancer sent a second time.
    """
    before = [exchange for exchange in exchanges if exchange.ended_s < fault_at_s]
    after = [exchange for exchange in exchanges if exchange.ended_s >= fault_at_s]
    uploads = large[1] if large else ()
    problems = [mismatch(large[0], exchange) for exchange in uploads] if large else []
    return Scenario(
        name,
        model,
        outcome_of(target, exchanges, fault_at_s),
        p99_before_ms=_p99_ms(target, before),
        p99_after_ms=_p99_ms(target, after),
        left_s=left_s,
        large=len(uploads),
        large_gone=sum(exchange.status in GONE for exchange in uploads),
        large_answered=problems.count(""),
        large_reason=next(filter(None, problems), ""),
        sent_again=sent_again,
        refused=sum(exchange.status == 429 for exchange in exchanges),
    )


def _p99_ms(target: Target, exchanges: Sequence[Exchange]) -> float:
    took = [exchange.took_s for exchange in exchanges if not mismatch(target, exchange)]
    return float(np.percentile(np.array(took) * 1e3, 99)) if took else math.nan
