"""The parity check: what would be served is compared with a reference, on goldens and random inputs.

Both are run alone and in batches. A difference in what clients would see keeps a model from being imported.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from backends.base import Backend, Batch, Logits
from errors import StoreError
from models.card import Card, ImageCard
from models.package import PARITY
from postprocessing.comparison import decision, difference
from preprocessing.row_transform import transform_rows

LIMIT = 1e-4
"""Largest |Δ| between reference and served graph, in probability (of a detector: in squared error)."""
RANDOM_INPUTS, BATCH_SIZES = 16, (1, 8)


@dataclass(frozen=True)
class ParityReport:
    """What the parity check measured, as it is written into the package.

    Attributes:
        reference: what computed the reference outputs.
        served: the backend that was compared with it.
        inputs: number of inputs.
        batches: the batch sizes in which each input was run.
        largest_difference: as of `postprocessing.comparison.difference`.
        label_flips: number of inputs for which backend and reference give different labels.
        limit: the largest difference that passes.
        checkpoint: metadata of the checkpoint that the weights came from.
        near_threshold: number of rows left out of the difference, since float32 rounds a value of theirs across the
            threshold of a tree.
    """

    reference: str
    served: str
    inputs: int
    batches: tuple[int, ...]
    largest_difference: float
    label_flips: int
    limit: float = LIMIT
    checkpoint: dict[str, Any] | None = None
    near_threshold: int = 0

    def write(self, package: Path) -> None:
        """Write the report into a package."""
        (package / PARITY).write_text(json.dumps(asdict(self), indent=1, allow_nan=False) + "\n", "utf-8")


def random_inputs(card: Card, count: int = RANDOM_INPUTS, seed: int = 0) -> Batch:
    """Return transformed inputs that belong to no data set, (count, …) float32.

    For pictures they are normal noise, for rows values drawn uniformly from the range of each feature.
    """
    rng = np.random.default_rng(seed)
    if isinstance(card, ImageCard):
        return rng.standard_normal((count, *card.input.shape)).astype(np.float32)
    features = card.input.features
    low, high = [feature.low for feature in features], [feature.high for feature in features]
    return transform_rows(rng.uniform(low, high, (count, len(features))), card.input)


def run_in_batches(backend: Backend, inputs: Batch, size: int) -> Logits:
    """Return the outputs (N, K) float32 of inputs (N, …) that are run `size` at a time."""
    starts = range(0, len(inputs), size)
    return np.concatenate([backend.run(inputs[start : start + size]).logits for start in starts])


def label_flips(outputs: Logits, reference: Logits, card: Card) -> list[int]:
    """Return the indices of the items to which outputs and reference, (N, K) float32 each, give different labels."""
    pairs = zip(outputs, reference, strict=True)
    return [index for index, (row, expected) in enumerate(pairs) if decision(row, card) != decision(expected, card)]


def check_parity(
    card: Card, inputs: Batch, reference: Logits, backend: Backend, *, reference_name: str, goldens: int = 0
) -> ParityReport:
    """Compare a backend with the reference outputs.

    Args:
        card: says what clients will see of the outputs.
        inputs: (N, …) float32.
        reference: (N, K) float32, what the backend should give for them.
        backend: what is to be served.
        reference_name: what computed the reference.
        goldens: number of the inputs that are goldens, which come first and whose labels must not differ.

    Raises:
        StoreError: the outputs differ by more than `LIMIT`, or a golden gets another label.
    """
    largest, flips = 0.0, set[int]()
    for size in BATCH_SIZES:
        outputs = run_in_batches(backend, inputs, size)
        largest = max(largest, float(difference(outputs, reference, card).max()))
        flips |= set(label_flips(outputs, reference, card))
    if not largest <= LIMIT or any(index < goldens for index in flips):
        raise StoreError(
            f"{card.name}: what would be served differs from {reference_name} by {largest:.2e} (limit {LIMIT:g}), "
            f"and {len(flips)} of {len(inputs)} labels differ. Nothing was imported."
        )
    served = f"{type(backend).__name__} ({backend.device})"
    return ParityReport(reference_name, served, len(inputs), BATCH_SIZES, largest, len(flips))
