"""The labels that a model gave, and how sure it was, counted one by one and for many rows at once."""

import numpy as np
import pytest
from prometheus_client import REGISTRY

from models.card import read_card
from serving.model_meters import ModelMeters
from tests.conftest import ROOT


def counted(version: str) -> dict[str, tuple[float, float]]:
    """Return how often each label of churn was answered, and the sum of the confidences."""
    values = dict[str, tuple[float, float]]()
    for label in ("class_0", "class_1"):
        series = {"model": "churn", "version": version, "label": label}
        count = REGISTRY.get_sample_value("vitrine_predictions_total", series)
        total = REGISTRY.get_sample_value("vitrine_prediction_confidence_total", series)
        if count is not None and total is not None:
            values[label] = count, round(total, 6)
    return values


def test_rows_are_counted_as_one_by_one_and_only_labels_that_were_answered_have_series() -> None:
    card = read_card(ROOT / "models" / "churn" / "card.toml")
    probabilities = np.array([[0.7, 0.3], [0.4, 0.6], [0.9, 0.1]])
    together, single, scores = ModelMeters(card, "rows"), ModelMeters(card, "single"), ModelMeters(card, "scores")
    single.answered_rows(np.array([1]), probabilities[1:2])
    single.write()
    assert counted("single") == {"class_1": (1, 0.6)}
    together.answered_rows(np.array([0, 1, 0]), probabilities)
    scores.answered_rows(np.array([False, True, False]), np.array([0.7, 0.6, 0.9]))
    scores.answered_rows(np.array([True]), np.array([0.25]))
    for meters in (together, scores, together):
        meters.answered_rows(np.array([], np.int64), np.zeros((0, 2)))
        meters.write()
    assert counted("rows") == {"class_0": (2, 1.6), "class_1": (1, 0.6)}
    assert counted("scores") == {"class_0": (2, 1.6), "class_1": (2, 0.85)}


def test_explanations_are_counted_by_their_method(monkeypatch: pytest.MonkeyPatch) -> None:
    meters = ModelMeters(read_card(ROOT / "models" / "churn" / "card.toml"), "explained")
    monkeypatch.setattr("time.monotonic", lambda: 12.5)
    meters.explained("shapley", 10.0)
    meters.write()
    series = {"model": "churn", "version": "explained", "method": "shapley"}
    assert REGISTRY.get_sample_value("vitrine_explain_seconds_sum", series) == 2.5
    assert REGISTRY.get_sample_value("vitrine_explain_seconds_bucket", series | {"le": "2.5"}) == 1
    assert REGISTRY.get_sample_value("vitrine_explain_seconds_bucket", series | {"le": "1.0"}) == 0
