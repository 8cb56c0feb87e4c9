"""The sections of a card about rows, its input and its limits, which `check_rows` and `transform_rows` follow."""

from functools import cached_property
from typing import Annotated, Literal, Self

import numpy as np
from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from preprocessing.spec import Frozen

LARGEST_FLOAT32 = float(np.finfo(np.float32).max)
"""The limit of a number that no card limits more: what float32 can hold."""
OTHER_CATEGORY, MISSING_CATEGORY = -1.0, -2.0
"""What the network gets in place of a category's place, for a value beside the categories and for null."""


class Log1p(Frozen):
    """A step that replaces x by ln(1 + x)."""

    kind: Literal["log1p"]


class Clip(Frozen):
    """A step that replaces x by the nearest value in [low, high]."""

    kind: Literal["clip"]
    low: float
    high: float

    @model_validator(mode="after")
    def _range_holds(self) -> Self:
        if self.low >= self.high:
            raise ValueError(f"low {self.low:g} is not below high {self.high:g}")
        return self


class Standardise(Frozen):
    """A step that replaces x by (x - mean) / std."""

    kind: Literal["standardise"]
    mean: float
    std: PositiveFloat


Step = Annotated[Log1p | Clip | Standardise, Field(discriminator="kind")]
Key = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=60)]


FeatureName = Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f]+$", max_length=200)]
"""A feature may be called what the tool that trained the model called it."""


class Feature(Frozen):
    """One value of a row: a number, or one of a few categories.

    Attributes:
        name: its key in the row.
        unit: its unit, for messages and documentation.
        description: for documentation.
        low: the lowest number that is accepted.
        high: the highest number that is accepted.
        categories: the texts or numbers that are accepted; the network gets the place of the value among them, from 0.
            None for a feature of any number.
        other_categories: whether values beside the categories are accepted; the network gets `OTHER_CATEGORY` for them.
        missing: whether null is accepted; the network gets NaN for it, or `MISSING_CATEGORY`.
        example: a value for documentation.
        steps: what is applied to a number, in this order.
    """

    name: FeatureName
    unit: str = ""
    description: str = ""
    low: float = -LARGEST_FLOAT32
    high: float = LARGEST_FLOAT32
    categories: Annotated[tuple[str | float, ...], Field(min_length=1)] | None = None
    other_categories: bool = False
    missing: bool = False
    example: float | str
    steps: tuple[Step, ...] = ()

    @cached_property
    def places(self) -> dict[str | float, int]:
        """The place of each category, from 0; empty for a feature of any number."""
        return {category: place for place, category in enumerate(self.categories or ())}

    @model_validator(mode="after")
    def _values_fit(self) -> Self:
        if self.categories is None:
            self._check_number()
        else:
            self._check_categories(self.categories)
        return self

    def _check_number(self) -> None:
        if isinstance(self.example, str) or not self.low <= self.example <= self.high:
            raise ValueError(f"example {self.example} is not from low {self.low:g} to high {self.high:g}")
        if self.low <= -1 and self.steps and self.steps[0].kind == "log1p":
            raise ValueError(f"log1p needs values above -1, but low is {self.low:g}")
        if self.other_categories:
            raise ValueError("other_categories goes with categories")

    def _check_categories(self, categories: tuple[str | float, ...]) -> None:
        if len(set(categories)) != len(categories):
            raise ValueError("categories: each may stand only once")
        if self.example not in categories:
            raise ValueError(f"example {self.example!r} is not one of the categories")
        if self.steps or (self.low, self.high) != (-LARGEST_FLOAT32, LARGEST_FLOAT32):
            raise ValueError("categories go without low, high and steps, which are of numbers")


class Identifier(Frozen):
    """A value that says which row this is. It is checked and repeated in the answer; the network never gets it.

    Attributes:
        name: its key in the row.
        kind: `text` has 1 to `max_length` characters; `past-time` is a time that is not in the future: ISO 8601, UTC if
            it names no zone, or seconds or milliseconds since 1970.
        description: for documentation.
        max_length: of a text, in characters.
        example: a value for documentation.
    """

    name: Key
    kind: Literal["text", "past-time"]
    description: str = ""
    max_length: PositiveInt = 50
    example: str


REQUEST_FIELDS = frozenset(("features", "samples", "readings", "rows"))
"""Fields of requests, whose names no feature or identifier may have."""
ANSWER_FIELDS = frozenset(
    (
        *("model", "version", "prediction", "predicted_class_id", "confidence", "probabilities", "top", "threshold"),
        *("warnings", "device", "inference_time_ms", "request_id", "is_anomaly", "anomaly_score", "contributions"),
        *("values", "units", "error", "explanation", "explanations", "explanation_error"),
    )
)
"""Fields of answers, whose names no identifier may have, since it stands beside them."""


class RowInput(Frozen):
    """How a row of named values is transformed into the model's input.

    Attributes:
        kind: distinguishes this section from that of images.
        features: the values that the network gets, in this order.
        identifiers: the values that only identify a row.
        unknown_fields: whether a row may hold other values too, which are ignored.
    """

    kind: Literal["row"]
    features: Annotated[tuple[Feature, ...], Field(min_length=1)]
    identifiers: tuple[Identifier, ...] = ()
    unknown_fields: Literal["refuse", "ignore"] = "refuse"

    @property
    def entries(self) -> tuple[Feature | Identifier, ...]:
        """Everything that a row holds: its features, then its identifiers."""
        return (*self.features, *self.identifiers)

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        names = [entry.name for entry in self.entries]
        if len(set(names)) != len(names):
            raise ValueError("features and identifiers: each name may stand only once")
        identifiers = [entry.name for entry in self.identifiers]
        if taken := REQUEST_FIELDS.intersection(names) | ANSWER_FIELDS.intersection(identifiers):
            raise ValueError(f"{', '.join(sorted(taken))}: names of fields of requests or answers; choose another")
        return self


class RowLimits(Frozen):
    """The limits beyond which a request with rows is refused before any work is spent on it.

    Attributes:
        max_bytes: of a request.
        max_items: rows in a request.
    """

    max_bytes: PositiveInt = 2 * 2**20
    max_items: PositiveInt = 1000
