"""The gate before a variant, and what it reports: speed and error beside the plain graph, which is fp32."""

import json
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from math import ceil
from pathlib import Path
from typing import NamedTuple

import numpy as np

from backends.base import EARLY_EXIT, AnsweredBy, Backend, Batch, Logits
from errors import StoreError
from export.labelled import Labelled, Labels, auc, scores
from export.parity import BATCHES, golden_batch, random_inputs
from models.card import Card
from models.goldens import TOLERANCE, Golden
from models.package import PARITY
from postprocessing.interpret import called, difference

AUC_FALL = 0.002
"""By how much the AUC may be lower than fp32's on the same items; more is refused."""
FLIPPED, RANDOM = 0.1, 64
"""Without an AUC: the share of so many random inputs that may be called another label."""
MARGIN, WARM_UP, RUNS = 1.5, 1, 60


class Side(NamedTuple):
    """One of the two that are compared: it runs on one thread, and its graph and weights take so many bytes."""

    backend: Backend
    bytes: int


@dataclass(frozen=True)
class Variant:
    """What the gate measured.

    data: what the labelled items were. items: how many. auc, and both rates at the card's threshold: None where there
    were none.
    largest_difference_…: by `postprocessing.interpret.difference`; of goldens from their references, else from fp32.
    label_flips: of all `inputs`, those called another label; no golden among them.
    milliseconds: an item, alone, on one thread: the median of runs in turns with fp32's, the goldens one by one.
    bytes: of the graph and the weights it needs. tolerance: what the goldens are replayed within.
    answered_early: the share of the labelled items, or else of the random inputs, that an early exit answers.
    """

    variant: str
    data: str
    items: int
    auc_fp32: float | None
    auc: float | None
    false_positive_rate_fp32: float | None
    false_positive_rate: float | None
    sensitivity_fp32: float | None
    sensitivity: float | None
    largest_difference_goldens: float
    largest_difference_random: float
    largest_difference_labelled: float | None
    inputs: int
    label_flips: int
    milliseconds_fp32: float
    milliseconds: float
    bytes_fp32: int
    bytes: int
    tolerance: float
    answered_early: float | None = None

    def __str__(self) -> str:
        """A line for the operator."""
        early = "" if self.answered_early is None else f"{self.answered_early:.1%} answered early; "
        quality = "no AUC"
        if self.auc_fp32 is not None:
            quality = (
                f"AUC {self.auc:.4f} (fp32 {self.auc_fp32:.4f}), sensitivity {self.sensitivity:.4f} "
                f"({self.sensitivity_fp32:.4f}) at a false-positive rate of {self.false_positive_rate:.4f} "
                f"({self.false_positive_rate_fp32:.4f})"
            )
        differences = {
            "goldens": self.largest_difference_goldens,
            "random inputs": self.largest_difference_random,
            f"{self.items:,} {self.data}": self.largest_difference_labelled,
        }
        away = ", ".join(f"{by:.1e} on {name}" for name, by in differences.items() if by is not None)
        return (
            f"{self.variant}: {early}{quality}; at most {away}; {self.label_flips} of {self.inputs:,} labels another, "
            f"no golden's; {self.milliseconds:.3g} ms an item (fp32 {self.milliseconds_fp32:.3g}), "
            f"{self.bytes:,} bytes (fp32 {self.bytes_fp32:,})"
        )


class _Pair(NamedTuple):
    """What fp32 and the variant give for the same inputs, (N, K) float32 each."""

    wanted: Logits
    got: Logits

    def away(self, card: Card) -> float:
        """The largest difference."""
        return float(difference(self.got, self.wanted, card).max())

    def flips(self, card: Card) -> list[int]:
        """Places of what is called another label."""
        pairs = zip(self.wanted, self.got, strict=True)
        return [place for place, (wanted, got) in enumerate(pairs) if called(wanted, card) != called(got, card)]


class _Rates(NamedTuple):
    """How good one side is on labelled items; the rates are at the card's threshold."""

    auc: float
    false_positive_rate: float
    sensitivity: float


def measure(
    card: Card, kind: str, goldens: Sequence[Golden], labelled: Labelled | None, fp32: Side, made: Side
) -> Variant:
    """Compare a variant with fp32, on goldens, random inputs and labelled items.

    Args:
        card: says what clients will see of the outputs.
        kind: its name.
        goldens: with fp32's references.
        labelled: items to take AUC on, where the model has any.
        fp32: the model as it is.
        made: the variant.

    Raises:
        StoreError: a golden is called another label, AUC falls by more than `AUC_FALL`, or, where there is none, more
            than `FLIPPED` of the random inputs are called another; or outputs are not finite.
    """
    inputs, references = golden_batch(card, goldens_of(goldens)), np.stack([golden.logits for golden in goldens])
    alone, together = (_Pair(references, _in_batches(made.backend, inputs, size)) for size in BATCHES)
    noise = random_inputs(card, RANDOM)
    random = _Pair(*(_in_batches(each.backend, noise, max(BATCHES)) for each in (fp32, made)))
    if labelled:
        valid, truth, early = _on(labelled, fp32.backend, made.backend)
    else:
        valid, truth, early = None, np.zeros(0, np.int64), made.backend.run(noise).answered_by
    pairs = {"goldens": alone, "goldens in batches": together, "random inputs": random}
    pairs |= {labelled.name: valid} if labelled and valid else {}
    if strange := [name for name, pair in pairs.items() if not np.isfinite(pair.got).all()]:
        raise _refused(card, kind, f"its outputs for {' and '.join(strange)} are not finite")
    before = after = None
    if labelled and valid:
        before, after = (_rates(card, labelled.positive, outputs, truth) for outputs in valid)
    names = [goldens[place].name for place in sorted({*alone.flips(card), *together.flips(card)})]
    if early is not None and EARLY_EXIT not in early:
        raise _refused(card, kind, f"of {len(early)} items not one is answered early")
    if problems := list(_problems(names, len(goldens), random, before, after, len(truth), card)):
        raise _refused(card, kind, " and ".join(problems))
    milliseconds_fp32, milliseconds = _in_turns(inputs, fp32.backend, made.backend)
    away = max(alone.away(card), together.away(card))
    others = [random, *([valid] if valid else [])]
    return Variant(
        variant=kind,
        data=labelled.name if labelled else "no labelled data, so no AUC",
        items=len(truth),
        auc_fp32=round(before.auc, 6) if before else None,
        auc=round(after.auc, 6) if after else None,
        false_positive_rate_fp32=round(before.false_positive_rate, 6) if before else None,
        false_positive_rate=round(after.false_positive_rate, 6) if after else None,
        sensitivity_fp32=round(before.sensitivity, 6) if before else None,
        sensitivity=round(after.sensitivity, 6) if after else None,
        largest_difference_goldens=away,
        largest_difference_random=random.away(card),
        largest_difference_labelled=valid.away(card) if valid else None,
        inputs=len(inputs) + sum(len(each.got) for each in others),
        label_flips=sum(len(each.flips(card)) for each in others),
        milliseconds_fp32=milliseconds_fp32,
        milliseconds=milliseconds,
        bytes_fp32=fp32.bytes,
        bytes=made.bytes,
        tolerance=max(TOLERANCE, float(f"{MARGIN * away:.2g}")),
        answered_early=None if early is None else round(early.count(EARLY_EXIT) / len(early), 4),
    )


def _problems(
    flipped: Sequence[str],
    goldens: int,
    random: _Pair,
    before: _Rates | None,
    after: _Rates | None,
    items: int,
    card: Card,
) -> Iterator[str]:
    """What breaks the gate."""
    if flipped:
        yield f"{len(flipped)} of {goldens} goldens are called another label ({', '.join(flipped)})"
    if before and after:
        if not after.auc >= before.auc - AUC_FALL:
            fall = f"AUC falls from {before.auc:.4f} to {after.auc:.4f} on {items:,} labelled items"
            yield f"{fall}, by more than {AUC_FALL:g}"
    elif len(others := random.flips(card)) > FLIPPED * len(random.got):
        yield f"{len(others)} of {len(random.got)} random inputs are called another label, and there is no AUC to go by"


def _rates(card: Card, positive: str, outputs: Logits, truth: Labels) -> _Rates:
    index = card.labels.index(positive)
    calls = np.array([called(row, card) == index for row in outputs])  # a detector's True is its second label, 1
    of_each = (float(calls[truth == label].mean()) for label in (0, 1))
    return _Rates(auc(truth, scores(outputs, card, positive)), *of_each)


def write(found: Variant, package: Path) -> None:
    """Put the report into a package's parity report, beside what is there of fp32."""
    path = package / PARITY
    there = json.loads(path.read_text("utf-8")) if path.exists() else {}
    there |= {"served": f"{there.get('served', 'OnnxBackend (cpu)')}, of the plain graph"}
    path.write_text(json.dumps(there | {"variant": asdict(found)}, indent=1, allow_nan=False) + "\n", "utf-8")


def goldens_of(goldens: Sequence[Golden]) -> list[tuple[str, bytes]]:
    """Name and encoded bytes of each."""
    return [(golden.name, golden.data) for golden in goldens]


def _in_batches(backend: Backend, inputs: Batch, size: int) -> Logits:
    return np.concatenate([backend.run(inputs[at : at + size]).logits for at in range(0, len(inputs), size)])


def _on(labelled: Labelled, fp32: Backend, made: Backend) -> tuple[_Pair, Labels, Sequence[AnsweredBy] | None]:
    """Outputs of both, batch by batch, since the inputs together may be more than the memory holds; who answered."""
    rows = [(fp32.run(batch).logits, *made.run(batch), truth) for batch, truth in labelled.items]
    wanted, got, early, truth = zip(*rows, strict=True)
    pair = _Pair(np.concatenate(wanted), np.concatenate(got))
    return pair, np.concatenate(truth), None if early[0] is None else list(chain.from_iterable(early))


def _in_turns(inputs: Batch, *backends: Backend) -> list[float]:
    """Milliseconds of one item on each, the inputs one by one, in turns, so that whatever else goes on slows all.

    The median of rounds over all inputs, of which an early exit may answer some and not others.
    """
    times: list[list[float]] = [[] for _ in backends]
    for each in range(WARM_UP + ceil(RUNS / len(inputs))):
        for backend, taken in zip(backends, times, strict=True):
            started = time.perf_counter()
            for item in inputs:
                backend.run(item[None])
            taken += [1e3 * (time.perf_counter() - started) / len(inputs)] if each >= WARM_UP else []
    return [round(statistics.median(taken), 4) for taken in times]


def _refused(card: Card, kind: str, why: str) -> StoreError:
    other = "keep fp32, or try --variant fp16" if kind == "int8" else "keep fp32"
    return StoreError(f"{card.name} as {kind} is refused: {why}. Nothing was imported; {other}.")
