"""The card of a model of rows, written from what the model knows about itself."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import tomlkit

from export.rows.model import RowModel, Values


@dataclass(frozen=True)
class CardText:
    """What a card says beside what the model knows.

    Attributes:
        name: the model's name.
        source: the name of the file that the model came from.
        outputs: name and unit of each value of a regressor; fewer than it gives are filled up.
    """

    name: str
    source: str
    outputs: Sequence[tuple[str, str]] = ()

    def write(self, model: RowModel, rows: Values, missing: Sequence[int], others: Sequence[int]) -> str:
        """Return the card as TOML.

        Args:
            model: the model.
            rows: valid rows, shape (N, features), whose first values become the features' examples.
            missing: the places of the features that may be missing.
            others: the places of the features that take other values than their categories.
        """
        kind = model.name.rpartition(", ")[2]
        card: dict[str, Any] = {
            "name": self.name,
            "title": self.name.replace("-", " ").capitalize(),
            "description": f"What {kind} makes of {len(model.features)} features of a row.",
            "task": model.task,
            "architecture": "onnx",
            "labels": list(model.labels),
            "licence": "that of your model",
            "data": f"your own model ({self.source}, {model.name})",
        }
        if not model.labels:
            card["outputs"] = [
                {"name": name} | ({"unit": unit} if unit else {}) for name, unit in self._named_outputs(model.outputs)
            ]
        features = []
        for place, feature in enumerate(model.features):
            entry: dict[str, Any] = {"name": feature.name, "example": _example(rows[:, place], feature.categories)}
            if feature.categories is not None:
                entry["categories"] = list(feature.categories)
            if place in others:
                entry["other_categories"] = True
            if place in missing:
                entry["missing"] = True
            features.append(entry)
        card["input"] = {"kind": "row", "features": features}
        return tomlkit.dumps(card)

    def _named_outputs(self, count: int) -> list[tuple[str, str]]:
        default = [("value", "")] if count == 1 else [(f"value_{place}", "") for place in range(count)]
        return [*self.outputs, *default[len(self.outputs) :]]


def _example(column: Values, categories: Sequence[Any] | None) -> Any:
    known = [value for value in column.tolist() if value is not None and (categories is None or value in categories)]
    return known[0] if known else (categories[0] if categories else 0.0)
