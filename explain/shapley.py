"""Shapley values: how much each feature of a row moves a model's output away from its mean over a background sample.

The players of the game are the features. A coalition S of them is worth v(S), the mean over the background's rows b of
f(x_S, b_rest): the features of S have the values of the explained row x, the others those of b. The attribution of a
feature is what it adds to v, averaged over all orders in which features can join; so all of them add up to
v(all) - v(none), which is the output for x less the mean output for the background.

Sources: Shapley 1953; Lundberg & Lee 2017, arXiv:1705.07874; for v, which breaks the dependence between features,
Janzing et al. 2020, arXiv:1910.13413.
"""

from math import comb
from typing import Literal, NamedTuple, Protocol, get_args

import numpy as np
import numpy.typing as npt

from explain.base import Float32Array

Float64Array = npt.NDArray[np.float64]
Coalitions = npt.NDArray[np.bool_]
"""Shape (C, F): whether each of C coalitions has each of F features."""

RowMethodName = Literal["shapley", "shapley-sampled"]
ROW_METHOD_NAMES: tuple[str, ...] = get_args(RowMethodName)

MOST_EXACT_FEATURES = 12
"""The exact values of more features would take more than 2¹² coalitions."""
DEFAULT_SAMPLES, LEAST_SAMPLES, MOST_SAMPLES = 16, 2, 1000
"""How many orders of the features are drawn where values are sampled, each beside its reverse."""


class Attributions(NamedTuple):
    """What each feature of one row counted for.

    Attributes:
        values: shape (F,), float64; they add up to `value` - `base_value`, but for rounding.
        base_value: the mean output over the background.
        value: the output for the row.
        standard_errors: shape (F,), float64, of the values; None where these are exact.
    """

    values: Float64Array
    base_value: float
    value: float
    standard_errors: Float64Array | None


class ShapleyMethod(Protocol):
    """A way to Shapley values: the coalitions whose worth it needs, and what it makes of them."""

    @property
    def name(self) -> RowMethodName:
        """What the method is called."""

    @property
    def count(self) -> int:
        """C, how many coalitions are to be valued."""

    def coalitions(self, start: int, stop: int) -> Coalitions:
        """Return those from one place to another, shape (stop - start, F); the first has no feature, and none has all.

        A method of many features has more of them than memory should hold at once.
        """

    def solve(self, worths: Float64Array, value: float) -> Attributions:
        """Return the attributions that follow from the worth of each coalition, shape (C,), and of all features."""


class ExactShapley:
    """Shapley values from the worth of every coalition: φᵢ = Σ_{S∌i} (v(S ∪ i) - v(S)) / (F · (F-1 over |S|)).

    Args:
        features: F, the number of features, at most `MOST_EXACT_FEATURES`.
    """

    name: RowMethodName = "shapley"

    def __init__(self, features: int) -> None:
        codes = np.arange(2**features)  # coalition k has feature i where bit i of k is set
        self._members = (codes[:, None] >> np.arange(features) & 1).astype(bool)

    @property
    def count(self) -> int:
        """2^F - 1: all coalitions but the one of all features."""
        return len(self._members) - 1

    def coalitions(self, start: int, stop: int) -> Coalitions:
        """Return the coalitions from one place to another."""
        return self._members[:-1][start:stop]

    def solve(self, worths: Float64Array, value: float) -> Attributions:
        """Return the attributions, without an error."""
        every, features = np.append(worths, value), self._members.shape[1]
        weights = np.array([1 / (features * comb(features - 1, size)) for size in range(features)])
        sizes, codes = self._members.sum(axis=1), np.arange(len(every))
        values = np.empty(features)
        for feature in range(features):
            without = codes[~self._members[:, feature]]
            values[feature] = weights[sizes[without]] @ (every[without | 1 << feature] - every[without])
        return Attributions(values, float(worths[0]), value, None)


class SampledShapley:
    """Shapley values as the mean over random orders in which the features join, each beside its reverse.

    A feature that adds much early on adds less late, and the other way round, so an order and its reverse err in
    opposite directions. The same orders are drawn for every row, which makes answers repeatable.

    Sources: Castro et al. 2009, doi:10.1016/j.cor.2008.04.004; Mitchell et al. 2022, arXiv:2104.12199, section 4.

    Args:
        features: F, the number of features.
        samples: how many orders are drawn, beside their reverses; at least `LEAST_SAMPLES`.
    """

    name: RowMethodName = "shapley-sampled"

    def __init__(self, features: int, samples: int = DEFAULT_SAMPLES) -> None:
        drawn = np.random.default_rng(0).permuted(np.tile(np.arange(features), (samples, 1)), axis=1)
        self._orders = np.concatenate([drawn, drawn[:, ::-1]])  # (2 samples, F)
        self._places = np.argsort(self._orders, axis=1)  # at which place of an order each feature joins

    @property
    def count(self) -> int:
        """1 + 2 · samples · (F - 1): no feature, then of each order its first, its first two, and so on."""
        orders, features = self._orders.shape
        return int(1 + orders * (features - 1))

    def coalitions(self, start: int, stop: int) -> Coalitions:
        """Return the coalitions from one place to another."""
        features = self._orders.shape[1]
        which = np.arange(start, min(stop, self.count)) - 1
        order, joined = np.divmod(which, max(1, features - 1))
        return self._places[order] < np.where(which < 0, 0, joined + 1)[:, None]

    def solve(self, worths: Float64Array, value: float) -> Attributions:
        """Return the attributions, and the standard error of the mean over pairs of orders."""
        count, features = self._orders.shape
        steps = np.empty((count, features + 1))
        steps[:, 0], steps[:, 1:-1], steps[:, -1] = worths[0], worths[1:].reshape(count, features - 1), value
        added = np.empty((count, features))
        np.put_along_axis(added, self._orders, np.diff(steps, axis=1), axis=1)
        pairs = (added[: count // 2] + added[count // 2 :]) / 2
        errors = pairs.std(axis=0, ddof=1) / np.sqrt(len(pairs))
        return Attributions(pairs.mean(axis=0), float(worths[0]), value, errors)


def mixed_rows(row: Float32Array, background: Float32Array, coalitions: Coalitions) -> Float32Array:
    """Return the rows whose mean output is the worth of each coalition.

    Args:
        row: the explained row, shape (F,), float32.
        background: shape (B, F), float32.
        coalitions: shape (C, F).

    Returns:
        Shape (C · B, F), float32: those of the first coalition, then those of the second, and so on.
    """
    return np.where(coalitions[:, None, :], row, background).reshape(-1, len(row))
