"""Two installed versions beside each other: card, files, measured quality, and answers on the goldens of both."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from export.original.examples import Example
from export.original.versus import InProcess
from models.card import Card, is_detector, is_regressor
from models.goldens import golden_inputs
from models.package import StoredModel
from postprocessing.classification import card_probabilities
from postprocessing.comparison import decision

INTERVAL = "_ci95"


class Pair(NamedTuple):
    """What two versions have under one name; None where one has nothing there."""

    name: str
    first: Any
    second: Any


class File(NamedTuple):
    """A file of a version: the first digits of its SHA-256, and its size in bytes."""

    sha256: str
    bytes: int

    def __str__(self) -> str:
        return f"{self.sha256}…, {self.bytes:,} bytes"


class GoldenAnswers(NamedTuple):
    """How two versions answer the same goldens.

    Attributes:
        compared: number of goldens that both answer.
        largest: the largest difference, in probability; of a detector in mean squared error, of a regressor in value.
        farthest: the name of the golden of that difference; empty where none was compared.
        flips: name, label by the first and label by the second version, of those that get another label.
        refused: name and reason of the goldens that a card refuses.
    """

    compared: int
    largest: float
    farthest: str
    flips: list[tuple[str, str, str]]
    refused: list[tuple[str, str]]


def card_pairs(first: Card, second: Card) -> list[Pair]:
    """Return the keys of the cards that differ, with dots between a section, a feature's name and a key."""
    values = [dict(_flat(card.model_dump(mode="json"))) for card in (first, second)]
    return _differing(values[0], values[1])


def file_pairs(first: StoredModel, second: StoredModel) -> list[Pair]:
    """Return the files that differ.

    Raises:
        StoreError: a manifest is missing or damaged.
    """
    files = []
    for stored in (first, second):
        entries = stored.manifest().items()
        files.append(
            {
                name: File(digest[:16], (stored.path / name).stat().st_size if (stored.path / name).exists() else 0)
                for name, digest in entries
            }
        )
    return _differing(files[0], files[1])


def quality_pairs(first: StoredModel, second: StoredModel) -> list[Pair]:
    """Return every measured figure of either version as text, with its 95 % interval, the same ones too."""
    texts = [dict(_figures(stored.report().get("metrics", {}))) for stored in (first, second)]
    names = dict.fromkeys([*texts[0], *texts[1]])
    return [Pair(name, texts[0].get(name), texts[1].get(name)) for name in names]


def compare_goldens(first: StoredModel, second: StoredModel) -> GoldenAnswers | str:
    """Run the goldens of both versions on both, each transformed as the version's own card says.

    Returns:
        How the answers differ; or why they cannot be compared.
    """
    cards = first.card, second.card
    if cards[0].task != cards[1].task:
        return f"one does {cards[0].task}, the other {cards[1].task}"
    names = [_output_names(card) for card in cards]
    common = [name for name in names[0] if name in names[1]]
    if not common:
        return "they have no label or value in common"
    examples = {data: Example(name, data) for stored in (first, second) for name, data in golden_inputs(stored.path)}
    sides = InProcess(first), InProcess(second)
    compared, largest, farthest = 0, 0.0, ""
    flips, refused = list[tuple[str, str, str]](), list[tuple[str, str]]()
    for example in examples.values():
        replies = [side.ask(example) for side in sides]
        if errors := [reply.error for reply in replies if reply.error]:
            refused.append((example.name, errors[0]))
            continue
        values = [
            _values(reply.answer, card, [own.index(name) for name in common])
            for reply, card, own in zip(replies, cards, names, strict=True)
        ]
        distance = float(np.abs(values[0] - values[1]).max())
        compared += 1
        if distance >= largest:
            largest, farthest = distance, example.name
        labels = [_label(reply.answer, card) for reply, card in zip(replies, cards, strict=True)]
        if labels[0] != labels[1]:
            flips.append((example.name, labels[0], labels[1]))
    for side in sides:
        side.close()
    return GoldenAnswers(compared, largest, farthest, flips, refused)


def _differing(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[Pair]:
    pairs = [Pair(name, first.get(name), second.get(name)) for name in dict.fromkeys([*first, *second])]
    return [pair for pair in pairs if pair.first != pair.second]


def _flat(values: Any, before: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the values of nested objects by their path; a list of named objects counts as an object of these names."""
    if isinstance(values, list) and values and all(isinstance(entry, Mapping) and "name" in entry for entry in values):
        values = {entry["name"]: {key: value for key, value in entry.items() if key != "name"} for entry in values}
    if isinstance(values, Mapping):
        for key, value in values.items():
            yield from _flat(value, f"{before}.{key}" if before else str(key))
    elif values is not None:
        yield before, values


def _figures(metrics: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, str]]:
    for key, value in metrics.items():
        if isinstance(value, Mapping):
            yield from _figures(value, f"{before}{key}.")
        elif not key.endswith(INTERVAL):
            interval = metrics.get(f"{key}{INTERVAL}")
            limits = f" ({interval[0]} to {interval[1]})" if isinstance(interval, list) and len(interval) == 2 else ""
            yield f"{before}{key}", f"{value}{limits}"


def _output_names(card: Card) -> Sequence[str]:
    if is_detector(card):
        return ["anomaly_score"]
    return [output.name for output in card.outputs] if is_regressor(card) else list(card.labels)


def _values(outputs: np.ndarray, card: Card, places: Sequence[int]) -> np.ndarray:
    """Return what a client sees of a row of outputs, at some places: probabilities, a score, or values; float64."""
    if is_detector(card):
        return np.array([outputs.astype(np.float64).mean()])
    values = outputs.astype(np.float64) if is_regressor(card) else card_probabilities(outputs, card)
    return np.asarray(values[list(places)])


def _label(outputs: np.ndarray, card: Card) -> str:
    return "" if is_regressor(card) else card.labels[int(decision(outputs, card))]
