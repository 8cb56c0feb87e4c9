"""The rounds of a comparison, in which the contestants take turns."""

from collections.abc import Callable, Sequence

from tqdm import tqdm

from loadtests.compare.figures import near_ours
from loadtests.compare.regimes import Regime
from loadtests.compare.turns import Turn

MOST = 5
"""The rounds of those whose throughput is near Vitrine's."""


def measure_in_rounds(
    regimes: Sequence[Regime], names: Sequence[str], rounds: int, measure: Callable[[int, Regime, str], Turn]
) -> list[Turn]:
    """Give every contestant a turn in every regime and round, then further ones where the result is close.

    Who comes first changes from round to round. Who is near Vitrine is decided once, after the rounds asked for:
    rounds that go on until a difference shows would find one too often.

    Args:
        regimes: what is measured.
        names: of the contestants.
        rounds: for all contestants; those near Vitrine, and Vitrine, get up to `MOST`.
        measure: measures one turn, given the number of the round, from 0, the regime, and the contestant's name.
    """
    measured, turns = list[Turn](), rounds * len(regimes) * len(names)
    with tqdm(total=turns, unit="turn") as bar:

        def take_turns(number: int, regime: Regime, contestants: Sequence[str]) -> None:
            first = number % len(contestants)
            for name in (*contestants[first:], *contestants[:first]):
                bar.set_description(f"{regime.name}, {name}")
                measured.append(measure(number, regime, name))
                bar.update()

        for number in range(rounds):
            for regime in regimes:
                take_turns(number, regime, names)
        near = [(regime, contestants) for regime in regimes if (contestants := near_ours(measured, regime.name, names))]
        bar.total = turns + max(0, MOST - rounds) * sum(len(contestants) for _, contestants in near)
        for number in range(rounds, MOST):
            for regime, contestants in near:
                take_turns(number, regime, contestants)
    return measured
