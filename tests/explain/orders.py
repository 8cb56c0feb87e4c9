"""Shapley values by their definition, which no other way of computing them shares code with."""

from collections.abc import Callable
from functools import cache
from itertools import permutations
from math import factorial

import numpy as np
import numpy.typing as npt


def mean_over_orders(worth: Callable[[frozenset[int]], float], features: int) -> npt.NDArray[np.float64]:
    """The mean, over every order of the features, of what each adds to the worth of those before it, shape (F,)."""
    known, values = cache(worth), np.zeros(features)
    for order in permutations(range(features)):
        for place, feature in enumerate(order):
            values[feature] += known(frozenset(order[: place + 1])) - known(frozenset(order[:place]))
    return values / factorial(features)
