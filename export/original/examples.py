"""Examples that the original and the model here are both asked: pictures of a folder, rows of a file, or goldens."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from errors import StoreError
from export.rows.examples import NO_VALUE, read_examples
from models.card import Card, ImageCard, RowCard
from models.goldens import golden_inputs
from preprocessing.row_spec import Feature

PICTURES = frozenset((".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif"))
"""How the names of picture files end."""


@dataclass(frozen=True)
class Example:
    """One example.

    Attributes:
        name: of a picture its path in the folder; of a row `row N`, counted from 1; of a golden its file's name.
        data: what a client sends: an encoded picture, or a row as JSON.
        values: of a row of a file, all its values as texts, also those that the model does not take.
    """

    name: str
    data: bytes
    values: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_row(self) -> bool:
        """Whether it is a row, as JSON, and no picture."""
        return self.data[:1] == b"{"


def read_example_inputs(card: Card, source: Path | None, package: Path) -> list[Example]:
    """Return the examples for a model.

    Args:
        card: the model's card.
        source: a folder of pictures, or a file of rows (CSV with a header, or JSON); None for the goldens.
        package: the folder whose goldens are taken where there is no source.

    Raises:
        StoreError: there are none, or they cannot be read.
    """
    if source is None:
        return [Example(name, data) for name, data in golden_inputs(package)]
    return _pictures(source) if isinstance(card, ImageCard) else _rows(source, card)


def _pictures(folder: Path) -> list[Example]:
    if folder.is_file():
        return [Example(folder.name, folder.read_bytes())]
    files = [path for path in sorted(folder.rglob("*")) if path.suffix.lower() in PICTURES and path.is_file()]
    if not files:
        raise StoreError(f"{folder}: there is no picture in this folder. Names must end in one of .jpg, .png, ….")
    return [Example(path.relative_to(folder).as_posix(), path.read_bytes()) for path in files]


def _rows(file: Path, card: RowCard) -> list[Example]:
    if file.is_dir():
        raise StoreError(f"{file}: {card.name} takes rows, so its examples are a CSV or JSON file, no folder.")
    rows = read_examples(file)
    if missing := [feature.name for feature in card.input.features if feature.name not in rows[0]]:
        names = ", ".join(feature.name for feature in card.input.features)
        raise StoreError(f"{file}: the examples lack {', '.join(missing[:20])}. The model takes {names:.500}.")
    examples = []
    for number, row in enumerate(rows, 1):
        taken = {feature.name: _value(row[feature.name], feature) for feature in card.input.features}
        taken |= {entry.name: row.get(entry.name, entry.example) for entry in card.input.identifiers}
        values = {str(name): str(value) for name, value in row.items()}
        examples.append(Example(f"row {number}", json.dumps(taken).encode(), values))
    return examples


def _value(value: Any, feature: Feature) -> Any:
    """Return the value of a cell as a client sends it: null where the cell says that there is none."""
    return None if isinstance(value, str) and value in NO_VALUE and value not in feature.places else value


def names_of(examples: Sequence[Example], most: int = 5) -> str:
    """Return the first names of examples for a message."""
    return ", ".join(example.name for example in examples[:most]) + (", …" if len(examples) > most else "")
