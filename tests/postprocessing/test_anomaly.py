"""From squared errors to anomalies, worked out on paper."""

from typing import cast

import numpy as np
import pytest

from models.card import RowCard, read_card
from postprocessing.anomaly import detect
from tests.conftest import ROOT

CARD = cast("RowCard", read_card(ROOT / "models" / "machine_anomaly" / "card.toml"))
FOUR_ERRORS = np.array([0.004, 0.008, 0.012, 0.016], np.float32)
"""Their mean is 0.01; the card's threshold is 0.011."""


def test_the_score_is_the_mean_of_the_squared_errors_which_are_the_contributions() -> None:
    anomaly = detect(FOUR_ERRORS, CARD)
    assert anomaly.anomaly_score == pytest.approx(0.01)
    assert list(anomaly.contributions) == ["temperature", "vibration", "pressure", "power"]
    assert list(anomaly.contributions.values()) == pytest.approx([0.004, 0.008, 0.012, 0.016])
    assert sum(anomaly.contributions.values()) == pytest.approx(anomaly.anomaly_score * 4)


def test_an_anomaly_scores_above_the_threshold_and_not_at_it() -> None:
    assert not detect(FOUR_ERRORS, CARD).is_anomaly and detect(FOUR_ERRORS, CARD).threshold == 0.011
    score = detect(FOUR_ERRORS, CARD).anomaly_score
    assert not detect(FOUR_ERRORS, CARD, threshold=score).is_anomaly
    assert detect(FOUR_ERRORS, CARD, threshold=float(np.nextafter(score, 0))).is_anomaly


@pytest.mark.parametrize(("threshold", "confidence"), [(0.02, 0.5), (0.008, 0.25), (0.01, 0.0), (0.001, 1.0)])
def test_confidence_is_the_distance_from_the_threshold_in_thresholds(threshold: float, confidence: float) -> None:
    assert detect(FOUR_ERRORS, CARD, threshold=threshold).confidence == pytest.approx(confidence, abs=1e-6)
