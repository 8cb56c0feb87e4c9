"""How far a model's outputs are from what the original gave, as a client would see it."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from backends.base import Logits
from export.original.answers import Answers
from models.card import Card, is_detector, is_regressor
from postprocessing.classification import card_probabilities
from postprocessing.comparison import decision

Distances = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Difference:
    """How the outputs for N examples differ from the original's answers.

    Attributes:
        distance: shape (N,): in probability; of a score or value as a share of it where it is large; where the original
            gave a label alone, by how much that is less probable here than the label given here.
        here: the index of the label that is given here, of a detector 0 or 1.
        there: the index of the label that the original gave, or that follows from its numbers by the card.
        borderline: whether the label given here is so close to another one that the tolerance covers both.
        tolerance: the largest distance that agrees.
    """

    distance: Distances
    here: tuple[int, ...]
    there: tuple[int, ...]
    borderline: npt.NDArray[np.bool_]
    tolerance: float

    @property
    def flips(self) -> list[int]:
        """The places of the examples that get another label here, and not only by a hair."""
        pairs = zip(self.here, self.there, strict=True)
        return [place for place, (here, there) in enumerate(pairs) if here != there and not self.borderline[place]]

    @property
    def apart(self) -> list[int]:
        """The places of the examples that do not agree, the farthest first."""
        flips = set(self.flips)
        apart = [
            place for place in range(len(self.here)) if place in flips or not self.distance[place] <= self.tolerance
        ]
        return sorted(apart, key=lambda place: -self.distance[place])

    @property
    def largest(self) -> float:
        """The largest distance."""
        return float(self.distance.max())


def compare(outputs: Logits, answers: Answers, card: Card, tolerance: float) -> Difference:
    """Compare outputs (N, K) float32 with the original's answers.

    Args:
        outputs: what the network gives for the examples.
        answers: of the same examples, in the order of the card's outputs.
        card: says what clients see of the outputs.
        tolerance: the largest distance that agrees; what the answers lost by rounding is added to it.
    """
    tolerance += answers.rounding
    here = tuple(int(decision(row, card)) for row in outputs)
    derived = (
        [_label_of(row, answers, card) for row in answers.numbers] if answers.numbers.shape[1] else [0] * len(here)
    )
    there = tuple(label if given is None else given for given, label in zip(answers.labels, derived, strict=True))
    return Difference(
        _distance(outputs, answers, card, here, there), here, there, _margin(outputs, card) <= tolerance, tolerance
    )


def scores(outputs: Logits) -> Distances:
    """Return the scores of a detector's outputs (N, features), shape (N,)."""
    return np.asarray(outputs.astype(np.float64).mean(axis=1))


def _distance(
    outputs: Logits, answers: Answers, card: Card, here: tuple[int, ...], there: tuple[int, ...]
) -> Distances:
    numbers = answers.numbers
    if is_detector(card) and answers.kind != "labels":
        distance = np.abs(scores(outputs) - numbers[:, 0]) / np.maximum(card.threshold or 1.0, np.abs(numbers[:, 0]))
        return np.where(np.isfinite(distance), distance, np.inf)
    if is_regressor(card):
        spread = float(np.nanstd(numbers))
        scale = np.maximum(spread if 0 < spread < 1 else 1.0, np.abs(numbers))
        distance = np.nanmax(np.abs(outputs.astype(np.float64) - numbers) / scale, axis=1)
        return np.where(np.isfinite(distance), distance, np.inf)
    if answers.kind == "labels":
        if is_detector(card):
            return np.array([float(ours != theirs) for ours, theirs in zip(here, there, strict=True)])
        probabilities, rows = card_probabilities(outputs, card), np.arange(len(here))
        return np.asarray(np.abs(probabilities[rows, list(here)] - probabilities[rows, list(there)]))
    return np.asarray(np.nanmax(np.abs(card_probabilities(outputs, card) - _probabilities(answers, card)), axis=1))


def _probabilities(answers: Answers, card: Card) -> npt.NDArray[np.float64]:
    if answers.kind == "logits":
        return card_probabilities(answers.numbers.astype(np.float32), card)
    return answers.numbers


def _label_of(numbers: npt.NDArray[np.float64], answers: Answers, card: Card) -> int:
    """Return the label that follows from the original's numbers, by the card's threshold."""
    if is_regressor(card):
        return 0
    if is_detector(card):
        return int(numbers[0] > (card.threshold or 0.0))
    if answers.kind == "logits":
        return int(decision(numbers.astype(np.float32), card))
    known = np.nan_to_num(numbers, nan=-1.0)
    if card.positive_label is None or np.isnan(numbers).any():
        return int(known.argmax())
    positive = card.labels.index(card.positive_label)
    if known[positive] < (card.threshold or 0.0):
        known[positive] = -1.0
        return int(known.argmax())
    return positive


def _margin(outputs: Logits, card: Card) -> Distances:
    """Return how far each row of outputs is from another label, in probability (of a detector in thresholds)."""
    if is_regressor(card):
        return np.full(len(outputs), np.inf)
    if is_detector(card):
        threshold = card.threshold or 1.0
        return np.abs(scores(outputs) - threshold) / threshold
    probabilities = card_probabilities(outputs, card)
    if card.positive_label is not None and card.threshold is not None:
        return np.asarray(np.abs(probabilities[:, card.labels.index(card.positive_label)] - card.threshold))
    ordered = np.sort(probabilities, axis=1)
    return np.asarray(ordered[:, -1] - ordered[:, -2]) / 2  # both may move by as much
