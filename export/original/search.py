"""Which change of a card, or which pair, makes a model answer as its original did: the usual causes are tried."""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from backends.base import Logits
from backends.onnx import OnnxBackend
from errors import StoreError, VitrineError
from export.original.answers import Answers
from export.original.changes import Change, activation_changes, apply, input_changes
from export.original.comparison import Difference, compare
from export.original.examples import Example
from export.original.outputs import output_changes
from export.parity import run_in_batches
from models.card import ASSUMED_HEAD_ACTIVATION, Card, ImageCard
from models.package import GRAPH, WEIGHTS
from preprocessing.decode import decode
from preprocessing.rows import check_rows
from preprocessing.spec import Float32Tensor, UInt8Image
from preprocessing.transform import transform

PROBES = 3
"""So many of the farthest examples are tried first; what makes them agree is tried on all."""
PAIRS_S = 60.0
"""After so many seconds no further pair of changes is tried."""
BATCH_SIZE = 8


class Network:
    """What a package's network gives for examples by its card, or by another one.

    Args:
        package: the folder with the card's graph, and where there are any its weights.
        card: the card that the graph was made with.
        examples: what it is asked.
    """

    def __init__(self, package: Path, card: Card, examples: Sequence[Example]) -> None:
        self._package, self._card, self._examples = package, card, examples
        self._backend = OnnxBackend(package / GRAPH)
        self._decoded: dict[tuple[int, bool], UInt8Image] = {}
        self._networks: dict[str | None, Any] = {}

    def outputs(self, card: Card, places: Sequence[int], *, keep: bool = False) -> Logits:
        """Return the outputs for some examples, transformed as a card says, shape (N, K) float32.

        Args:
            card: says how.
            places: of the examples.
            keep: whether to keep the decoded pictures for the next call.

        Raises:
            InvalidInput: the card refuses an example.
            StoreError: the card names another activation, and PyTorch or the weights are missing.
        """
        chunks = [places[start : start + BATCH_SIZE] for start in range(0, len(places), BATCH_SIZE)]
        run = self._run_with_activation if _activation(card) != _activation(self._card) else self._run
        return np.concatenate(
            [run(np.stack([self._tensor(card, place, keep) for place in chunk]), card) for chunk in chunks]
        )

    def _tensor(self, card: Card, place: int, keep: bool) -> Float32Tensor:
        data = self._examples[place].data
        if not isinstance(card, ImageCard):
            checked = check_rows([json.loads(data)], card.input)
            if checked.problems:
                raise checked.problems[0]
            return np.asarray(checked.tensor[0], np.float32)
        key = place, card.input.orientation == "apply"
        image = self._decoded[key] if key in self._decoded else decode(data, card.limits, upright=key[1])
        if keep:
            self._decoded[key] = image
        return transform(image, card.input).tensor

    def _run(self, batch: Float32Tensor, card: Card) -> Logits:
        return run_in_batches(self._backend, batch, BATCH_SIZE)

    def _run_with_activation(self, batch: Float32Tensor, card: Card) -> Logits:
        try:
            import torch

            from models.checkpoint import load_network, read_checkpoint
        except ImportError as error:
            raise StoreError("Another activation takes PyTorch.") from error
        activation = _activation(card)
        if activation not in self._networks:
            self._networks[activation] = load_network(card, read_checkpoint(self._package / WEIGHTS).weights)
        with torch.inference_mode():
            logits: Logits = self._networks[activation](torch.from_numpy(batch)).numpy()
        return logits


@dataclass(frozen=True)
class Trial:
    """Some changes of a card, and how its answers then differ from the original's."""

    changes: tuple[Change, ...]
    difference: Difference


@dataclass
class SearchResult:
    """What the search found.

    Attributes:
        agreeing: what makes all examples agree, the nearest first.
        nearest: the single change that comes nearest for the farthest examples, where nothing agrees.
        tried: how many changes and pairs of them were tried.
        complete: whether that was all of them.
    """

    agreeing: list[Trial] = field(default_factory=list)
    nearest: Trial | None = None
    tried: int = 0
    complete: bool = True


class Search:
    """Tries changes of a card.

    Args:
        network: gives the outputs.
        card: what is changed.
        answers: what the original gave for all examples.
        tolerance: the largest difference that agrees.
    """

    def __init__(self, network: Network, card: Card, answers: Answers, tolerance: float) -> None:
        self._network, self._card, self._answers, self._tolerance = network, card, answers, tolerance
        self._all = range(len(answers.names))
        self.result = SearchResult()

    def run(self, outputs: Logits, difference: Difference) -> SearchResult:
        """Try the changes one by one, then in pairs.

        Args:
            outputs: for all examples, by the card as it is.
            difference: of these.
        """
        for change in output_changes(outputs, self._answers, self._card, self._tolerance):
            self._confirm((change,), outputs)
        apart = difference.apart
        probes = (apart + [place for place in self._all if place not in apart])[:PROBES]
        ranked = []
        for change in [*input_changes(self._card), *activation_changes(self._card)]:
            if (trial := self._try((change,), probes)) is not None:
                ranked.append(trial)
        ranked.sort(key=lambda trial: (len(trial.difference.flips), trial.difference.distance.mean()))
        self.result.nearest = ranked[0] if ranked else None
        if not self.result.agreeing:
            self._run_pairs([trial.changes[0] for trial in ranked], probes)
        self.result.agreeing.sort(key=lambda trial: (len(trial.changes), trial.difference.largest))
        return self.result

    def _run_pairs(self, ranked: Sequence[Change], probes: Sequence[int]) -> None:
        until = time.monotonic() + PAIRS_S
        pairs = sorted(combinations(range(len(ranked)), 2), key=lambda pair: pair[0] + pair[1])
        for first, second in pairs:
            changes = ranked[first], ranked[second]
            if changes[0].group == changes[1].group:
                continue
            if time.monotonic() > until:
                self.result.complete = False
                return
            trial = self._try(changes, probes[:1])
            if trial is not None and not trial.difference.apart and len(probes) > 1:
                self._try(changes, probes)
            if self.result.agreeing:
                return

    def _try(self, changes: tuple[Change, ...], probes: Sequence[int]) -> Trial | None:
        """Try changes on some examples and, where these agree, on all; None where they cannot be applied."""
        card = apply(self._card, changes)
        if card is None:
            return None
        try:
            outputs = self._network.outputs(card, probes, keep=True)
        except VitrineError:  # the card with the changes refuses an example, or there is no PyTorch
            return None
        self.result.tried += 1
        answers = self._answers.chosen(probes)
        difference = compare(outputs, answers, card, self._tolerance)
        if len(probes) > 1 or len(self._all) == 1:
            more = () if not difference.apart else output_changes(outputs, answers, card, self._tolerance)
            for further in [(), *((change,) for change in more)] if more or not difference.apart else []:
                self._confirm((*changes, *further), self._network.outputs(card, self._all))
        return Trial(changes, difference)

    def _confirm(self, changes: tuple[Change, ...], outputs: Logits) -> None:
        """Note changes that make all examples agree."""
        card, answers = apply(self._card, changes), self._answers
        for change in changes:
            answers = answers.reordered(change.order) if change.order else answers
        if card is not None:
            difference = compare(outputs, answers, card, self._tolerance)
            if not difference.apart:
                self.result.agreeing.append(Trial(changes, difference))


def _activation(card: Card) -> str | None:
    return (card.head_activation or ASSUMED_HEAD_ACTIVATION) if isinstance(card, ImageCard) else None
