"""Answers of rows that are written by columns are what their schema says, number for number."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.row_answers import row_answers, row_batch_json
from api.schemas import AnomalyPrediction, RowBatchAnswer, RowPrediction
from models.card import RowCard, parse_card
from postprocessing.anomaly import Anomalies, detect_rows
from postprocessing.classification import classify_rows
from postprocessing.regression import Regressions
from tests.conftest import ROOT
from tests.tiny import REGRESSOR

COMMON = {
    **{"model": "100% sure", "version": "3f2a", "warnings": ['a "quoted" warning, 5 %'], "device": "cpu"},
    **{"inference_time_ms": 1.5, "request_id": "r-1"},
}


def card_of(name: str, labels: list[str] | None = None, section: str = "") -> RowCard:
    text = (ROOT / "models" / name / "card.toml").read_text()
    if section:
        text = text.partition("\n[answer")[0] + section
    if labels:
        text = text.replace('labels = ["class_0", "class_1"]', f"labels = {json.dumps(labels)}")
        text = text.replace('positive_label = "class_1"', f"positive_label = {json.dumps(labels[-1])}")
    card = parse_card(text, "card.toml")
    assert isinstance(card, RowCard)
    return card


@pytest.mark.parametrize("count", [2, 25])
def test_answers_of_a_classifier_are_read_by_their_schema(count: int) -> None:
    card = card_of("churn", [f'label "{place}" %s' for place in range(count)])
    results = classify_rows(np.random.default_rng(0).normal(0, 3, (4, count)).astype(np.float32), card, top_k=2)
    texts = row_answers(results, [{}] * 4, card, COMMON | {"timestamp": "2026-01-15T08:30:00Z"})
    for place, text in enumerate(texts):
        answer = RowPrediction.model_validate_json(text)
        best = np.argsort(-results.probabilities[place])[:2]
        assert answer.model == "100% sure" and answer.warnings == COMMON["warnings"] and answer.threshold == 0.5
        assert answer.prediction == card.labels[results.class_ids[place]]
        assert answer.confidence == pytest.approx(results.probabilities[place][answer.predicted_class_id], rel=1e-8)
        assert [entry.label for entry in answer.top] == [card.labels[index] for index in best]
        listed = range(count) if count <= 20 else sorted(best)
        assert list(answer.probabilities) == [card.labels[index] for index in listed]
        assert list(answer.probabilities.values()) == pytest.approx(results.probabilities[place][listed], rel=1e-8)


@pytest.mark.parametrize("timestamp", ["2026-01-15", 1_768_465_800, 1_768_465_800.25])
def test_what_identifies_a_row_comes_back_as_it_was_sent(timestamp: str | float) -> None:
    card, errors = card_of("machine_anomaly"), np.array([[0.1, 0, 0, 1e-12]], np.float32)
    row: dict[str, Any] = {"timestamp": timestamp, "machine_id": 'Größe "7"\n%s'}
    (text,) = row_answers(detect_rows(errors, card), [row], card, COMMON)
    answer = AnomalyPrediction.model_validate_json(text)
    assert answer.model_extra == row | {"model_version": "3f2a"} and answer.is_anomaly is True
    assert list(answer.contributions.values()) == pytest.approx(errors[0].tolist(), rel=1e-8)


@given(st.floats(allow_nan=False, allow_infinity=False, width=32))
def test_the_digits_of_a_number_are_as_many_as_float32_holds(number: float) -> None:
    card = card_of("machine_anomaly")
    results = Anomalies(np.array([False]), np.array([number]), 0.011, np.array([1.0]), np.zeros((1, 4), np.float32))
    row = {"timestamp": "2026-01-15", "machine_id": "press-07"}
    answer = json.loads(row_answers(results, [row], card, COMMON)[0])
    assert np.float32(answer["anomaly_score"]) == np.float32(number)
    assert isinstance(answer["anomaly_score"], float) and isinstance(answer["confidence"], float)


@pytest.mark.parametrize("number", [99_999_999.5, 123_456_789.0, -999_999_999.9, 1e9, 5e8, 0.0])
def test_a_value_of_nine_digits_before_its_point_is_json(number: float) -> None:
    card = parse_card(REGRESSOR, "card.toml")
    assert isinstance(card, RowCard)
    answer = json.loads(row_answers(Regressions(np.array([[number]], np.float32)), [{}], card, COMMON)[0])
    assert np.float32(answer["prediction"]) == np.float32(answer["values"]["price"]) == np.float32(number)
    assert answer["units"] == {"price": "CHF"}


@pytest.mark.parametrize("count", [2, 25])
def test_parts_of_an_answer_that_are_repeated_differ_from_row_to_row(count: int) -> None:
    labels = [f"label {place}" for place in range(count)]
    section = """
[answer.also]
risk = "probabilities.label 0"
names = "top.label"
listed = "top.count"
both = { label = "prediction", rate = "threshold", best = "top.probability" }
"""
    card = card_of("churn", labels, section)
    logits = np.random.default_rng(1).normal(0, 3, (30, count)).astype(np.float32)
    rows: list[dict[str, Any]] = [{}] * 30
    results = classify_rows(logits, card, top_k=2)
    for class_id, text in zip(results.class_ids, row_answers(results, rows, card, COMMON, "index"), strict=True):
        answer = json.loads(text)
        assert answer["prediction"] == answer["predicted_class_id"] == class_id
        assert answer["risk"] == answer["probabilities"].get("label 0")  # of many labels only the top ones are listed
        assert (answer["names"], answer["listed"]) == ([entry["label"] for entry in answer["top"]], 2)
        best = [entry["probability"] for entry in answer["top"]]
        assert answer["both"] == {"label": answer["prediction"], "rate": 0.5, "best": best}


def test_a_batch_repeats_its_entries_and_their_parts() -> None:
    section = """
[answer.batch_also]
results = "predictions"
sure = "predictions.confidence"
first = { count = "predictions.count", name = "model" }
"""
    card = card_of("churn", section=section)
    results = classify_rows(np.array([[1, 2], [3, 0]], np.float32), card)
    answers = [*row_answers(results, [{}, {}], card, COMMON), '{"error": {"status": 400}}']
    fields = {"model": "churn", "version": "3f2a", "batch_size": 3, "total_samples": 3, "errors": 1}
    empty = RowBatchAnswer(**fields, inference_time_ms=1.5, predictions=[])
    batch = json.loads(row_batch_json(empty, answers, card.answer))
    assert batch["predictions"] == batch["results"] == [json.loads(answer) for answer in answers]
    assert batch["sure"] == [*(entry["confidence"] for entry in batch["predictions"][:2]), None]
    assert batch["first"] == {"count": 3, "name": "churn"} and batch["batch_size"] == 3
