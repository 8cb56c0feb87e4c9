"""The parity gate: what is served gives what the reference gave, on goldens and random inputs, alone and in batches."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from backends.base import Backend, Batch, Logits
from errors import StoreError
from models.card import Card, ImageCard
from models.interpret import comparable
from models.line import line_of
from models.package import PARITY
from preprocessing.rows import transform_rows

LIMIT = 1e-4
"""Largest |Δ| between reference and served graph, in probability (a detector: in squared error); more is refused."""
RANDOM, BATCHES = 16, (1, 8)


@dataclass(frozen=True)
class Parity:
    """What the gate measured.

    largest_difference: |Δ| in probability, or in squared error relative to max(1, its size). label_flips: inputs
    whose most probable label differs, of `inputs`.
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


def golden_batch(card: Card, inputs: list[tuple[str, bytes]]) -> Batch:
    """Golden inputs, transformed as a client's would be."""
    line = line_of(card)
    return line.batch([line.admit(line.golden(data)) for _, data in inputs])


def check(
    card: Card, inputs: Batch, reference: Logits, backend: Backend, *, named: str, limit: float = LIMIT
) -> Parity:
    """Compare a backend with the reference outputs.

    Args:
        card: says what clients will see of the outputs.
        inputs: (N, …) float32.
        reference: (N, K) float32, what they should give.
        backend: what is to be served.
        named: what computed the reference.
        limit: largest difference that passes.

    Raises:
        StoreError: too large a difference, or another label.
    """
    wanted, worst, flips = comparable(reference, card), 0.0, set[int]()
    for size in BATCHES:
        outputs = np.concatenate([backend.run(inputs[at : at + size]) for at in range(0, len(inputs), size)])
        away = np.abs(comparable(outputs, card) - wanted) / np.maximum(1.0, np.abs(wanted))
        worst = max(worst, float(away.max()) if np.isfinite(away).all() else float("inf"))
        flips |= set(np.flatnonzero(outputs.argmax(axis=1) != reference.argmax(axis=1)).tolist())
    found = Parity(
        named, f"{type(backend).__name__} ({backend.device})", len(inputs), BATCHES, worst, len(flips), limit
    )
    if not worst <= limit:
        raise StoreError(
            f"{card.name}: what would be served differs from {named} by {worst:.2e} (limit {limit:g}), "
            f"with {len(flips)} of {len(inputs)} labels another. Nothing was imported."
        )
    return found


def write(found: Parity, package: Path) -> None:
    """Put the report into a package."""
    (package / PARITY).write_text(json.dumps(asdict(found), indent=1) + "\n", "utf-8")
