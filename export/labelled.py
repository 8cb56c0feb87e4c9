"""Data whose truth is known, which a model's folder may offer: to calibrate on, and to see if a model got worse."""

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from backends.base import Batch, Logits
from models.card import Card, RowCard
from postprocessing.interpret import softmax
from preprocessing.rows import transform_rows

Split = Literal["calibrate", "validate"]
Labels = npt.NDArray[np.int64]
Scores = npt.NDArray[np.float64]


class Items(NamedTuple):
    """Some items: inputs (n, …) float32, transformed as the card says, and labels (n,), 1 where positive, else 0."""

    inputs: Batch
    labels: Labels


class Labelled(NamedTuple):
    """Labelled items, some at a time; what they are, and the card's label of the positive ones."""

    name: str
    positive: str
    items: Iterator[Items]


class Source(Protocol):
    """The `data.py` of a model's folder. NAME says what the items are, POSITIVE is the label of the positive ones."""

    @property
    def NAME(self) -> str:  # noqa: N802 - a module's constants
        """What the items are, for a report."""
        ...

    @property
    def POSITIVE(self) -> str:  # noqa: N802
        """The card's label of the positive ones."""
        ...

    def labelled(self, card: Card, split: Split, count: int) -> Iterator[Items] | None:
        """`count` items that are always the same ones, and of which no two splits share any.

        Args:
            card: the bundled one or an operator's own; its input section is what they are transformed by.
            split: what they are for.
            count: how many, some at a time.

        Returns:
            None where the card takes other inputs or has other labels.
        """
        ...


def has_features(card: Card, names: Sequence[str]) -> bool:
    """Whether a card takes rows of just these features, in this order."""
    return isinstance(card, RowCard) and [each.name for each in card.input.features] == list(names)


def chunks(card: Card, rows: npt.NDArray[np.float64], labels: Labels, size: int = 256) -> Iterator[Items]:
    """Rows (N, features) in the card's units → items, `size` at a time."""
    if not isinstance(card, RowCard):
        raise TypeError(f"{card.name} takes no rows")
    for at in range(0, len(rows), size):
        yield Items(transform_rows(rows[at : at + size], card.input), labels[at : at + size])


def scores(outputs: Logits, card: Card, positive: str) -> Scores:
    """How sure a model is of the positive label, (N,): its probability; of a detector, the mean squared error."""
    if isinstance(card, RowCard) and card.task == "anomaly-detection":
        return np.asarray(outputs.astype(np.float64).mean(axis=1))
    return np.asarray(softmax(outputs)[:, card.labels.index(positive)])


def auc(labels: Labels, given: Scores) -> float:
    """Area under the ROC curve, [0, 1], by ranks (Hanley & McNeil 1982); NaN where one class is missing."""
    positives = int(labels.sum())
    negatives = len(labels) - positives
    if not positives or not negatives:
        return float("nan")
    _, place, count = np.unique(given, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(count) - (count - 1) / 2)[place]  # those that tie share the mean of their ranks
    return float((ranks[labels == 1].sum() - positives * (positives + 1) / 2) / (positives * negatives))
