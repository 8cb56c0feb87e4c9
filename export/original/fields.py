"""The parts of one JSON answer of the original: which field holds its probabilities, its label, its score."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from errors import StoreError

NumbersField = Literal["probabilities", "logits", "scores", "values"]
FieldName = Literal["probabilities", "logits", "scores", "values", "label", "confidence"]
FIELD_NAMES: tuple[FieldName, ...] = get_args(FieldName)

KNOWN_NAMES: dict[FieldName, tuple[str, ...]] = {
    "probabilities": ("probabilities", "all_confidences", "class_probabilities", "predictions", "top"),
    "logits": ("logits",),
    "scores": ("anomaly_score", "score"),
    "values": ("values", "value"),
    "label": ("prediction", "predicted_class", "label", "class", "is_anomaly", "predicted_class_id"),
    "confidence": ("confidence",),
}
"""What services call each field, the most telling name first."""
_RANKED_LABEL, _RANKED_NUMBER = ("label", "class", "name"), ("probability", "confidence", "score")


@dataclass(frozen=True)
class Fields:
    """The parts of one answer, each as JSON holds it.

    Attributes:
        plain: an answer without named parts: a number, a text, a list of numbers, or numbers by the names of labels.
        numbers: the numbers of the answer by what they are; empty or of one entry.
        label: the label's name or index, or whether it is an anomaly.
        confidence: the probability of that label.
    """

    plain: Any = None
    numbers: Mapping[NumbersField, Any] = field(default_factory=dict)
    label: Any = None
    confidence: Any = None


def known_fields(answer: Any) -> dict[FieldName, str]:
    """Return the path of each field of an answer that services usually call so; empty for a plain answer."""
    if not isinstance(answer, Mapping):
        return {}
    paths = {}
    for name, known in KNOWN_NAMES.items():
        if path := next((word for word in known if answer.get(word) is not None), None):
            paths[name] = path
    if isinstance(answer.get(paths.get("label", "")), list | Mapping):
        paths.pop("label", None)
    return paths


def fields_of(answer: Any, paths: Mapping[FieldName, str], names: tuple[str, ...] = ()) -> Fields:
    """Return the parts of an answer.

    Args:
        answer: JSON.
        paths: where each part stands, as of `part_at`; none for an answer whose parts have names that are known, or
            that is a plain one.
        names: of the labels or values; an answer that has nothing but these is a plain one.

    Raises:
        StoreError: there is no such part; the message lists what there is.
    """
    if not paths and isinstance(answer, Mapping) and names and set(answer) <= set(names):
        return Fields(plain=answer)
    paths = paths or known_fields(answer)
    if not paths:
        return Fields(plain=_by_label(answer))
    parts = {name: part_at(answer, path) for name, path in paths.items()}
    kinds: tuple[NumbersField, ...] = get_args(NumbersField)
    numbers = next((kind for kind in kinds if kind in parts), None)
    return Fields(
        numbers={} if numbers is None else {numbers: _by_label(parts[numbers])},
        label=parts.get("label"),
        confidence=parts.get("confidence"),
    )


def part_at(answer: Any, path: str) -> Any:
    """Return the part of an answer at a path of names and places with dots between them; `.` is the whole answer.

    Raises:
        StoreError: there is no such part; the message lists what there is.
    """
    part = answer
    for step in filter(None, path.split(".")):
        if isinstance(part, Mapping) and step in part:
            part = part[step]
        elif isinstance(part, list) and step.lstrip("-").isdigit() and -len(part) <= int(step) < len(part):
            part = part[int(step)]
        else:
            there = ", ".join(map(str, part)) if isinstance(part, Mapping) else f"{type(part).__name__} {part!r:.80}"
            raise StoreError(f"The answer has no {path}: at {step!r} there is {there:.300}.")
    return part


def _by_label(numbers: Any) -> Any:
    """Return numbers by label where they come as a list of objects with a label and a number each."""
    if not isinstance(numbers, list) or not numbers or not all(isinstance(entry, Mapping) for entry in numbers):
        return numbers
    label = next((word for word in _RANKED_LABEL if word in numbers[0]), None)
    number = next((word for word in _RANKED_NUMBER if word in numbers[0]), None)
    if label is None or number is None:
        return numbers
    return {str(entry.get(label)): entry.get(number) for entry in numbers}
