"""Transform rows that were checked into a model's input. Training and serving call `transform_rows`."""

from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from preprocessing.row_spec import Clip, Log1p, RowInput, Standardise


class _StepsTogether(NamedTuple):
    """One kind of step, the places of the features that take it, and its numbers, shape (2, places).

    Places that are evenly spaced are a slice, whose columns are changed where they are.
    """

    step: type[Log1p | Clip | Standardise]
    places: list[int] | slice
    numbers: npt.NDArray[np.float64]


MOST_SPECS = 256
"""The steps of so many cards are kept; each version of a model has a card."""
_steps_together = dict[int, tuple[RowInput, list[_StepsTogether]]]()


def transform_rows(values: npt.NDArray[np.float64], spec: RowInput) -> npt.NDArray[np.float32]:
    """Apply the steps of each feature to its column.

    Args:
        values: shape (N, features), float64, in the order of the card's features, each in its unit.
        spec: the card's input section.

    Returns:
        Shape (N, features), float32.
    """
    values = values.copy()
    for step, places, numbers in _together(spec):
        columns = values[:, places]
        if step is Log1p:
            np.log1p(columns, out=columns)
        elif step is Clip:
            np.minimum(np.maximum(columns, numbers[0], out=columns), numbers[1], out=columns)
        else:
            columns -= numbers[0]
            columns /= numbers[1]
        if isinstance(places, list):
            values[:, places] = columns
    return np.ascontiguousarray(values, dtype=np.float32)


def _together(spec: RowInput) -> list[_StepsTogether]:
    """Return the steps of all features as few operations, each on the columns of features whose turn it is.

    Features with fewer steps begin later, so that their last steps, which are mostly of one kind, fall together.
    """
    known = _steps_together.get(id(spec))
    if known is not None and known[0] is spec:
        return known[1]
    most, together = max(len(feature.steps) for feature in spec.features), list[_StepsTogether]()
    for level in range(-most, 0):
        steps = {place: f.steps[level] for place, f in enumerate(spec.features) if len(f.steps) >= -level}
        for kind in (Log1p, Clip, Standardise):
            chosen = {place: step for place, step in steps.items() if isinstance(step, kind)}
            if chosen:
                numbers = [_numbers(step) for step in chosen.values()]
                together.append(_StepsTogether(kind, _as_slice([*chosen]), np.array(numbers, np.float64).T))
    if len(_steps_together) >= MOST_SPECS:
        _steps_together.clear()
    _steps_together[id(spec)] = spec, together
    return together


def _as_slice(places: list[int]) -> list[int] | slice:
    """Return ascending places as a slice if they are evenly spaced."""
    spaces = {after - place for place, after in pairwise(places)} or {1}
    return slice(places[0], places[-1] + 1, *spaces) if len(spaces) == 1 else places


def _numbers(step: Log1p | Clip | Standardise) -> tuple[float, ...]:
    if isinstance(step, Log1p):
        return ()
    return (step.low, step.high) if isinstance(step, Clip) else (step.mean, step.std)
