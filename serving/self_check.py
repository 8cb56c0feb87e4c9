"""The self-check: before a model answers, the reference inputs packed with it must come out as they should."""

import json
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import numpy as np

from backends.base import Batch, Logits
from errors import InvalidInput, StoreError
from models.card import Card, ImageCard
from models.goldens import Golden, read_goldens
from models.package import StoredModel
from postprocessing.comparison import decision, difference
from preprocessing.prepare import prepare
from preprocessing.rows import check_rows
from runners.cores import CoreShare
from runners.pipeline import Pipeline
from runners.plan import Plan
from runners.runner import Runner
from serving.row_pipeline import RowOutputs


def golden_payload(card: Card, data: bytes) -> Any:
    """Return a golden input as a client would send it to the model: an encoded picture, or one row in a list."""
    return data if isinstance(card, ImageCard) else [json.loads(data)]


def golden_batch(card: Card, inputs: Sequence[tuple[str, bytes]]) -> Batch:
    """Return golden inputs, preprocessed as those of a client are, as one batch of shape (N, …), float32.

    Args:
        card: the model's card.
        inputs: the name and the encoded bytes of each input.

    Raises:
        StoreError: the card refuses an input.
    """
    tensors = []
    for name, data in inputs:
        try:
            if isinstance(card, ImageCard):
                tensors.append(prepare(data, card.limits, card.input).tensor)
            else:
                checked = check_rows([json.loads(data)], card.input)
                if checked.problems:
                    raise checked.problems[0]
                tensors.append(checked.tensor[0])
        except InvalidInput as error:
            raise StoreError(f"{card.name}: its card refuses the golden input {name}: {error}") from error
    return np.stack(tensors)


class SelfCheck:
    """The goldens of one stored model, and what its outputs for them must be.

    Args:
        stored: the model with its goldens.
        to_payload: makes of a golden input what the pipeline preprocesses.
        computed_by: names in messages what is being checked.
        tolerance: the largest difference that passes, where it is less than the goldens' own.

    Raises:
        StoreError: the goldens cannot be read.
    """

    def __init__(
        self,
        stored: StoredModel,
        to_payload: Callable[[bytes], Any],
        computed_by: str,
        tolerance: float = np.inf,
    ) -> None:
        self._stored, self._computed_by = stored, computed_by
        self._goldens, own_tolerance = read_goldens(stored.path)
        self._tolerance = min(own_tolerance, tolerance)
        self.payloads = [to_payload(golden.data) for golden in self._goldens]

    def one_by_one(self, runner: Runner[Any, Any, Any]) -> None:
        """Replay the goldens as the requests of a single client, one after the other.

        Raises:
            StoreError: an output is too far from its reference.
        """
        # Together they could share a batch, or be more than the queue takes.
        with runner.uncounted():
            results = [runner.submit(payload, is_admitted=True).result().value for payload in self.payloads]
        self._compare(results, "alone")

    def in_batches(self, pipeline: Pipeline[Any, Any, Any], plan: Plan, share: CoreShare) -> float:
        """Replay the goldens as the requests of many clients: in batches, on every lane at once.

        Other sessions may compute them than for a single client. Where none do, and every batch is of one item, there
        is nothing to replay.

        Returns:
            The seconds that lanes were at work, added up; 0 where nothing was replayed.

        Raises:
            StoreError: an output is too far from its reference.
        """
        if plan.max_batch == 1 and len(plan.widths) == 1:
            return 0.0
        size = plan.max_batch
        batches = [self.payloads[start : start + size] for start in range(0, len(self.payloads), size)]

        def carry(batch: Sequence[Any]) -> tuple[Sequence[Any], float]:
            started = time.monotonic()
            results = pipeline.infer([pipeline.preprocess(payload) for payload in batch])
            return results, time.monotonic() - started

        with ExitStack() as crowd, ThreadPoolExecutor(plan.lanes, "self-check") as lanes:
            for _ in range(share.available):
                crowd.enter_context(share)
            carried = list(lanes.map(carry, batches))
        self._compare([result for results, _ in carried for result in results], "in a batch")
        return sum(seconds for _, seconds in carried)

    def _compare(self, results: Sequence[Any], how: str) -> None:
        for golden, result in zip(self._goldens, results, strict=True):
            problem = self._problem(golden, _logits(result))
            if problem:
                raise StoreError(f"{self._stored.tag} on {self._computed_by}: golden {golden.name}, {how}, {problem}")

    def _problem(self, golden: Golden, logits: Logits) -> str:
        card = self._stored.card
        distance = float(difference(logits, golden.logits, card).max())
        if not distance <= self._tolerance:
            return (
                f"is {distance:.2e} away from its reference (tolerance {self._tolerance:g}). "
                f"Do not use it: `vitrine models verify {card.name}`, then import it again."
            )
        if decision(logits, card) != decision(golden.logits, card):
            return "gets another label than by its reference. Import it again on this machine."
        return ""


def _logits(result: Any) -> Logits:
    """Return the outputs of one golden, shape (K,), float32."""
    if not isinstance(result, RowOutputs):
        return np.asarray(result.logits, np.float32)
    if result.problems:
        raise StoreError(f"a golden row is not right: {result.problems[0]}")
    return np.asarray(result.outputs[0], np.float32)
