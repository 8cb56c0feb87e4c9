"""Rows to compare a converted model with its original on: an operator's examples, and random ones."""

from collections.abc import Sequence

import numpy as np

from export.rows.model import FeatureFacts, Values

MISSING_SHARE = 0.1
"""The share of random values that are missing, of a feature where that is allowed."""
OTHER_SHARE = 0.05
"""The share of random values that are no known category, of a feature where that is allowed."""
OTHER_TEXT = "a category that no model knows"


def random_rows(
    features: Sequence[FeatureFacts],
    examples: Values | None,
    count: int,
    rng: np.random.Generator,
    missing: Sequence[bool] = (),
) -> Values:
    """Return random rows (count, features) as a client could send them.

    Numbers are drawn from the range of the examples, widened by a tenth. Without examples half of them are normal, and
    half of any size from 0.01 to 10 million, since nobody knows the scale of a feature. Categories are drawn evenly.

    Args:
        features: what the model knows about them.
        examples: (N, features), or None.
        count: number of rows.
        rng: the source of randomness.
        missing: which features may be missing; by default none.
    """
    rows = np.empty((count, len(features)), object)
    for place, feature in enumerate(features):
        if feature.categories is None:
            rows[:, place] = _numbers(None if examples is None else examples[:, place], count, rng).tolist()
        else:
            rows[:, place] = [feature.categories[index] for index in rng.integers(len(feature.categories), size=count)]
            if feature.other_categories:
                rows[rng.random(count) < OTHER_SHARE, place] = OTHER_TEXT
        if missing and missing[place]:
            rows[rng.random(count) < MISSING_SHARE, place] = None
    return rows


def _numbers(examples: Values | None, count: int, rng: np.random.Generator) -> np.ndarray:
    known = [] if examples is None else [value for value in examples if isinstance(value, int | float)]
    if known:
        low, high = min(known), max(known)
        margin = (high - low) / 10 or 1.0
        numbers = rng.uniform(low - margin, high + margin, count)
        return np.round(numbers) if all(float(value).is_integer() for value in known) else numbers
    sizes = rng.choice([-1.0, 1.0], count) * 10 ** rng.uniform(-2, 7, count)
    return np.where(rng.random(count) < 0.5, rng.standard_normal(count), sizes)
