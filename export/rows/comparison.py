"""The parity of a converted model of rows: what would be served, compared with the library that the model came from."""

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from backends.base import Logits
from backends.onnx import OnnxBackend
from errors import StoreError
from export.parity import LIMIT, ParityReport, run_in_batches
from export.rows.graph import SMALLEST_PROBABILITY
from export.rows.model import Reference, RowModel, Values
from models.card import RowCard
from postprocessing.classification import softmax
from preprocessing.rows import check_rows

BATCH_SIZES = (1, 1000)
MAX_NEAR_THRESHOLD = 0.001
"""The largest share of rows that may differ because float32 rounds a value across the threshold of a tree."""
MOST_EXAMINED = 20
"""So many of the rows that differ are examined whether they lie at a threshold."""
ROUNDINGS = (0, 1, 2, 4, 8)
"""How many of float32's steps a value is moved to find out whether it lies at a threshold."""
TIE = 1e-4
"""Labels whose probabilities are this close are as good as equal."""


class Compared(NamedTuple):
    """What a comparison gave for its rows.

    Attributes:
        expected: what the original gives, shape (N, K): probabilities or values.
        distance: how far the served answer is from it, shape (N,), for values as a share where they are large.
    """

    expected: Reference
    distance: npt.NDArray[np.float64]


class Comparison:
    """Compares rows of a model with the graph that would be served.

    Args:
        model: the original.
        card: says how rows are transformed.
        backend: runs the graph.
    """

    def __init__(self, model: RowModel, card: RowCard, backend: OnnxBackend) -> None:
        self.model, self._card, self._backend = model, card, backend
        self._scale = 1.0

    def scale_by(self, rows: Values) -> float:
        """Take the spread of a regressor's values as the scale of differences where it is below 1, and return it."""
        spread = float(np.std(self.model.predict(rows)))
        self._scale = spread if not self.model.labels and 0 < spread < 1 else 1.0
        return self._scale

    def compare(self, rows: Values, batch_size: int = BATCH_SIZES[-1]) -> Compared:
        """Compare rows, shape (N, features), that are run `batch_size` at a time."""
        expected = self.model.predict(rows)
        return Compared(expected, self._distance(self.serve(rows, batch_size), expected))

    def serve(self, rows: Values, batch_size: int = BATCH_SIZES[-1]) -> Reference:
        """Return what would be served for rows, shape (N, K): probabilities or values.

        Raises:
            InvalidInput: the card refuses a row.
        """
        names = [feature.name for feature in self._card.input.features]
        checked = check_rows([dict(zip(names, row, strict=True)) for row in rows.tolist()], self._card.input)
        if checked.problems:
            raise next(iter(checked.problems.values()))
        outputs = run_in_batches(self._backend, checked.tensor, batch_size)
        return softmax(outputs) if self.model.labels else outputs.astype(np.float64)

    def report(self, rows: Values) -> ParityReport:
        """Compare rows alone and in batches.

        Raises:
            StoreError: a row differs by more than `LIMIT` and does not lie at a threshold, too many do, or the
                original's own label is not its most probable one.
        """
        largest, near = 0.0, set[int]()
        for size in BATCH_SIZES:
            expected, distance = self.compare(rows, size)
            apart = np.flatnonzero(~(distance <= LIMIT))
            self._check_apart(rows, distance, apart)
            near |= set(apart.tolist())
            largest = max(largest, float(np.delete(distance, apart).max(initial=0.0)))
        flips = self._label_flips(rows, expected)
        served = f"{type(self._backend).__name__} ({self._backend.device})"
        report = ParityReport(self.model.name, served, len(rows), BATCH_SIZES, largest, flips)
        return replace(report, near_threshold=len(near))

    def is_clear(self, expected: Reference) -> npt.NDArray[np.bool_]:
        """Return which rows, by what the original gives for them, have one label that is more probable than others."""
        if not self.model.labels:
            return np.ones(len(expected), bool)
        ordered = np.sort(expected, axis=1)
        return np.asarray(ordered[:, -1] - ordered[:, -2] > TIE)

    def logits(self, expected: Reference) -> Logits:
        """Return the outputs that a graph should have given for what the original gives."""
        outputs = np.log(np.maximum(expected, SMALLEST_PROBABILITY)) if self.model.labels else expected
        return outputs.astype(np.float32)

    def _distance(self, served: Reference, expected: Reference) -> npt.NDArray[np.float64]:
        distance = np.abs(served - expected) / np.maximum(self._scale, np.abs(expected))
        if self.model.labels:
            distance = np.abs(served - expected)
        return np.asarray(np.where(np.isfinite(distance), distance, np.inf).max(axis=1))

    def _check_apart(self, rows: Values, distance: npt.NDArray[np.float64], apart: npt.NDArray[np.int64]) -> None:
        how_many = f"{len(apart)} of {len(rows)} rows"
        for index in apart[:MOST_EXAMINED]:
            if not self._lies_at_threshold(rows[index]):
                values = dict(zip((feature.name for feature in self.model.features), rows[index], strict=True))
                raise StoreError(
                    f"What would be served differs from {self.model.name} by up to {distance.max():.2e} "
                    f"(limit {LIMIT:g}) on {how_many}, such as {values!r:.500}. The converter does not carry this "
                    "model over; nothing was imported. Leave out what is unusual in it, or export a graph yourself."
                )
        if len(apart) > MAX_NEAR_THRESHOLD * len(rows):
            raise StoreError(
                f"{self.model.name}: on {how_many} float32, in which serving computes, rounds a value across the "
                f"threshold of a tree; at most {MAX_NEAR_THRESHOLD:.1%} may. Trees need no scaling: fit the pipeline "
                "again without StandardScaler or the like before them. Nothing was imported."
            )

    def _lies_at_threshold(self, row: Values) -> bool:
        """Return whether the original itself gives what would be served, a few roundings of float32 away from a row."""
        served, near = self.serve(row[None]), [row]
        numbers = [
            place
            for place, feature in enumerate(self.model.features)
            if feature.categories is None and row[place] is not None
        ]
        for steps in ROUNDINGS:
            for direction in (-np.inf, np.inf):
                moved = row.copy()
                for place in numbers:
                    alone = row.copy()
                    moved[place] = alone[place] = _moved(row[place], steps, direction)
                    near.append(alone)
                near.append(moved)
        return bool((self._distance(served, self.model.predict(np.array(near, object))) <= LIMIT).any())

    def _label_flips(self, rows: Values, expected: Reference) -> int:
        """Return how many rows with one clearly most probable label get another than the original's own."""
        if self.model.decide is None:
            return 0
        decided, served = self.model.decide(rows), self.serve(rows)
        clear = self.is_clear(expected)
        if other := int((clear & (expected.argmax(axis=1) != decided)).sum()):
            raise StoreError(
                f"{self.model.name}: its own predict() gives another label than its most probable one on {other} of "
                f"{len(rows)} rows, so that what is served would differ. SVC(probability=True) does so, and models "
                "with a threshold of their own: bring it inside a CalibratedClassifierCV, or without its threshold."
            )
        return int((clear & (served.argmax(axis=1) != decided)).sum())


def _moved(value: float, steps: int, direction: float) -> float:
    """Return a number rounded to float32 and moved by some of its steps."""
    rounded = np.float32(value)
    for _ in range(steps):
        rounded = np.nextafter(rounded, np.float32(direction))
    return float(rounded)
