"""A model of rows as it was read from its file, before it is converted."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnx

Values = npt.NDArray[np.object_]
"""Rows (N, features) as a client sends them: numbers, texts, and None for a missing value."""

Reference = npt.NDArray[np.float64]
"""What the original gives for rows: probabilities (N, labels), or values (N, outputs)."""


@dataclass
class FeatureFacts:
    """What a model knows about one of its features.

    Attributes:
        name: what the model, or else the examples, call it.
        categories: the texts or numbers that an encoder was fitted on; None for a feature of any number.
        other_categories: whether the encoder takes values beside the categories.
        null: what the encoder is given for a missing value.
    """

    name: str
    categories: list[Any] | None = None
    other_categories: bool = False
    null: Any = float("nan")

    @property
    def is_text(self) -> bool:
        """Whether the values are texts."""
        return self.categories is not None and all(isinstance(category, str) for category in self.categories)


@dataclass
class RowModel:
    """A fitted model of rows.

    Attributes:
        name: library, version and class, for reports.
        task: what its card says.
        features: in the order in which the model takes them.
        labels: of a classifier, in the order of its probabilities.
        outputs: the number of values that a regressor gives.
        predict: gives the probabilities or values of rows.
        decide: gives the index of the label that the original itself predicts, shape (N,); None where the most probable
            label is meant.
        convert: gives the converter's graph, with one input (N, features) or one for each feature.
    """

    name: str
    task: Literal["tabular-classification", "tabular-regression"]
    features: list[FeatureFacts]
    labels: Sequence[str]
    outputs: int
    predict: Callable[[Values], Reference]
    decide: Callable[[Values], npt.NDArray[np.int64]] | None
    convert: Callable[[], onnx.ModelProto]


def as_numbers(values: Values) -> npt.NDArray[np.float64]:
    """Return rows of numbers, (N, features) float64, with NaN for what is missing."""
    return np.array([[np.nan if value is None else value for value in row] for row in values], np.float64)
