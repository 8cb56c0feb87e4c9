"""How far the outputs of two computations of the same model are apart, as a client would see it."""

import numpy as np
import numpy.typing as npt

from backends.base import Logits
from models.card import Card, is_detector, is_regressor
from postprocessing.anomaly import detect
from postprocessing.classification import card_probabilities, classify


def difference(outputs: Logits, reference: Logits, card: Card) -> npt.NDArray[np.float64]:
    """Return how far outputs are from their reference, shape (…, K).

    For a classifier this is the absolute difference in probability; for a detector the difference in squared error, and
    for a regressor the difference in value, as a share of it where it is beyond ±1. What is not finite is infinitely
    far.
    """
    actual, expected = _comparable(outputs, card), _comparable(reference, card)
    distance = np.abs(actual - expected) / np.maximum(1.0, np.abs(expected))
    return np.where(np.isfinite(distance), distance, np.inf)


def agrees(outputs: Logits, reference: Logits, card: Card, tolerance: float) -> bool:
    """Return whether rows of outputs, shape (N, K), are within a tolerance of their references and decide the same."""
    return bool(difference(outputs, reference, card).max() <= tolerance) and all(
        decision(row, card) == decision(expected, card) for row, expected in zip(outputs, reference, strict=True)
    )


def decision(outputs: Logits, card: Card) -> int | bool:
    """Return what the card makes of one row of outputs: a label's index, or whether it is an anomaly.

    A regressor decides nothing, which is the same 0 for every row.
    """
    if is_regressor(card):
        return 0
    return detect(outputs, card).is_anomaly if is_detector(card) else classify(outputs, card).class_id


def _comparable(outputs: Logits, card: Card) -> npt.NDArray[np.float64]:
    if is_detector(card) or is_regressor(card):
        return outputs.astype(np.float64)
    return card_probabilities(outputs, card)
