"""Shapley values against values worked out on paper, and against the definition: a mean over all orders."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest

from explain.shapley import Attributions, ExactShapley, SampledShapley, ShapleyMethod, mixed_rows
from tests.explain.orders import mean_over_orders

Array = npt.NDArray[np.float64]
Numbers = npt.NDArray[np.float64] | npt.NDArray[np.float32]
Model = Callable[[Array], Array]

RNG = np.random.default_rng(7)
ROW = np.array([3.0, -1.0, 2.0, 0.5], np.float32)
BACKGROUND = np.array([[0, 0, 0, 0], [1, 2, -1, 0.5], [2, 4, 4, -2]], np.float32)


def explained(model: Model, row: Numbers, background: Numbers, method: ShapleyMethod) -> Attributions:
    """Explain a row as serving does: the mean of the model's outputs over each coalition's rows."""
    mixed = mixed_rows(row.astype(np.float32), background.astype(np.float32), method.coalitions(0, method.count))
    worths = model(mixed.astype(np.float64)).reshape(-1, len(background)).mean(axis=1)
    return method.solve(worths, float(model(row[None].astype(np.float64))[0]))


def by_definition(model: Model, row: Numbers, background: Numbers) -> Array:
    """The mean, over every order of the features, of what each adds when it joins those before it."""

    def worth(members: frozenset[int]) -> float:
        rows = background.astype(np.float64)
        for feature in members:
            rows[:, feature] = row[feature]
        return float(model(rows).mean())

    return mean_over_orders(worth, len(row))


def crooked(rows: Array) -> Array:
    """A model with interactions of two and of all features, and a jump."""
    return np.asarray(np.tanh(rows[:, 0] * rows[:, 1]) + np.sin(rows.sum(axis=1)) + (rows[:, -1] > 0.2) * rows[:, 0])


def test_a_linear_model_attributes_weight_times_distance_from_the_backgrounds_mean() -> None:
    weights = np.array([2.0, -1.0, 0.0, 4.0])
    attributions = explained(lambda rows: rows @ weights + 5, ROW, BACKGROUND, ExactShapley(4))
    # The background's means are 1, 2, 1 and -0.5.
    assert attributions.values == pytest.approx([2 * (3 - 1), -1 * (-1 - 2), 0, 4 * (0.5 + 0.5)])
    assert attributions.base_value == pytest.approx(2 * 1 - 1 * 2 + 4 * -0.5 + 5)
    assert attributions.value == pytest.approx(2 * 3 + 1 + 4 * 0.5 + 5)
    assert attributions.standard_errors is None


def test_two_features_share_their_interaction() -> None:
    # f = x₀ · x₁ against the single row (1, 2): v(∅) = 2, v({0}) = 3 · 2, v({1}) = 1 · 5, v({0, 1}) = 15.
    row, background = np.array([3.0, 5.0]), np.array([[1.0, 2.0]])
    attributions = explained(lambda rows: rows[:, 0] * rows[:, 1], row, background, ExactShapley(2))
    assert attributions.values == pytest.approx([((6 - 2) + (15 - 5)) / 2, ((5 - 2) + (15 - 6)) / 2])
    assert (attributions.base_value, attributions.value) == (2, 15)


@pytest.mark.parametrize("features", [1, 2, 5])
def test_exact_values_are_the_mean_over_all_orders(features: int) -> None:
    row, background = RNG.normal(0, 2, features), RNG.normal(0, 2, (7, features)).astype(np.float32)
    row = row.astype(np.float32)
    attributions = explained(crooked_or_sine(features), row, background, ExactShapley(features))
    assert attributions.values == pytest.approx(by_definition(crooked_or_sine(features), row, background), abs=1e-12)


def crooked_or_sine(features: int) -> Model:
    return crooked if features > 1 else lambda rows: np.sin(rows[:, 0])


@pytest.mark.parametrize("method", [ExactShapley(12), SampledShapley(12, 2), SampledShapley(1, 2)])
def test_attributions_add_up_to_what_the_row_differs_by(method: ShapleyMethod) -> None:
    features = method.coalitions(0, 1).shape[1]
    row, background = (np.asarray(RNG.normal(0, 2, shape), np.float32) for shape in ((features,), (3, features)))
    attributions = explained(crooked_or_sine(features), row, background, method)
    assert attributions.values.sum() == pytest.approx(attributions.value - attributions.base_value, abs=1e-12)


def test_sampled_values_of_a_model_without_interactions_are_exact() -> None:
    weights = RNG.normal(0, 1, 30)
    row, background = RNG.normal(0, 1, 30).astype(np.float32), RNG.normal(0, 1, (5, 30)).astype(np.float32)
    attributions = explained(lambda rows: rows @ weights, row, background, SampledShapley(30, 2))
    assert attributions.values == pytest.approx(weights * (row - background.mean(axis=0)), abs=1e-6)
    assert attributions.standard_errors == pytest.approx(np.zeros(30), abs=1e-6)


def test_the_stated_error_is_how_far_sampled_values_are_off() -> None:
    row, background = np.array([3, -1, 2, 0.5, 1, -2], np.float32), RNG.normal(0, 2, (9, 6)).astype(np.float32)
    exact = by_definition(crooked, row, background)
    few = explained(crooked, row, background, SampledShapley(6, 50))
    assert few.standard_errors is not None and (few.standard_errors > 0).all()
    off = np.abs(few.values - exact) / few.standard_errors
    assert off.max() < 4 and off.mean() > 0.2  # neither is the error understated, nor far too large
    many = explained(crooked, row, background, SampledShapley(6, 800))
    assert many.standard_errors is not None
    # Sixteen times as many samples quarter the error.
    assert (many.standard_errors / few.standard_errors).mean() == pytest.approx(0.25, abs=0.08)


def test_the_same_row_is_explained_the_same_twice() -> None:
    first, second = (explained(crooked, ROW, BACKGROUND, SampledShapley(4)) for _ in range(2))
    assert (first.values == second.values).all()


@pytest.mark.parametrize("method", [ExactShapley(4), SampledShapley(4)])
def test_the_first_coalition_is_empty_and_none_has_all_features(method: ShapleyMethod) -> None:
    sizes = method.coalitions(0, method.count).sum(axis=1)
    assert sizes[0] == 0 and sizes.max() == 3
