"""What explanations cost, measured for real in processes of their own."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from api.metadata import model_details
from cli.main import main
from explain.base import METHOD_NAMES
from export import explanation_cost
from export.explanation_cost import explanations_cost, measure_cost, predictions_cost
from models import store
from models.cost import COST, Cost, MethodCost, read_cost, write_cost
from models.package import verify
from serving.loaded_model import LoadedModel
from serving.loading import PREDICTION
from tests.linear import linear_package
from tests.tiny import seal, tiny_package


def test_every_method_of_a_model_of_pictures_is_measured_beside_its_prediction(tmp_path: Path) -> None:
    stored = seal(tiny_package(tmp_path / "tiny", explained=True))
    assert measure_cost(stored) == ""
    cost = read_cost(stored.path)
    assert cost is not None and list(cost.methods) == [*METHOD_NAMES, "rise"]
    assert cost.methods["rise"].evaluations == 300 and cost.methods["gradcam"].evaluations is None
    assert 0 < cost.prediction_ms < cost.methods["rise"].ms and cost.methods["gradcam"].ms > 0
    assert all(method.memory_mb >= 0 for method in cost.methods.values())
    assert "×" in cost.machine and cost.date.startswith("20")


@pytest.mark.parametrize(
    ("features", "background", "evaluations"),
    [
        (5, 8, {"shapley": (2**5 - 1) * 8, "shapley-sampled": (2 * 16 * (5 - 1) + 1) * 8}),
        (13, 8, {"shapley-sampled": (2 * 16 * (13 - 1) + 1) * 8}),
        (13, 0, {}),
    ],
)
def test_of_rows_as_many_evaluations_are_counted_as_an_explanation_takes(
    tmp_path: Path, features: int, background: int, evaluations: dict[str, int]
) -> None:
    measured = predictions_cost(seal(linear_package(tmp_path / "linear", features, background)))
    assert measured["ms"] > 0 and measured["peak_mb"] > 10
    assert {name: cost["evaluations"] for name, cost in measured["methods"].items()} == evaluations


def test_a_model_without_a_gradient_costs_what_rise_costs(tmp_path: Path) -> None:
    stored = seal(tiny_package(tmp_path / "tiny"))
    assert measure_cost(stored) == ""
    cost = read_cost(stored.path)
    assert cost is not None and list(cost.methods) == ["rise"]


def test_gradients_are_timed_by_method(tmp_path: Path) -> None:
    measured = explanations_cost(seal(tiny_package(tmp_path / "tiny", explained=True)))
    assert list(measured["ms"]) == list(METHOD_NAMES) and min(measured["ms"].values()) > 0


def test_a_model_that_cannot_be_run_has_no_figures_and_the_reason_is_told(tmp_path: Path) -> None:
    stored = seal(tiny_package(tmp_path / "tiny"))
    stored.graph.write_bytes(b"no graph")
    problem = measure_cost(stored)
    assert f"What explanations of {stored.tag} cost could not be measured" in problem and len(problem) < 400
    assert read_cost(stored.path) is None


def test_what_is_damaged_is_as_if_nothing_had_been_measured(tmp_path: Path) -> None:
    assert read_cost(tmp_path) is None
    for text in ("", "[]", '{"date": "2026-01-01"}'):
        (tmp_path / COST).write_text(text)
        assert read_cost(tmp_path) is None
    cost = Cost(date="2026-01-01", machine="m", prediction_ms=1.0, methods={"rise": MethodCost(ms=2.0, memory_mb=0.5)})
    write_cost(tmp_path, cost)
    assert read_cost(tmp_path) == cost


def test_an_import_measures_and_shows_it_and_another_measures_anew(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*arguments: str) -> str:
        result = CliRunner().invoke(main, ["models", *arguments])
        assert result.exit_code == 0, result.output
        return result.output

    run("import", "churn")
    stored = store.find("churn")
    assert "Cost of an explanation" not in run("show", "churn")
    assert "cost" not in (model_details(LoadedModel(stored.card, stored, PREDICTION), "0").explain or {})
    monkeypatch.setattr(explanation_cost, "measure_cost", measure_cost)  # `home` leaves it out
    (stored.path / COST).write_text(json.dumps({"date": "2000-01-01"}))
    assert run("import", "churn") == f"Already there: {stored.tag}\n"
    verify(stored)  # it is no part of the version
    shown = run("show", "churn")
    assert "Cost of an explanation" in shown and "shapley-sampled" in shown and "6,300" in shown
    explain = model_details(LoadedModel(stored.card, stored, PREDICTION), "0").explain
    cost = read_cost(stored.path)
    assert explain is not None and cost is not None
    assert explain["cost"] == cost.model_dump(exclude_none=True)
    assert explain["cost"]["methods"]["shapley"]["evaluations"] == 6300
