"""The protocol between a Runner and the model it runs: what becomes of one payload, and of a batch."""

from collections.abc import Sequence
from typing import Protocol, TypeVar

from runners.admission import Work

Payload = TypeVar("Payload", contravariant=True)
Prepared = TypeVar("Prepared")
Result = TypeVar("Result", covariant=True)


class Pipeline(Protocol[Payload, Prepared, Result]):
    """The steps that turn payloads into results, and what a Runner asks of items.

    Every method may be called from several threads at once.
    """

    def preprocess(self, payload: Payload) -> Prepared:
        """Return what can be batched.

        Raises:
            VitrineError: the payload cannot be used; the error becomes the answer of this item alone.
        """

    def is_slow(self, payload: Payload) -> bool:
        """Return whether preprocessing may take so long that no lane should wait for it; quick to tell itself."""

    def preprocess_slow(self, payload: Payload) -> Prepared:
        """Return what can be batched of a slow payload, as `preprocess` does of any other."""

    def infer(self, batch: Sequence[Prepared]) -> Sequence[Result]:
        """Return one result for each item of a batch, in order."""

    def count_inferences(self, item: Prepared) -> int:
        """Return how many pictures or rows an item holds; 0 for an item in which every row was wrong."""

    def pixels(self, item: Prepared) -> int:
        """Return how many pixels the picture of an item has as it came; 0 where there is none."""

    def is_evaluation(self, payload: Payload) -> bool:
        """Return whether an explanation asks for it, as for one of many, and no client for its answer.

        Such items are inferred by themselves, and are no part of the statistics of predictions.
        """

    def work(self, payload: Payload) -> Work:
        """Return how much a payload asks of a lane, as far as can be told without looking into it."""

    def is_heavy(self, payload: Payload) -> bool:
        """Return whether preprocessing takes long enough to be worth another thread."""
