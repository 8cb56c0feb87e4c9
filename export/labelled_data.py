"""Labelled data: items whose true label is known, to calibrate a variant on and to compare it with fp32.

`training` implements `LabelledDataSource` for its models; `cli` chooses the source that belongs to a model.
"""

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from backends.base import Batch
from models.card import Card, RowCard, as_row_card
from preprocessing.row_transform import transform_rows

Split = Literal["calibrate", "validate"]
Labels = npt.NDArray[np.int64]
"""Shape (N,): 1 for an item with the positive label, 0 for any other."""


class LabelledBatch(NamedTuple):
    """A few labelled items.

    Attributes:
        inputs: (n, …) float32, transformed as the card says.
        labels: (n,) int64, see `Labels`.
    """

    inputs: Batch
    labels: Labels


class LabelledData(NamedTuple):
    """Labelled items, batch by batch, since all of them may be more than the memory holds.

    Attributes:
        name: what the items are, for a report.
        positive: the card's label of the positive items.
        batches: the items; can be read once.
    """

    name: str
    positive: str
    batches: Iterator[LabelledBatch]


class LabelledDataSource(Protocol):
    """What offers labelled data for a model: a module such as `training.churn.data`."""

    NAME: str
    """What the items are, for a report."""
    POSITIVE: str
    """The card's label of the positive items."""

    def labelled(self, card: Card, split: Split, count: int) -> Iterator[LabelledBatch] | None:
        """Return `count` items in batches: the same ones at every call, and none that is in two splits.

        Args:
            card: the bundled card or an operator's own; its input section says how items are transformed.
            split: what the items are for.
            count: number of items.

        Returns:
            None if the card takes other inputs or has other labels.
        """


def has_features(card: Card, names: Sequence[str]) -> bool:
    """Return whether a card takes rows of just these features, in this order."""
    return isinstance(card, RowCard) and [feature.name for feature in card.input.features] == list(names)


def row_batches(card: Card, rows: npt.NDArray[np.float64], labels: Labels, size: int = 256) -> Iterator[LabelledBatch]:
    """Yield labelled rows in batches.

    Args:
        card: says how rows are transformed.
        rows: (N, features) float64, in the card's units.
        labels: (N,) int64.
        size: largest number of rows in a batch.

    Raises:
        InvalidInput: the card takes no rows.
    """
    row_input = as_row_card(card).input
    for start in range(0, len(rows), size):
        batch = slice(start, start + size)
        yield LabelledBatch(transform_rows(rows[batch], row_input), labels[batch])
