"""Changes of what a card makes of a network's outputs: temperature, order of the labels, threshold."""

from collections.abc import Iterator

import numpy as np

from backends.base import Logits
from export.original.answers import Answers
from export.original.changes import Change, apply
from export.original.comparison import compare, scores
from models.card import Card, is_detector, is_regressor
from postprocessing.classification import card_probabilities

MOST_ORDERED = 200
"""With more labels no other order of theirs is looked for: a few examples say too little about it."""
SMALLEST = 1e-3
"""Smaller probabilities tell nothing of a temperature, since they may have been rounded."""


def output_changes(outputs: Logits, answers: Answers, card: Card, tolerance: float) -> list[Change]:
    """Return changes that make outputs (N, K) float32 agree with the original's answers, without running it anew.

    Args:
        outputs: what the network gives for the examples.
        answers: of the same examples.
        card: the card that is to be changed.
        tolerance: the largest distance that agrees.
    """
    if is_regressor(card):
        return []
    candidates = [*_thresholds(outputs, answers, card)]
    if not is_detector(card):
        candidates += [*_orders(outputs, answers, card), *_temperatures(outputs, answers, card)]
    return [change for change in candidates if agrees(outputs, answers, card, [change], tolerance)]


def agrees(outputs: Logits, answers: Answers, card: Card, changes: list[Change], tolerance: float) -> bool:
    """Return whether outputs of a network agree with the answers by a card with some changes of this module."""
    changed = apply(card, changes)
    for change in changes:
        answers = answers.reordered(change.order) if change.order else answers
    return changed is not None and not compare(outputs, answers, changed, tolerance).apart


def _temperatures(outputs: Logits, answers: Answers, card: Card) -> Iterator[Change]:
    """Yield the temperature whose softmax comes nearest to the original's, by least squares over log-probabilities."""
    if answers.kind not in ("probabilities", "logits") or len(outputs) < 2:
        return
    given = (
        card_probabilities(answers.numbers.astype(np.float32), card) if answers.kind == "logits" else answers.numbers
    )
    numerator = denominator = 0.0
    for logits, probabilities in zip(outputs.astype(np.float64), given, strict=True):
        known = np.nan_to_num(probabilities) >= SMALLEST
        if known.sum() < 2:
            continue
        here, there = logits[known], np.log(probabilities[known])
        here, there = here - here.mean(), there - there.mean()
        numerator, denominator = numerator + float(here @ here), denominator + float(here @ there)
    if denominator > 0:
        temperature = float(f"{numerator / denominator:.4g}")
        yield Change(
            "temperature", f"it divides logits by {temperature:g} before softmax", {"temperature": temperature}
        )


def _orders(outputs: Logits, answers: Answers, card: Card) -> Iterator[Change]:
    """Yield the order of the labels by which the outputs come nearest to the original's."""
    if len(card.labels) > MOST_ORDERED or np.isnan(answers.numbers).any():
        return
    order = (
        _order_by_labels(outputs, answers, card)
        if answers.kind == "labels"
        else _order_by_numbers(outputs, answers, card)
    )
    if order and order != tuple(range(len(order))):
        labels = tuple(card.labels[place] for place in order)
        yield Change("labels", "its labels stand in another order", {"labels": labels}, order)


def _order_by_numbers(outputs: Logits, answers: Answers, card: Card) -> tuple[int, ...]:
    probabilities = card_probabilities(outputs, card)
    given = (
        card_probabilities(answers.numbers.astype(np.float32), card) if answers.kind == "logits" else answers.numbers
    )
    costs = np.abs(probabilities[:, :, None] - given[:, None, :]).max(axis=0)
    order, taken = dict[int, int](), set[int]()
    places = sorted(np.ndindex(*costs.shape), key=lambda pair: (round(costs[pair], 4), pair[0] != pair[1]))
    for here, there in places:
        if here not in order and there not in taken:
            order[here] = there
            taken.add(there)
    return tuple(order[place] for place in range(len(order)))


def _order_by_labels(outputs: Logits, answers: Answers, card: Card) -> tuple[int, ...]:
    """Return the order that follows from the labels; empty if they contradict it, or leave it open."""
    difference = compare(outputs, answers, card, 0.0)
    order = dict(zip(difference.here, difference.there, strict=True))
    consistent = all(order[here] == there for here, there in zip(difference.here, difference.there, strict=True))
    others = [label for label in range(len(card.labels)) if label not in order]
    left = [label for label in range(len(card.labels)) if label not in order.values()]
    if not consistent or (others != left and len(others) > 1) or len(others) != len(left):
        return ()
    order |= dict(zip(others, left, strict=True))
    return tuple(order[label] for label in range(len(order)))


def _thresholds(outputs: Logits, answers: Answers, card: Card) -> Iterator[Change]:
    """Yield a threshold that parts the examples as the original's own labels do."""
    if len(card.labels) != 2 or any(label is None for label in answers.labels):
        return
    positive = card.labels.index(card.positive_label) if card.positive_label else 1
    values = scores(outputs) if is_detector(card) else card_probabilities(outputs, card)[:, positive]
    called = np.array([label == positive for label in answers.labels])
    if called.all() or not called.any():
        return
    low, high = float(values[~called].max()), float(values[called].min())
    if low >= high:
        return
    threshold = (low + high) / 2
    for digits in range(1, 7):
        rounded = float(f"{threshold:.{digits}g}")
        if low < rounded < high:
            values_of_card = {"positive_label": card.labels[positive], "threshold": rounded}
            cause = f"its threshold lies between {low:.4g} and {high:.4g}"
            yield Change("threshold", cause, values_of_card)
            return
