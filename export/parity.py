"""The parity gate: what is served gives what the reference gave, on goldens and random inputs, alone and in batches."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from backends.base import Backend, Batch, Logits
from errors import InvalidInput, StoreError
from models.card import Card, ImageCard
from models.package import PARITY
from postprocessing.interpret import called, difference
from preprocessing.rows import transform_rows
from serving.pipeline import line_of

LIMIT = 1e-4
"""Largest |Δ| between reference and served graph, in probability (a detector: in squared error); more is refused."""
RANDOM, BATCHES = 16, (1, 8)


@dataclass(frozen=True)
class Parity:
    """What the gate measured.

    largest_difference: see `postprocessing.interpret.difference`. label_flips: inputs that are called another label.
    """

    reference: str
    served: str
    inputs: int
    batches: tuple[int, ...]
    largest_difference: float
    label_flips: int
    limit: float = LIMIT
    checkpoint: dict[str, Any] | None = None


def random_inputs(card: Card, count: int = RANDOM, seed: int = 0) -> Batch:
    """Transformed inputs of no data set, (count, …) float32: normal noise, or rows from anywhere in their range."""
    rng = np.random.default_rng(seed)
    if isinstance(card, ImageCard):
        return rng.standard_normal((count, 3, *card.input.size)).astype(np.float32)
    low, high = ([getattr(each, end) for each in card.input.features] for end in ("low", "high"))
    return transform_rows(rng.uniform(low, high, (count, len(low))), card.input)


def golden_batch(card: Card, inputs: Sequence[tuple[str, bytes]]) -> Batch:
    """Golden inputs, transformed as a client's would be.

    Raises:
        StoreError: the card refuses one.
    """
    line, admitted = line_of(card), []
    for name, data in inputs:
        try:
            admitted.append(line.admit(line.golden(data)))
            line.check(admitted[-1])
        except InvalidInput as error:
            raise StoreError(f"{card.name}: its card refuses the golden input {name}: {error}") from error
    return line.batch(admitted)


def check(
    card: Card,
    inputs: Batch,
    reference: Logits,
    backend: Backend,
    *,
    named: str,
    goldens: int = 0,
    limit: float = LIMIT,
) -> Parity:
    """Compare a backend with the reference outputs.

    Args:
        card: says what clients will see of the outputs.
        inputs: (N, …) float32.
        reference: (N, K) float32, what they should give.
        backend: what is to be served.
        named: what computed the reference.
        goldens: how many of the inputs, the first, are golden: there no label may be another.
        limit: largest difference that passes.

    Raises:
        StoreError: too large a difference, or another label for a golden.
    """
    worst, flips = 0.0, set[int]()
    for size in BATCHES:
        outputs = np.concatenate([backend.run(inputs[at : at + size]).logits for at in range(0, len(inputs), size)])
        away = difference(outputs, reference, card).max(axis=1)
        worst = max(worst, float(away.max()))
        pairs = zip(outputs, reference, strict=True)
        flips |= {place for place, (got, wanted) in enumerate(pairs) if called(got, card) != called(wanted, card)}
    served = f"{type(backend).__name__} ({backend.device})"
    found = Parity(named, served, len(inputs), BATCHES, worst, len(flips), limit)
    flipped = sorted(place for place in flips if place < goldens)
    if not worst <= limit or flipped:
        raise StoreError(
            f"{card.name}: what would be served differs from {named} by {worst:.2e} (limit {limit:g}), "
            f"with {len(flips)} of {len(inputs)} labels another. Nothing was imported."
        )
    return found


def write(found: Parity, package: Path) -> None:
    """Put the report into a package."""
    (package / PARITY).write_text(json.dumps(asdict(found), indent=1, allow_nan=False) + "\n", "utf-8")
