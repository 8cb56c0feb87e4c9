"""Exchanges made by hand, counted by hand."""

import json
import math

import pytest

from loadtests.chaos.outcomes import outcome_of, share_of_what_is_left
from loadtests.compare.load import Exchange, Target

RIGHT = {"label": "a", "probabilities": {"a": 0.75, "b": 0.25}}
BODY = json.dumps(RIGHT).encode()
TARGET = Target(1, [b""], [RIGHT], json.loads)


def at(begun_s: float, took_s: float, status: int = 200, body: bytes = BODY) -> Exchange:
    return Exchange(0, begun_s + took_s, took_s, status, body)


def test_each_request_is_counted_once_by_what_became_of_it() -> None:
    wrong = json.dumps(RIGHT | {"label": "b"}).encode()
    exchanges = [
        at(0.0, 0.1),
        at(0.1, 0.3),
        at(0.2, 0.0, 429, b"{}"),
        at(0.3, 0.0, 503, b"{}"),
        at(0.4, 0.0, 0, b"ConnectionRefusedError [Errno 111]"),
        at(0.5, 0.1, 200, wrong),
        at(0.6, 0.1, 500, b"{}"),
        at(0.7, 30.0, 0, b"TimeoutError"),
        at(0.8, 0.2, 0, b"ConnectionError the server hung up"),
    ]
    outcome = outcome_of(TARGET, exchanges)
    assert (outcome.offered, outcome.answered, outcome.refused, outcome.failed, outcome.lost) == (9, 2, 3, 2, 2)
    assert outcome.p50_ms == pytest.approx(200) and math.isnan(outcome.heal_s)
    assert outcome.reason.startswith("a wrong answer")


def test_a_fault_has_healed_when_nothing_shows_it_any_more() -> None:
    quick = [at(second, 0.05) for second in range(10)]
    assert outcome_of(TARGET, quick, 3.0).heal_s == 0.0
    waited = at(3.1, 4.0)  # sent right after the fault, answered at 7.1
    assert outcome_of(TARGET, [*quick, waited], 3.0).heal_s == pytest.approx(4.1)
    lost = at(8.0, 30.0, 0, b"TimeoutError")  # how long its client waited says nothing
    assert outcome_of(TARGET, [*quick, waited, lost], 3.0).heal_s == pytest.approx(5.0)


def test_what_the_generator_and_the_refusals_take_is_not_left_for_answers() -> None:
    # Two cores for 10 s have 20 s of processor time. The generator takes 4; of the server's 16, 15 made 150 answers.
    share = share_of_what_is_left(15.0, 20.0, 4.0, 16.0, 0.1, 10.0, 2)
    assert share == pytest.approx(15 / (20 * (20 - 4 - 1) / 20))
