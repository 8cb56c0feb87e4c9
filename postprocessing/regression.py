"""From a row of values to what a regressor answers."""

from typing import NamedTuple

from backends.base import Logits
from models.card import RowCard


class Regression(NamedTuple):
    """What one row of a regressor's values means.

    Attributes:
        values: by name, in the order of the card's outputs, each in its unit.
    """

    values: dict[str, float]


def regress(values: Logits, card: RowCard) -> Regression:
    """Return one row of values, shape (outputs,) float32, by the names on the card."""
    return Regression({output.name: float(value) for output, value in zip(card.outputs, values, strict=True)})
