"""Synthetic readings of a machine, drawn from a seed: healthy ones, and four kinds of fault."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from export.labelled import Items, Split, chunks, has_features
from models.card import Card

TRAIN, THRESHOLD, TEST = 0, 1, 2
"""Seeds of the splits."""
NAME, POSITIVE = "synthetic sensors", "anomaly"
FEATURES = ("temperature", "vibration", "pressure", "power")
FAULTS = ("worn bearing", "blocked cooling", "leak", "slipping belt")

Readings = npt.NDArray[np.float64]
"""(N, 4) float64: temperature in °C, vibration in mm/s, pressure in bar, power in kW."""


def healthy(count: int, seed: int) -> Readings:
    """Readings that load and ambient temperature explain, but for the sensors' own noise."""
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
    """Healthy readings with one fault of `FAULTS` in them, from slight to severe."""
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


def labelled(card: Card, split: Split, count: int) -> Iterator[Items] | None:
    """Half healthy readings, half faulty ones, which are positive; see `export.labelled.Source`.

    Calibration sees both too, or what a fault looks like would be clipped away.
    """
    if not has_features(card, FEATURES):
        return None
    seed, each = THRESHOLD if split == "validate" else TRAIN, -(-count // (2 * len(FAULTS)))
    ill = [faulty(each, seed, fault) for fault in FAULTS]
    rows = np.concatenate([healthy(each * len(FAULTS), seed), *ill])
    labels = np.repeat(np.array([0, 1], np.int64), each * len(FAULTS))
    chosen = np.random.default_rng(seed).permutation(len(rows))[:count]
    return chunks(card, rows[chosen], labels[chosen])
