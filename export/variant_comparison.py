"""A variant compared with the plain graph, which is fp32: its errors, speed and size, and whether it is good enough."""

import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from math import ceil
from typing import Any, NamedTuple

import numpy as np

from backends.base import EARLY_EXIT, AnsweredBy, Backend, Batch, Logits
from errors import StoreError
from export.labelled_data import LabelledData, Labels
from export.parity import BATCH_SIZES, label_flips, random_inputs, run_in_batches
from export.quality import Quality, measure_quality
from export.variant_report import VariantReport
from models.card import Card
from models.goldens import TOLERANCE, Golden
from postprocessing.comparison import difference
from serving.self_check import golden_batch

MAX_AUC_LOSS = 0.002
"""By how much the AUC of a variant may be below fp32's on the same items."""
RANDOM_INPUTS, MAX_FLIPPED = 64, 0.1
"""Without an AUC: the number of random inputs, and the share of them that may get another label."""
TOLERANCE_FACTOR = 1.5
"""A variant's goldens are replayed within this many times their largest difference."""
WARM_UP_ROUNDS, TIMED_RUNS = 1, 60


class ComparedModel(NamedTuple):
    """One of the two models that are compared.

    Attributes:
        backend: runs the model on one thread.
        bytes: size of its graph and weights.
    """

    backend: Backend
    bytes: int


class _OutputPair(NamedTuple):
    """Expected and actual outputs for the same inputs, (N, K) float32 each."""

    expected: Logits
    actual: Logits

    def largest_difference(self, card: Card) -> float:
        return float(difference(self.actual, self.expected, card).max())

    def flips(self, card: Card) -> list[int]:
        return label_flips(self.actual, self.expected, card)


@dataclass(frozen=True)
class _Comparison:
    """What fp32 and a variant give for the same inputs, as pairs of outputs.

    Attributes:
        alone: for the goldens one by one; expected are their references.
        batched: for the goldens in batches; expected are their references.
        random: for random inputs.
        labelled: for the labelled items; None if there are none, and `labels` are empty then.
        labels: (N,) int64, of the labelled items.
        answered_by: which part of the variant's network answered each labelled item, or else each random input; None
            if it has no early exit.
    """

    alone: _OutputPair
    batched: _OutputPair
    random: _OutputPair
    labelled: _OutputPair | None
    labels: Labels
    answered_by: Sequence[AnsweredBy] | None

    def not_finite(self) -> list[str]:
        """Return which inputs the variant has outputs for that are not finite."""
        pairs = {
            "goldens": self.alone,
            "goldens in batches": self.batched,
            "random inputs": self.random,
            "labelled items": self.labelled,
        }
        return [name for name, pair in pairs.items() if pair and not np.isfinite(pair.actual).all()]

    def flipped_goldens(self, card: Card) -> list[int]:
        """Return the indices of the goldens that get another label, alone or in a batch."""
        return sorted({*self.alone.flips(card), *self.batched.flips(card)})


def compare_with_fp32(
    card: Card,
    variant_name: str,
    goldens: Sequence[Golden],
    labelled_data: LabelledData | None,
    fp32: ComparedModel,
    variant: ComparedModel,
) -> VariantReport:
    """Compare a variant with fp32, on goldens, random inputs and labelled items.

    Args:
        card: says what clients will see of the outputs.
        variant_name: `fp16`, `int8` or `early-exit`.
        goldens: with the references of the plain graph.
        labelled_data: items to measure the AUC on, if the model has any.
        fp32: the plain model.
        variant: the model that is to be served in its place.

    Raises:
        StoreError: an output is not finite, no item is answered by the early exit, a golden gets another label, the
            AUC falls by more than `MAX_AUC_LOSS`, or without an AUC more than `MAX_FLIPPED` of the random inputs get
            another label.
    """
    inputs = golden_batch(card, golden_items(goldens))
    references = np.stack([golden.logits for golden in goldens])
    comparison = _run_both(card, inputs, references, labelled_data, fp32.backend, variant.backend)
    if not_finite := comparison.not_finite():
        raise _refusal(card, variant_name, f"its outputs for {' and '.join(not_finite)} are not finite")
    answered_by, labelled, items = comparison.answered_by, comparison.labelled, len(comparison.labels)
    if answered_by is not None and EARLY_EXIT not in answered_by:
        raise _refusal(card, variant_name, f"of {len(answered_by)} items not one is answered early")
    quality_fp32 = quality = None
    if labelled_data and labelled:
        quality_fp32, quality = (
            measure_quality(card, labelled_data.positive, outputs, comparison.labels) for outputs in labelled
        )
    flipped_goldens = [goldens[index].name for index in comparison.flipped_goldens(card)]
    if problems := list(_problems(card, comparison, flipped_goldens, quality_fp32, quality)):
        raise _refusal(card, variant_name, " and ".join(problems))
    milliseconds_fp32, milliseconds = _time_in_turns(inputs, fp32.backend, variant.backend)
    golden_difference = max(pair.largest_difference(card) for pair in (comparison.alone, comparison.batched))
    other_pairs = [pair for pair in (comparison.random, labelled) if pair]
    return VariantReport(
        variant=variant_name,
        data=labelled_data.name if labelled_data else "no labelled data, so no AUC",
        items=items,
        **_quality_fields(quality_fp32, "_fp32"),
        **_quality_fields(quality, ""),
        largest_difference_goldens=golden_difference,
        largest_difference_random=comparison.random.largest_difference(card),
        largest_difference_labelled=labelled.largest_difference(card) if labelled else None,
        inputs=len(inputs) + sum(len(pair.actual) for pair in other_pairs),
        label_flips=sum(len(pair.flips(card)) for pair in other_pairs),
        milliseconds_fp32=milliseconds_fp32,
        milliseconds=milliseconds,
        bytes_fp32=fp32.bytes,
        bytes=variant.bytes,
        tolerance=max(TOLERANCE, float(f"{TOLERANCE_FACTOR * golden_difference:.2g}")),
        answered_early=None if answered_by is None else round(answered_by.count(EARLY_EXIT) / len(answered_by), 4),
    )


def _quality_fields(quality: Quality | None, suffix: str) -> dict[str, Any]:
    return {f"{name}{suffix}": round(value, 6) for name, value in quality._asdict().items()} if quality else {}


def golden_items(goldens: Sequence[Golden]) -> list[tuple[str, bytes]]:
    """Return name and encoded bytes of each golden."""
    return [(golden.name, golden.data) for golden in goldens]


def _run_both(
    card: Card, inputs: Batch, references: Logits, labelled_data: LabelledData | None, fp32: Backend, variant: Backend
) -> _Comparison:
    alone, batched = (_OutputPair(references, run_in_batches(variant, inputs, size)) for size in BATCH_SIZES)
    noise = random_inputs(card, RANDOM_INPUTS)
    random = _OutputPair(*(run_in_batches(backend, noise, max(BATCH_SIZES)) for backend in (fp32, variant)))
    if labelled_data is None:
        return _Comparison(alone, batched, random, None, np.zeros(0, np.int64), variant.run(noise).answered_by)
    rows = [(fp32.run(batch).logits, *variant.run(batch), labels) for batch, labels in labelled_data.batches]
    expected, actual, answered_by, labels = zip(*rows, strict=True)
    labelled = _OutputPair(np.concatenate(expected), np.concatenate(actual))
    answers = None if answered_by[0] is None else list(chain.from_iterable(answered_by))
    return _Comparison(alone, batched, random, labelled, np.concatenate(labels), answers)


def _problems(
    card: Card,
    comparison: _Comparison,
    flipped_goldens: Sequence[str],
    quality_fp32: Quality | None,
    quality: Quality | None,
) -> Iterator[str]:
    """Yield why a variant is not good enough to be served."""
    if flipped_goldens:
        count, names = len(comparison.alone.actual), ", ".join(flipped_goldens)
        yield f"{len(flipped_goldens)} of {count} goldens get another label ({names})"
    if quality_fp32 and quality:
        if not quality.auc >= quality_fp32.auc - MAX_AUC_LOSS:
            fall = f"AUC falls from {quality_fp32.auc:.4f} to {quality.auc:.4f}"
            yield f"{fall} on {len(comparison.labels):,} labelled items, by more than {MAX_AUC_LOSS:g}"
    elif len(flips := comparison.random.flips(card)) > MAX_FLIPPED * RANDOM_INPUTS:
        yield f"{len(flips)} of {RANDOM_INPUTS} random inputs get another label, and there is no AUC to go by"


def _time_in_turns(inputs: Batch, *backends: Backend) -> list[float]:
    """Return the milliseconds that each backend takes for one item, alone.

    Backends take turns, so that whatever else runs on the machine slows all of them. An early exit may answer some
    inputs and not others, so a round is over all inputs, and the result is the median of the rounds.
    """
    times: list[list[float]] = [[] for _ in backends]
    for round_number in range(WARM_UP_ROUNDS + ceil(TIMED_RUNS / len(inputs))):
        for backend, milliseconds in zip(backends, times, strict=True):
            started = time.perf_counter()
            for item in inputs:
                backend.run(item[None])
            if round_number >= WARM_UP_ROUNDS:
                milliseconds.append(1e3 * (time.perf_counter() - started) / len(inputs))
    return [round(statistics.median(milliseconds), 4) for milliseconds in times]


def _refusal(card: Card, variant_name: str, reason: str) -> StoreError:
    advice = "keep fp32, or try --variant fp16" if variant_name == "int8" else "keep fp32"
    return StoreError(f"{card.name} as {variant_name} is refused: {reason}. Nothing was imported; {advice}.")
