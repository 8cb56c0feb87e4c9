"""What the original gave for examples, as numbers and labels in the order of a card's outputs."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from errors import StoreError
from export.original.fields import Fields
from models.card import Card, is_detector, is_regressor

Kind = Literal["probabilities", "logits", "labels", "scores", "values"]
Numbers = npt.NDArray[np.float64]

SUM_TOLERANCE = 0.02
"""By how much the probabilities of an example may miss 1: they may have been rounded."""
FEWEST_DECIMALS, MOST_DECIMALS = 2, 5
"""Numbers with so many decimals are taken for rounded ones; fewer than the first are not believed in."""


@dataclass(frozen=True)
class Answers:
    """What the original gave for N examples.

    Attributes:
        kind: what the numbers are.
        names: of the examples.
        numbers: shape (N, K): probabilities or logits in the order of the card's labels, a score (K is 1), or a
            regressor's values; NaN where the original gave none. K is 0 where it gave labels alone.
        labels: the index of the label that the original itself gave, of a detector 0 or 1; None where it gave none.
        rounding: by how much the numbers may be off because they were rounded; 0.0 where they have all their digits.
    """

    kind: Kind
    names: tuple[str, ...]
    numbers: Numbers
    labels: tuple[int | None, ...]
    rounding: float = 0.0

    def reordered(self, order: Sequence[int]) -> "Answers":
        """Return the answers with output `order[i]` in place i."""
        places = {old: new for new, old in enumerate(order)}
        labels = tuple(None if label is None else places[label] for label in self.labels)
        return replace(self, numbers=self.numbers[:, list(order)] if self.numbers.size else self.numbers, labels=labels)

    def chosen(self, places: Sequence[int]) -> "Answers":
        """Return the answers of some of the examples."""
        names, labels = tuple(self.names[place] for place in places), tuple(self.labels[place] for place in places)
        return replace(self, names=names, numbers=self.numbers[list(places)], labels=labels)


class _Row(NamedTuple):
    """The numbers of one example by the index of their output, and its label."""

    numbers: Mapping[int, float]
    label: int | None


def read_answers(fields: Mapping[str, Fields], card: Card, kind: Kind | None, origin: str) -> Answers:
    """Return answers in the order of a card's outputs.

    Args:
        fields: what the original gave for each example, by its name; at least one.
        card: the model's card.
        kind: what the numbers are; None to tell it from their values.
        origin: what messages call the original's answers.

    Raises:
        StoreError: an answer is none that the card's model can give, or the numbers may be of two kinds.
    """
    rows = {}
    for name, answer in fields.items():
        if reason := unusable_reason(answer, card, kind):
            raise StoreError(f"{origin}: the answer for {name} cannot be used ({reason}).")
        rows[name] = _row(answer, card, kind)
    columns = 1 if is_detector(card) else len(card.outputs) if is_regressor(card) else len(card.labels)
    numbers = np.full((len(rows), columns), np.nan)
    for place, row in enumerate(rows.values()):
        for column, number in row.numbers.items():
            numbers[place, column] = number
    labels = tuple(row.label for row in rows.values())
    given = {next(iter(answer.numbers), None) for answer in fields.values()} - {None}
    if np.isnan(numbers).all():
        return Answers("labels", tuple(rows), np.empty((len(rows), 0)), labels)
    if np.isnan(numbers).all(axis=1).any():
        raise StoreError(f"{origin}: some of the answers have numbers and some have none. Give the same of each.")
    kind = kind or (given.pop() if len(given) == 1 else None) or _kind(numbers, card, origin)
    if kind == "probabilities":
        numbers = _as_probabilities(numbers, origin)
    if kind == "logits" and np.isnan(numbers).any():
        raise StoreError(f"{origin}: logits must be given for every label, or there is no softmax of them.")
    return Answers(kind, tuple(rows), numbers, labels, _rounding(numbers) if kind == "probabilities" else 0.0)


def unusable_reason(answer: Fields, card: Card, kind: Kind | None) -> str:
    """Return why one answer is none that the card's model can give; empty if it is one."""
    try:
        _row(answer, card, kind)
    except ValueError as error:
        return str(error)
    return ""


def _row(answer: Fields, card: Card, kind: Kind | None) -> _Row:
    if is_regressor(card):
        value = next(iter(answer.numbers.values()), answer.label if answer.plain is None else answer.plain)
        return _Row(_numbers(value, card, is_logit=False), None)
    label = None if answer.label is None else _label(answer.label, card)
    if answer.confidence is not None and not answer.numbers:
        if label is None:
            raise ValueError("a confidence needs the label that it is of")
        return _Row({label: _number(answer.confidence)}, label)
    value = next(iter(answer.numbers.values()), answer.plain)
    if value is None:
        return _Row({}, label)
    if kind == "labels" or (kind is None and not answer.numbers and _is_label(value, card)):
        return _Row({}, _label(value, card))
    return _Row(_numbers(value, card, is_logit=kind == "logits" or "logits" in answer.numbers), label)


def _is_label(value: Any, card: Card) -> bool:
    """Return whether a plain answer is a label and no number: a name, a truth value, or a whole number."""
    return isinstance(value, bool | str | int) and not (isinstance(value, str) and _is_numeric(value, card))


def _is_numeric(text: str, card: Card) -> bool:
    try:
        return text not in card.labels and not float(text).is_integer()
    except ValueError:
        return False


def _label(value: Any, card: Card) -> int:
    labels = card.labels
    if isinstance(value, list | tuple) and len(value) == 1:
        value = value[0]
    if isinstance(value, str | int) and not isinstance(value, bool) and str(value) in labels:
        return labels.index(str(value))
    if isinstance(value, str) and value.lower() in ("true", "false"):
        value = value.lower() == "true"
    if isinstance(value, bool):
        if len(labels) != 2:
            raise ValueError(f"{value} is no label of {len(labels)}")
        positive = labels.index(card.positive_label) if card.positive_label else 1
        return positive if value else 1 - positive
    try:
        index = int(value)
        if index != float(value):
            raise ValueError
    except (TypeError, ValueError, OverflowError):
        known = ", ".join(labels[:20]) + (", …" if len(labels) > 20 else "")
        raise ValueError(f"{value!r:.60} is none of the labels: {known}") from None
    if not 0 <= index < len(labels):
        raise ValueError(f"there is no label {index}; they are counted from 0 to {len(labels) - 1}")
    return index


def _numbers(value: Any, card: Card, *, is_logit: bool) -> dict[int, float]:
    """Return numbers by the index of their output."""
    names = [output.name for output in card.outputs] if is_regressor(card) else list(card.labels)
    if is_detector(card):
        errors = list(value.values()) if isinstance(value, Mapping) else value if isinstance(value, list) else [value]
        return {0: float(np.mean([_number(error) for error in errors]))}
    if isinstance(value, Mapping):
        if unknown := [name for name in value if name not in names]:
            raise ValueError(f"{unknown[0]!r:.60} is none of {', '.join(names[:20])}")
        return {names.index(name): _number(number) for name, number in value.items()}
    parts = value if isinstance(value, list | tuple) else [value]
    if len(parts) == 1 and len(names) == 2:  # what a network with one output and a sigmoid gives
        positive = names.index(card.positive_label) if card.positive_label else 1
        number = _number(parts[0])
        is_logit = is_logit or not 0 <= number <= 1
        return {positive: number, 1 - positive: 0.0 if is_logit else 1 - number}
    if len(parts) != len(names):
        raise ValueError(f"{len(parts)} numbers, but the card has {len(names)} of them: {', '.join(names[:20])}")
    return {index: _number(part) for index, part in enumerate(parts)}


def _number(value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"{value!r:.60} is no number") from None
    if not math.isfinite(number):
        raise ValueError(f"{number} is not finite")
    return number


def _kind(numbers: Numbers, card: Card, origin: str) -> Kind:
    """Return what numbers without a name are."""
    if is_detector(card):
        return "scores"
    if is_regressor(card):
        return "values"
    known = numbers[~np.isnan(numbers)]
    sums = np.nansum(numbers, axis=1)
    within, complete = bool(((known >= 0) & (known <= 1)).all()), not np.isnan(numbers).any()
    if within and (not complete or np.allclose(sums, 1, atol=SUM_TOLERANCE)):
        return "probabilities"
    if (known >= 0).all() and complete and np.allclose(sums, 100, atol=100 * SUM_TOLERANCE):
        return "probabilities"
    if not within:
        return "logits"
    raise StoreError(
        f"{origin}: the numbers lie between 0 and 1 but do not add up to 1, so they may be logits, or probabilities of "
        "labels that do not exclude one another, which no card can say. Say which they are (--expected-kind)."
    )


def _as_probabilities(numbers: Numbers, origin: str) -> Numbers:
    """Return probabilities as shares of 1, also where they came in per cent."""
    if not np.isnan(numbers).any() and np.allclose(numbers.sum(axis=1), 100, atol=100 * SUM_TOLERANCE):
        numbers = numbers / 100
    known = numbers[~np.isnan(numbers)]
    if not ((known >= 0) & (known <= 1)).all():
        raise StoreError(f"{origin}: there is a probability outside 0 to 1: {known.min():g} to {known.max():g}.")
    return numbers


def _rounding(numbers: Numbers) -> float:
    """Return by how much rounded numbers may be off; 0.0 for numbers with all their digits."""
    known = numbers[~np.isnan(numbers)]
    for decimals in range(FEWEST_DECIMALS, MOST_DECIMALS + 1):
        if np.allclose(known, np.round(known, decimals), rtol=0, atol=1e-9):
            return float(0.5 * 10.0**-decimals)
    return 0.0
