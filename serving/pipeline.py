"""The line from payload to outputs, one for pictures and one for rows: what a lane does with its items."""

import json
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from backends.base import AnsweredBy, Backend, Batch, Logits
from errors import InvalidInput, StoreError
from models.card import Card, ImageCard, RowCard
from preprocessing.decode import check_size, decode
from preprocessing.rows import CheckedRows, Row, check_rows, check_values
from preprocessing.spec import Float32Tensor, UInt8Image
from preprocessing.transform import Transformed, transform

P = TypeVar("P", contravariant=True)  # what is submitted
X = TypeVar("X")  # what `admit` makes of it
R = TypeVar("R")  # what comes back


class Pixels(NamedTuple):
    """A picture that is decoded already: RGB, (H, W, 3) uint8."""

    image: UInt8Image


class Ready(NamedTuple):
    """A picture that is transformed already: (3, h, w) float32, as `transform` gives it."""

    tensor: Float32Tensor


Picture = bytes | Pixels | Ready
"""What the lane of an image model takes; bytes are an encoded file."""
EARLY: AnsweredBy = "early_exit"
LATE: AnsweredBy = "network"
HEAVY = 32 * 1024
"""Bytes of an encoded picture from which on decoding it takes more than handing it to another thread: a millisecond."""
FARTHEST = 1e3
"""Largest magnitude in a tensor that a client transformed itself; an 8-bit picture's stay under about 20."""


class Values(NamedTuple):
    """Rows as numbers alone: (n, features) float64, in the order of the card's features."""

    values: npt.NDArray[np.float64]


class Inferred(NamedTuple):
    """One picture's logits, shape (K,) float32, and its sharpness where the card asks for it.

    answered_by: who gave the logits; None of a model without an early exit.
    """

    logits: npt.NDArray[np.float32]
    sharpness: float | None
    answered_by: AnsweredBy | None = None


class InferredRows(NamedTuple):
    """The outputs of the rows that were right, (n, K) float32 in order, and what is wrong with the others, by place."""

    outputs: npt.NDArray[np.float32]
    problems: dict[int, InvalidInput]


class Line(Protocol[P, X, R]):
    """How items of one model get ready, are run together, and come apart again."""

    def admit(self, payload: P) -> X:
        """Decode, check and transform one payload; InvalidInput is its answer."""
        ...

    def run(self, backend: Backend, items: Sequence[X]) -> list[R]:
        """Infer what was admitted, as one batch; one result an item."""
        ...

    def weigh(self, item: X) -> int:
        """How many inferences what was admitted asks for."""
        ...

    def heavy(self, payload: P) -> bool:
        """Whether `admit` takes long enough of it for a thread of its own."""
        ...

    def golden(self, data: bytes) -> Any:
        """A golden input as the payload that `admit` takes."""
        ...

    def check(self, item: X) -> None:
        """Raise the InvalidInput that what was admitted carries, if it does."""
        ...

    def batch(self, items: Sequence[X]) -> Batch:
        """The tensor of what was admitted."""
        ...

    def outputs(self, result: R) -> Logits:
        """What the network gave for one golden, shape (K,)."""
        ...


class PictureLine:
    """Picture → (3, h, w) → logits."""

    def __init__(self, card: ImageCard) -> None:
        self._card = card

    def admit(self, payload: Picture) -> Transformed:
        """See `Line`."""
        if isinstance(payload, Ready):
            return Transformed(self._right(payload.tensor), None)
        if isinstance(payload, Pixels):
            height, width, _ = payload.image.shape
            check_size(width, height, self._card.limits)
            return transform(payload.image, self._card.input)
        return transform(decode(payload, self._card.limits), self._card.input)

    def _right(self, tensor: Float32Tensor) -> Float32Tensor:
        """A client's own tensor, if the network can be given it."""
        wanted = (3, *self._card.input.size)
        if tensor.shape != wanted:
            raise InvalidInput(f"The tensor has shape {list(tensor.shape)}; {self._card.name} takes {list(wanted)}.")
        if not (np.abs(tensor) <= FARTHEST).all():  # NaN is not
            raise InvalidInput(
                f"The tensor has values that are not finite, or beyond ±{FARTHEST:g}: transform the picture as the "
                "card says, or send it as it is."
            )
        return tensor

    def check(self, item: Transformed) -> None:
        """See `Line`; what is wrong with a picture is raised by `admit`."""

    def batch(self, items: Sequence[Transformed]) -> Batch:
        """See `Line`."""
        return np.stack([item.tensor for item in items])

    def run(self, backend: Backend, items: Sequence[Transformed]) -> list[Inferred]:
        """See `Line`."""
        outputs, answered_by = backend.run(self.batch(items))
        logits = _checked(outputs, len(items), len(self._card.labels))
        by: Sequence[AnsweredBy | None] = answered_by or [None] * len(items)
        return [Inferred(row, item.sharpness, who) for row, item, who in zip(logits, items, by, strict=True)]

    def weigh(self, item: Transformed) -> int:
        """See `Line`."""
        return 1

    def heavy(self, payload: Picture) -> bool:
        """See `Line`."""
        return isinstance(payload, Pixels) or (isinstance(payload, bytes) and len(payload) > HEAVY)

    def golden(self, data: bytes) -> bytes:
        """See `Line`."""
        return data

    def outputs(self, result: Inferred) -> Logits:
        """See `Line`."""
        return result.logits


class RowLine:
    """A request's rows, one or a thousand, are one item: (n, features) → outputs."""

    def __init__(self, card: RowCard) -> None:
        self._card = card
        self._outputs = len(card.labels) if card.task == "tabular-classification" else len(card.input.features)

    def admit(self, payload: Sequence[Row] | Values) -> CheckedRows:
        """See `Line`; a wrong row is a problem of the result, not of its neighbours."""
        if isinstance(payload, Values):
            return check_values(payload.values, self._card.input)
        return check_rows(payload, self._card.input)

    def check(self, item: CheckedRows) -> None:
        """See `Line`."""
        if item.problems:
            raise item.problems[0]

    def batch(self, items: Sequence[CheckedRows]) -> Batch:
        """See `Line`."""
        return np.concatenate([item.tensor for item in items])

    def run(self, backend: Backend, items: Sequence[CheckedRows]) -> list[InferredRows]:
        """See `Line`."""
        batch = self.batch(items)
        outputs = _checked(backend.run(batch).logits, len(batch), self._outputs) if len(batch) else batch
        ends = np.cumsum([len(item.tensor) for item in items])
        parts = np.split(outputs, ends[:-1])
        return [InferredRows(part, item.problems) for part, item in zip(parts, items, strict=True)]

    def weigh(self, item: CheckedRows) -> int:
        """See `Line`."""
        return len(item.tensor)

    def heavy(self, payload: Sequence[Row] | Values) -> bool:
        """See `Line`."""
        return False

    def golden(self, data: bytes) -> list[Row]:
        """See `Line`."""
        return [json.loads(data)]

    def outputs(self, result: InferredRows) -> Logits:
        """See `Line`."""
        if result.problems:
            raise StoreError(f"a golden row is not right: {result.problems[0]}")
        return np.asarray(result.outputs[0], np.float32)


def line_of(card: Card) -> Line[Any, Any, Any]:
    """The line of a card's kind of input."""
    return PictureLine(card) if isinstance(card, ImageCard) else RowLine(card)


def _checked(outputs: Logits, rows: int, columns: int) -> Logits:
    if outputs.shape != (rows, columns) or not np.isfinite(outputs).all():
        raise RuntimeError(f"the backend gave outputs of shape {outputs.shape}, or some that are not finite")
    return outputs
