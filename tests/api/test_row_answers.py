"""Answers of rows that are written by columns are what their schema says, number for number."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.row_answers import row_answers
from api.schemas import AnomalyPrediction, RowPrediction
from models.card import RowCard, parse_card
from postprocessing.anomaly import Anomalies, detect_rows
from postprocessing.classification import classify_rows
from tests.conftest import ROOT

COMMON = {
    **{"model": "100% sure", "version": "3f2a", "warnings": ['a "quoted" warning, 5 %'], "device": "cpu"},
    **{"inference_time_ms": 1.5, "request_id": "r-1"},
}


def card_of(name: str, labels: list[str] | None = None) -> RowCard:
    text = (ROOT / "models" / name / "card.toml").read_text()
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


def test_what_identifies_a_row_comes_back_as_it_was_sent() -> None:
    card, errors = card_of("machine_anomaly"), np.array([[0.1, 0, 0, 1e-12]], np.float32)
    row = {"timestamp": "2026-01-15", "machine_id": 'Größe "7"\n%s'}
    (text,) = row_answers(detect_rows(errors, card), [row], card, COMMON)
    answer = AnomalyPrediction.model_validate_json(text)
    assert answer.model_extra == row and answer.is_anomaly is True
    assert list(answer.contributions.values()) == pytest.approx(errors[0].tolist(), rel=1e-8)


@given(st.floats(allow_nan=False, allow_infinity=False, width=32))
def test_the_digits_of_a_number_are_as_many_as_float32_holds(number: float) -> None:
    card = card_of("machine_anomaly")
    results = Anomalies(np.array([False]), np.array([number]), 0.011, np.array([1.0]), np.zeros((1, 4), np.float32))
    row = {"timestamp": "2026-01-15", "machine_id": "press-07"}
    answer = json.loads(row_answers(results, [row], card, COMMON)[0])
    assert np.float32(answer["anomaly_score"]) == np.float32(number)
    assert isinstance(answer["anomaly_score"], float) and isinstance(answer["confidence"], float)
