"""A forest that was imported is explained as the `shap` package explains it, which never asks the served graph."""

import warnings
from collections.abc import Iterator
from typing import NamedTuple

import joblib
import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from sklearn.ensemble import RandomForestClassifier

from export.rows.importing import package_from_model
from serving.attributions import RowExplanationRequest
from serving.loaded_model import LoadedModel
from serving.predictor import Predictor
from serving.row_pipeline import RowValues
from tests.serving.predicting import PLAIN, loaded, run, soon
from tests.tiny import seal

with warnings.catch_warnings():  # of names of matplotlib that will be deprecated one day
    warnings.simplefilter("ignore")
    import shap

PREDICTOR = Predictor(60_000)
Array = npt.NDArray[np.float64]


class Served(NamedTuple):
    model: LoadedModel
    forest: RandomForestClassifier
    examples: Array


def random_rows(count: int, features: int, seed: int) -> Array:
    """Rows of numbers that float32 holds exactly, as the trees compare them."""
    return np.random.default_rng(seed).normal(0, 2, (count, features)).astype(np.float32).astype(np.float64)


@pytest.fixture(scope="module", params=[5, 13], ids=["exact", "sampled"])
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A forest of three labels and of 5 or 13 features, imported with 30 examples."""
    rows, folder = random_rows(500, request.param, 0), tmp_path_factory.mktemp("forest")
    names = [f"x{place}" for place in range(request.param)]
    labels = (rows[:, 0] * rows[:, 1] > 0).astype(int) + (rows[:, 2] > 1)
    forest = RandomForestClassifier(12, max_depth=6, random_state=0).fit(pd.DataFrame(rows, columns=names), labels)
    joblib.dump(forest, folder / "forest.joblib")
    examples = pd.DataFrame(random_rows(30, request.param, 1), columns=names)
    examples.to_csv(folder / "examples.csv", index=False)
    package_from_model(
        "forest",
        folder / "forest.joblib",
        folder / "package",
        print,
        examples=folder / "examples.csv",
        trust_pickle=True,
    )
    with loaded(seal(folder / "package")) as model:
        yield Served(model, forest, examples.to_numpy())


@pytest.mark.parametrize("label", [0, 2])
def test_attributions_of_a_forest_are_those_of_its_trees_paths(served: Served, label: int) -> None:
    rows = random_rows(3, served.examples.shape[1], 2)
    by_paths = shap.TreeExplainer(
        served.forest, served.examples, feature_perturbation="interventional", model_output="probability"
    )(rows)
    values, base_value = by_paths.values[:, :, label], by_paths.base_values[0, label]
    request = RowExplanationRequest((label,), samples=200 if rows.shape[1] > 12 else None)
    explanations = run(PREDICTOR.explain_rows(served.model, RowValues(rows), request, PLAIN, soon(60))).explanations
    assert np.abs(values).max() > 0.1
    for (explanation,), expected in zip(explanations, values, strict=True):
        attributions = explanation.attributions
        found, errors = attributions.values, attributions.standard_errors
        assert attributions.base_value == pytest.approx(base_value, abs=1e-5)
        assert attributions.value == pytest.approx(base_value + expected.sum(), abs=1e-5)
        assert found.sum() == pytest.approx(attributions.value - attributions.base_value, abs=1e-9)
        if errors is None:
            assert found == pytest.approx(expected, abs=1e-5)
        else:
            assert (np.abs(found - expected) <= 5 * errors + 1e-5).all()
            assert errors.max() < 0.01
