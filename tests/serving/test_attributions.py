"""Explaining rows through a model's own Runner, against the attributions of a linear model, which are known."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import serving.attributions
import serving.explained_rows
from errors import InvalidInput, NoExplanation, StoreError
from models.background import BACKGROUND, read_background, write_background
from models.card import as_row_card, read_card
from models.package import content_version, file_digests
from preprocessing.rows import CheckedRows
from serving.attributions import RowExplanationRequest
from serving.predictions import RowPredictions
from serving.predictor import Predictor
from serving.row_pipeline import MixedRows, RowOutputs, RowPipeline, RowValues
from tests.linear import linear_package, rows_of, weights_of
from tests.serving.predicting import PLAIN, WITH_HEATMAP, loaded, run, soon
from tests.tiny import seal

PREDICTOR = Predictor(30_000)


def explain(model: Any, values: Any, request: RowExplanationRequest | None = None) -> RowPredictions:
    rows = RowValues(np.asarray(values, np.float64))
    return run(PREDICTOR.explain_rows(model, rows, request or RowExplanationRequest(), PLAIN, soon()))


def chunks_of(model: Any) -> list[int]:
    """A list to which the number of coalitions is added of each chunk that the model is given from now on."""
    chunks, submit = list[int](), model.submit

    def noted(payload: Any, deadline: float, **admitted: bool) -> Any:
        if isinstance(payload, MixedRows):
            chunks.append(len(payload.coalitions))
        return submit(payload, deadline, **admitted)

    model.submit = noted
    return chunks


@pytest.mark.parametrize(("features", "method"), [(3, "shapley"), (12, "shapley"), (13, "shapley-sampled")])
@pytest.mark.parametrize("targets", [(), (1,)])
def test_a_linear_model_is_explained_by_its_weights(
    tmp_path: Path, features: int, method: str, targets: tuple[int, ...]
) -> None:
    with loaded(seal(linear_package(tmp_path / "linear", features))) as model:
        row = np.arange(features) / 2
        ((explanation,),) = explain(model, [row], RowExplanationRequest(targets)).explanations
    weights, background = weights_of(features) * (-1 if targets else 1), rows_of(features, 8)
    assert explanation.attributions.values == pytest.approx(weights * (row - background.mean(axis=0)), abs=1e-4)
    assert explanation.attributions.base_value == pytest.approx((background @ weights).mean(), abs=1e-4)
    assert explanation.attributions.value == pytest.approx(row @ weights, abs=1e-4)
    assert (explanation.method, explanation.target) == (method, "negative" if targets else "sum")
    errors = explanation.attributions.standard_errors
    assert (errors is None) if method == "shapley" else (errors is not None and errors.max() < 1e-4)


def test_the_work_comes_in_chunks_that_are_put_together_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with loaded(seal(linear_package(tmp_path / "linear", 5))) as model:
        ((whole,),) = explain(model, [np.ones(5)]).explanations
        monkeypatch.setattr(serving.attributions, "CHUNK_VALUES", 3 * 8 * 5)  # three coalitions
        monkeypatch.setattr(serving.attributions, "CHUNK_MS", 1e6)
        chunks = chunks_of(model)
        ((parts,),) = explain(model, [np.ones(5)]).explanations
    assert parts.attributions.values == pytest.approx(whole.attributions.values, abs=1e-5)
    assert chunks == [3] * 10 + [1]  # 31 coalitions by threes


def test_evaluations_are_counted_apart_from_predictions(tmp_path: Path) -> None:
    with loaded(seal(linear_package(tmp_path / "linear", 5))) as model:
        explain(model, np.ones((3, 5)))
        stats = model.own_stats()
    assert stats is not None
    assert (stats.succeeded, stats.executions, stats.inferences, stats.mean_batch) == (1, 1, 3, 3.0)
    assert list(stats.batches) == [3] and stats.waited_seconds == stats.infer_seconds
    assert stats.evaluations == 3 * 31 * 8 and stats.evaluation_seconds > 0


def test_a_chunk_has_no_more_rows_than_are_computed_in_its_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving.attributions, "CHUNK_ROWS", 8)  # one coalition
    monkeypatch.setattr(serving.attributions, "CHUNK_MS", 0.0)
    with loaded(seal(linear_package(tmp_path / "linear", 5))) as model:
        chunks = chunks_of(model)
        explain(model, [np.ones(5)])
    assert chunks == [1] * 31


def test_explanations_that_are_asked_for_at_once_share_no_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches = list[int]()
    infer = RowPipeline.infer

    def noted(pipeline: RowPipeline, batch: Sequence[CheckedRows]) -> list[RowOutputs]:
        batches.append(max(len(item.tensor) for item in batch) if len(batch) > 1 else 0)
        return infer(pipeline, batch)

    monkeypatch.setattr(RowPipeline, "infer", noted)
    with loaded(seal(linear_package(tmp_path / "linear", 8))) as model:

        async def both() -> None:
            rows, request = RowValues(np.ones((1, 8))), RowExplanationRequest()
            await asyncio.gather(*(PREDICTOR.explain_rows(model, rows, request, PLAIN, soon()) for _ in range(4)))

        chunks = chunks_of(model)
        run(both())
    assert len(chunks) >= 4 * 2 and max(batches) <= 1  # predictions alone may be together, a row each


def test_explanations_that_take_long_do_not_come_along_with_predictions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving.explained_rows, "MOST_EVALUATIONS_ASIDE", 31 * 8)
    with loaded(seal(linear_package(tmp_path / "linear", 5))) as model:
        one, two = (
            run(PREDICTOR.predict_rows(model, RowValues(np.ones((count, 5))), WITH_HEATMAP, soon())) for count in (1, 2)
        )
    assert len(one.explanations) == 1 and one.explanation_error is None
    assert not two.explanations and "Ask /explain for it" in (two.explanation_error or "") and len(two.outputs) == 2


def test_rows_that_are_wrong_are_left_out(tmp_path: Path) -> None:
    with loaded(seal(linear_package(tmp_path / "linear", 2))) as model:
        predictions = explain(model, [[1, 2], [np.nan, 0], [3, 4]])
    assert set(predictions.problems) == {1}
    values = [explanation.attributions.value for (explanation,) in predictions.explanations]
    assert values == pytest.approx(predictions.outputs[:, 0].tolist())


def test_exact_values_of_many_features_are_refused(tmp_path: Path) -> None:
    with loaded(seal(linear_package(tmp_path / "linear", 13))) as model:
        with pytest.raises(InvalidInput, match=r"13 features.*up to 12; ask for method=shapley-sampled"):
            explain(model, [np.ones(13)], RowExplanationRequest(method="shapley"))
        with pytest.raises(InvalidInput, match="At most 64 rows"):
            explain(model, np.ones((65, 13)))


def test_a_model_without_background_says_what_would_help(tmp_path: Path) -> None:
    with loaded(seal(linear_package(tmp_path / "linear", 2, background=0))) as model:
        with pytest.raises(NoExplanation, match=r"no background.*--examples"):
            explain(model, [[1, 2]])
        predictions = run(PREDICTOR.predict_rows(model, RowValues(np.ones((1, 2))), WITH_HEATMAP, soon()))
        assert "no background" in (predictions.explanation_error or "") and len(predictions.outputs) == 1


def test_a_prediction_is_answered_where_its_explanation_takes_too_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving.explained_rows, "EXPLAINED_SHARE", 0.0)  # no explanation is ready at once
    with loaded(seal(linear_package(tmp_path / "linear", 12))) as model:
        predictions = run(PREDICTOR.predict_rows(model, RowValues(np.ones((1, 12))), WITH_HEATMAP, soon()))
    assert "deadline" in (predictions.explanation_error or "") and not predictions.explanations
    assert predictions.outputs[0, 0] == pytest.approx(weights_of(12).sum(), abs=1e-4)


def test_a_background_is_part_of_the_version(tmp_path: Path) -> None:
    package = linear_package(tmp_path / "linear", 2)
    before = file_digests(package)
    write_background(package, [{"x0": 1, "x1": 2}], "another row")
    after = file_digests(package)
    assert BACKGROUND in before and content_version(before) != content_version(after)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read"),
        ("[]", "cannot be read"),
        ('{"data": "x", "rows": []}', "1 to 1,000 rows"),
        ('{"data": "x", "rows": [{"x0": 1, "x1": 2}, {"x0": 1}]}', "row 2 is wrong: x1 is missing"),
    ],
)
def test_a_background_that_does_not_fit_is_refused(tmp_path: Path, text: str, message: str) -> None:
    package = linear_package(tmp_path / "linear", 2)
    (package / BACKGROUND).write_text(text)
    with pytest.raises(StoreError, match=message):
        read_background(package, as_row_card(read_card(package / "card.toml")).input)
