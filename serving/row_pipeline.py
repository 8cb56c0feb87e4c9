"""The pipeline of rows: the rows of a request to their outputs."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from backends.base import Backend, Logits, check_outputs
from errors import InvalidInput
from explain.shapley import Coalitions, mixed_rows
from models.card import RowCard
from preprocessing.rows import CheckedRows, Row, check_rows, check_values
from preprocessing.spec import Float32Tensor
from runners.admission import Work

FEW_ROWS = 16
"""So many rows are checked on the event loop where the network is cheap; it takes 0.1 ms."""
FEW_VALUES, SHORT_TEXT = 2000, 1000
"""So many values they may hold in all, those that no card knows included, and so many characters a text of them: each
is looked at, and what is wrong with it is told."""


class RowValues(NamedTuple):
    """Rows as numbers alone: shape (n, features), float64, in the order of the card's features."""

    values: npt.NDArray[np.float64]


class MixedRows(NamedTuple):
    """The rows from which the worth of coalitions of features follows, as `explain.shapley.mixed_rows` makes them.

    Attributes:
        row: the explained row, transformed, shape (features,), float32.
        background: shape (B, features), float32.
        coalitions: shape (C, features).
    """

    row: Float32Tensor
    background: Float32Tensor
    coalitions: Coalitions


RowPayload = Sequence[Row] | RowValues | CheckedRows
"""What a pipeline of rows takes: all rows of one request, as they were sent or already checked."""


class RowOutputs(NamedTuple):
    """What the network gave for the rows of one request.

    Attributes:
        outputs: shape (n, K), float32, of the rows that are right, in order.
        problems: what is wrong with each of the other rows, by its place among all rows.
        inputs: shape (n, features), float32: the same rows as the network got them.
    """

    outputs: Logits
    problems: dict[int, InvalidInput]
    inputs: Float32Tensor


class RowPipeline:
    """Turns the rows of one request, which are one item, into outputs; a wrong row costs the others nothing."""

    def __init__(self, card: RowCard, backend: Backend) -> None:
        self._card, self._backend = card, backend

    def preprocess(self, payload: RowPayload | MixedRows) -> CheckedRows:
        """Check and transform every row; what is wrong with a row is noted in the result."""
        if isinstance(payload, MixedRows):
            return CheckedRows(mixed_rows(*payload), {})
        if isinstance(payload, CheckedRows):
            return payload
        if isinstance(payload, RowValues):
            return check_values(payload.values, self._card.input)
        return check_rows(payload, self._card.input)

    def is_slow(self, payload: RowPayload | MixedRows) -> bool:
        """Return False: rows are quick to check."""
        return False

    def is_quick(self, payload: RowPayload | object) -> bool:
        """Return whether a payload is of a few rows, and these of a few values."""
        if isinstance(payload, RowValues):
            return len(payload.values) <= FEW_ROWS
        return isinstance(payload, list) and len(payload) <= FEW_ROWS and _are_small(payload)

    def preprocess_slow(self, payload: RowPayload | MixedRows) -> CheckedRows:
        """Check and transform every row, as `preprocess` does."""
        return self.preprocess(payload)

    def infer(self, batch: Sequence[CheckedRows]) -> list[RowOutputs]:
        """Run the network on the rows of several requests at once; one result for each request."""
        rows = np.concatenate([item.tensor for item in batch])
        outputs = rows
        if len(rows):
            outputs = self._backend.run(rows).logits
            check_outputs(outputs, len(rows), self._card.columns)
        ends = np.cumsum([len(item.tensor) for item in batch])
        parts = np.split(outputs, ends[:-1])
        return [RowOutputs(part, item.problems, item.tensor) for part, item in zip(parts, batch, strict=True)]

    def count_inferences(self, item: CheckedRows) -> int:
        """Return the number of rows that are right."""
        return len(item.tensor)

    def pixels(self, item: CheckedRows) -> int:
        """Return 0: rows are no pictures."""
        return 0

    def is_evaluation(self, payload: RowPayload | MixedRows) -> bool:
        """Return whether these are the rows of an explanation."""
        return isinstance(payload, MixedRows)

    def work(self, payload: RowPayload | MixedRows) -> Work:
        """Return one item, with the number of its rows as its size."""
        if isinstance(payload, MixedRows):
            return Work(1, len(payload.background) * len(payload.coalitions))
        if isinstance(payload, CheckedRows):
            return Work(1, len(payload.tensor))
        return Work(1, len(payload.values if isinstance(payload, RowValues) else payload))

    def is_heavy(self, payload: RowPayload | MixedRows) -> bool:
        """Return False: rows are checked faster than they are handed over."""
        return False


def _are_small(rows: Sequence[Row]) -> bool:
    """Return whether rows as a client sent them hold a few values, and none that is long."""
    if not all(isinstance(row, dict) for row in rows) or sum(map(len, rows)) > FEW_VALUES:
        return False
    values = (value for row in rows for value in row.values())
    return not any(
        isinstance(value, list | dict) or (type(value) is str and len(value) > SHORT_TEXT) for value in values
    )
