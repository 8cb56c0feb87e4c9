"""Requests of a scenario, counted by hand."""

import json

import pytest

from loadtests.compare.load import Exchange, Target
from loadtests.fleet.outcomes import scenario

RIGHT = {"label": "a", "probabilities": {"a": 0.75, "b": 0.25}}
BODY = json.dumps(RIGHT).encode()
TARGET = Target(1, [b""], [RIGHT], json.loads)


def at(begun_s: float, took_s: float, status: int = 200) -> Exchange:
    return Exchange(0, begun_s + took_s, took_s, status, BODY if status == 200 else b"{}")


def test_latencies_are_told_apart_by_the_fault_and_uploads_by_what_they_got() -> None:
    small = [at(0.0, 0.1), at(1.0, 0.2), at(3.9, 2.1), at(5.0, 0.4), at(6.0, 0.0, 429), at(7.0, 0.0, 0)]
    large = [at(0.0, 0.5), at(3.9, 2.5, 502), at(4.0, 2.5, 0), at(5.0, 0.0, 429)]
    row = scenario("killed", "m", TARGET, small, 4.0, left_s=0.5, large=(TARGET, large), sent_again=3)
    assert (row.outcome.offered, row.outcome.answered, row.refused, row.outcome.lost) == (6, 4, 1, 1)
    assert row.p99_before_ms == pytest.approx(199) and row.p99_after_ms == pytest.approx(2083)
    assert row.outcome.heal_s == pytest.approx(3.0)  # the last that was not answered was sent at 7
    assert (row.large, row.large_answered, row.large_gone) == (4, 1, 2)
    assert row.large_reason == "502: {}" and (row.left_s, row.sent_again) == (0.5, 3)
