"""logits → what they say: probabilities, the label called, the most probable few."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from models.card import ModelCard

FEW_LABELS = 20
"""Up to this many labels an answer holds every probability; beyond, only the `top_k`."""


class Ranked(NamedTuple):
    """One of the most probable labels."""

    label: str
    probability: float


class Interpretation(NamedTuple):
    """What one row of logits says; probabilities are in [0, 1], in the order of the card's labels."""

    label: str
    class_id: int
    confidence: float
    probabilities: dict[str, float]
    top: tuple[Ranked, ...]
    threshold: float | None


def softmax(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Probabilities along the last axis, float64; shifted by the maximum, so that large logits do not overflow."""
    shifted = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=-1, keepdims=True))


def interpret(
    logits: npt.NDArray[np.float32], card: ModelCard, *, threshold: float | None = None, top_k: int = 1
) -> Interpretation:
    """Read one row of logits as the card says.

    Args:
        logits: shape (K,), float32.
        card: the model's card; K is the number of its labels.
        threshold: instead of the card's, for this answer; means nothing on a card without `positive_label`.
        top_k: how many of the most probable labels to list; more than there are lists all.
    """
    chances = softmax(logits)
    order = [int(index) for index in np.argsort(-chances, kind="stable")]
    if card.positive_label is None:
        called, threshold = order[0], None
    else:
        positive = card.labels.index(card.positive_label)
        threshold = card.threshold if threshold is None else threshold
        is_positive = threshold is not None and chances[positive] >= threshold
        called = positive if is_positive else next(index for index in order if index != positive)
    top = tuple(Ranked(card.labels[index], float(chances[index])) for index in order[: max(1, top_k)])
    shown = range(len(chances)) if len(chances) <= FEW_LABELS else sorted(order[: max(1, top_k)])
    probabilities = {card.labels[index]: float(chances[index]) for index in shown}
    return Interpretation(card.labels[called], called, float(chances[called]), probabilities, top, threshold)
