"""Whether a machine can keep a limit, against what queueing theory says."""

import math

import numpy as np
import pytest

from loadtests.expectation import expected_p99_ms, limit_text


def share_within(wait: float, service: float, rate: float) -> float:
    """Erlang 1909, M/D/1: P(wait <= t) = (1 - u) Σ_{k <= t/D} (λ(kD - t))^k / k! · e^{-λ(kD - t)}, u = λD."""
    terms = [
        (rate * (k * service - wait)) ** k / math.factorial(k) * math.exp(-rate * (k * service - wait))
        for k in range(int(wait // service) + 1)
    ]
    return (1 - rate * service) * sum(terms)


@pytest.mark.parametrize(("alone_ms", "rate"), [(28.0, 27.3), (40.0, 5.0), (1.0, 500.0)])
def test_the_expected_latency_is_that_of_erlangs_formula(alone_ms: float, rate: float) -> None:
    steps = np.arange(0.0, 20 * alone_ms, alone_ms / 50)
    wait = next(step for step in steps if share_within(step, alone_ms, rate / 1e3) >= 0.99)
    assert expected_p99_ms(alone_ms, rate) == pytest.approx(wait + alone_ms, rel=0.05)


def test_more_requests_than_can_be_answered_wait_for_ever() -> None:
    assert expected_p99_ms(50.0, 20.0) == math.inf
    assert "one after the other" in limit_text(250, 50.0, 25.0)


def test_the_text_says_whether_the_limit_can_be_kept_and_how_to_change_it() -> None:
    quick, slow = limit_text(250, 10.0, 20.0), limit_text(250, 60.0, 14.0)
    assert "can keep the limit" in quick and "not likely to keep the limit" in slow
    suggested = float(slow.rpartition("--slo-p99-ms ")[2].rstrip('"'))
    assert expected_p99_ms(60.0, 14.0) < suggested < 2 * expected_p99_ms(60.0, 14.0)
    assert "250 ms" in quick and "20.0 pictures/s" in quick
