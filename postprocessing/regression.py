"""From rows of values to what a regressor answers."""

from typing import NamedTuple

from backends.base import Logits


class Regressions(NamedTuple):
    """What a regressor gives for several rows.

    Attributes:
        values: shape (N, outputs), float32, in the order of the card's outputs, each in its unit.
    """

    values: Logits
