"""Synthetic readings of a machine, drawn from a seed: healthy ones, and some with one of four faults."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from export.labelled_data import LabelledBatch, Split, has_features, row_batches
from models.card import Card

TRAIN, THRESHOLD, TEST = 0, 1, 2
"""Seeds of the data splits."""
NAME, POSITIVE = "synthetic sensors", "anomaly"
"""What the rows are, and the label of faulty readings."""
FEATURES = ("temperature", "vibration", "pressure", "power")
FAULTS = ("worn bearing", "blocked cooling", "leak", "slipping belt")

Readings = npt.NDArray[np.float64]
"""(N, 4) float64: temperature in °C, vibration in mm/s, pressure in bar, power in kW."""


def healthy(count: int, seed: int) -> Readings:
    """Draw readings that follow from load and ambient temperature, except for the noise of the sensors."""
    rng = np.random.default_rng((seed, 0))
    load, ambient = rng.uniform(0.15, 1.0, count), rng.normal(20.0, 6.0, count)
    readings = np.stack(
        [
            ambient + 25 + 35 * load,
            1.2 + 3.2 * load**1.5 + 0.01 * (ambient - 20),
            15 + 26 * load - 0.15 * (ambient - 20),
            250 + 2650 * load,
        ],
        axis=1,
    )
    return readings + rng.normal(0, 1, (count, 4)) * (0.8, 0.08, 0.5, 40)


def faulty(count: int, seed: int, fault: str) -> Readings:
    """Draw readings with one fault of `FAULTS`, from slight to severe.

    Raises:
        ValueError: the fault is unknown.
    """
    readings, rng = healthy(count, seed + 100), np.random.default_rng((seed, 1))
    severity = rng.uniform(0.3, 1.0, count)
    if fault == "worn bearing":
        readings[:, 1] += 4 * severity
        readings[:, 0] += 5 * severity
    elif fault == "blocked cooling":
        readings[:, 0] += 40 * severity
    elif fault == "leak":
        readings[:, 2] -= 14 * severity
    elif fault == "slipping belt":
        readings[:, 3] *= 1 - 0.5 * severity
        readings[:, 1] += 1.2 * severity
    else:
        raise ValueError(f"{fault!r} is not one of {', '.join(FAULTS)}")
    return np.clip(readings, (-50, 0, 0, 0), (200, 50, 100, 10_000))


def labelled(card: Card, split: Split, count: int) -> Iterator[LabelledBatch] | None:
    """Return readings for `export.labelled.Source.labelled`: half of them healthy, half faulty, which are positive.

    Calibration needs both too, because it would otherwise clip the values of a fault away.
    """
    if not has_features(card, FEATURES):
        return None
    seed, per_fault = THRESHOLD if split == "validate" else TRAIN, -(-count // (2 * len(FAULTS)))
    with_faults = [faulty(per_fault, seed, fault) for fault in FAULTS]
    rows = np.concatenate([healthy(per_fault * len(FAULTS), seed), *with_faults])
    labels = np.repeat(np.array([0, 1], np.int64), per_fault * len(FAULTS))
    order = np.random.default_rng(seed).permutation(len(rows))[:count]
    return row_batches(card, rows[order], labels[order])
