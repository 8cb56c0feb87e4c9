import math
from collections import Counter
from pathlib import Path

import pytest

from loadtests.compare.load import Load
from loadtests.compare.regimes import OVERHEAD, ROWS, Regime
from loadtests.compare.rounds import measure_in_rounds
from loadtests.compare.turns import CLIENTS, Turn

RATES = {"raw": 95.2, "vitrine": 100.0, "mosec": 104.8, "fastapi": 105.2, "litserve": 20.0}
NAMES = [*RATES]
REGIMES = [Regime(name, "tiny", Path("."), 1, (), ()) for name in (OVERHEAD, ROWS)]


def measure(number: int, regime: Regime, name: str) -> Turn:
    """A contestant whose rate at 64 clients, which decides, is known; with rows all are far behind Vitrine."""
    rate = RATES[name] if regime.name == OVERHEAD or name == "vitrine" else RATES[name] / 2
    loads = {clients: Load(rate if clients == 64 else 1.0, 1.0, 1.0, 0, 1) for clients in CLIENTS}
    return Turn(number, regime.name, name, 1.0, 1.0, loads)


def test_who_is_less_than_five_percent_from_vitrine_gets_five_rounds_and_the_others_those_asked_for() -> None:
    turns = measure_in_rounds(REGIMES, NAMES, 3, measure)
    rounds = Counter((turn.regime, turn.name) for turn in turns)
    assert {name: rounds[OVERHEAD, name] for name in NAMES} == {
        "raw": 5,
        "vitrine": 5,
        "mosec": 5,
        "fastapi": 3,
        "litserve": 3,
    }
    assert {rounds[ROWS, name] for name in NAMES} == {3}
    assert len({(turn.regime, turn.name, turn.round) for turn in turns}) == len(turns)


def test_another_contestant_comes_first_in_every_round() -> None:
    turns = [turn for turn in measure_in_rounds(REGIMES, NAMES, 3, measure) if turn.regime == OVERHEAD]
    orders = [[turn.name for turn in turns if turn.round == number] for number in range(5)]
    assert [order[0] for order in orders] == ["raw", "vitrine", "mosec", "raw", "vitrine"]
    assert all(sorted(order) == sorted(NAMES) for order in orders[:3])


@pytest.mark.parametrize(
    ("names", "rounds"), [(["raw", "mosec"], 3), (["vitrine", "fastapi"], 3), (NAMES, 5), (NAMES, 6)]
)
def test_there_are_no_further_rounds_where_nobody_is_near_or_enough_were_asked_for(
    names: list[str], rounds: int
) -> None:
    assert len(measure_in_rounds(REGIMES, names, rounds, measure)) == rounds * len(names) * len(REGIMES)


def test_who_could_not_be_measured_is_near_nobody() -> None:
    def failing(number: int, regime: Regime, name: str) -> Turn:
        return Turn(number, regime.name, name, problem="oops") if name == "vitrine" else measure(number, regime, name)

    turns = measure_in_rounds(REGIMES, NAMES, 1, failing)
    assert len(turns) == len(NAMES) * len(REGIMES)
    assert all(math.isnan(turn.start_s) == (turn.name == "vitrine") for turn in turns)
