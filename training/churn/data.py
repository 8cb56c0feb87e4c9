"""Synthetic customers, drawn from a seed, whose probability of leaving is known exactly."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from export.labelled_data import LabelledBatch, Split, has_features, row_batches
from models.card import Card

TRAIN, VALIDATE, TEST = 0, 1, 2
"""Seeds of the data splits."""

NAME, POSITIVE = "synthetic customers", "class_1"
"""What the rows are, and the label of customers who leave."""
FEATURES = ("age", "income", "tenure_days", "num_purchases", "avg_transaction_value", "days_since_last_purchase")


class Customers(NamedTuple):
    """Customers and whether they leave.

    Attributes:
        features: shape (N, 6), float64, in the order and the units of the card.
        chance: probability of leaving, shape (N,), float64.
        label: 1 for those who leave, else 0; shape (N,), int64.
    """

    features: npt.NDArray[np.float64]
    chance: npt.NDArray[np.float64]
    label: npt.NDArray[np.int64]


def draw(count: int, seed: int) -> Customers:
    """Draw customers.

    Customers tend to leave who have not bought for long, compared with their usual interval. A long tenure and a high
    income keep them. Young and old customers leave sooner than others, and so do frequent buyers of small baskets.
    """
    rng = np.random.default_rng(seed)
    age = np.clip(rng.normal(45, 15, count), 18, 95)
    income = np.exp(rng.normal(10.8, 0.55, count))
    tenure = np.clip(np.exp(rng.normal(6.4, 0.9, count)), 1, 7300)
    purchases = rng.poisson(np.clip(tenure / 45 * rng.gamma(2.0, 0.5, count), 0.3, 500)) + 1.0
    value = np.exp(rng.normal(4.0, 0.6, count)) * (income / 49_000) ** 0.3
    interval = tenure / purchases
    idle = np.minimum(interval * rng.gamma(1.2, 1.1, count), tenure)
    logit = (
        -0.9
        + 1.3 * np.log((idle + 5) / (interval + 5))
        + 0.5 * (np.log1p(idle) - 3.9)
        - 0.7 * (np.log1p(tenure) - 6.3)
        - 0.4 * (np.log(income) - 10.8)
        + 0.5 * ((age - 45) / 20) ** 2
        - 0.3 * (np.log1p(value) - 4.0) * (np.log1p(purchases) - 2.3)
    )
    chance = 1 / (1 + np.exp(-1.4 * logit))
    features = np.stack([age, income, tenure, purchases, value, idle], axis=1)
    return Customers(features, chance, (rng.random(count) < chance).astype(np.int64))


def labelled(card: Card, split: Split, count: int) -> Iterator[LabelledBatch] | None:
    """Return customers for `export.labelled.Source.labelled`; those who leave are positive."""
    if not has_features(card, FEATURES) or POSITIVE not in card.labels:
        return None
    customers = draw(count, VALIDATE if split == "validate" else TRAIN)
    return row_batches(card, customers.features, customers.label)
