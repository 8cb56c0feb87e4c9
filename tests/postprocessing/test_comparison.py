"""The distance between two computations of a model, worked out on paper."""

import numpy as np
import pytest

from models.card import parse_card, read_card
from postprocessing.comparison import decision, difference
from tests.conftest import ROOT
from tests.tiny import CARD

CLASSIFIER = parse_card(CARD.format(name="tiny"), "card")
DETECTOR = read_card(ROOT / "models" / "machine_anomaly" / "card.toml")


def test_classifiers_are_compared_by_probability() -> None:
    even, certain = np.array([[0, 0]], np.float32), np.array([[-50, 50]], np.float32)
    assert difference(certain, even, CLASSIFIER) == pytest.approx(np.array([[0.5, 0.5]]))
    assert difference(even + 7, even, CLASSIFIER) == pytest.approx(np.zeros((1, 2)))


def test_detectors_are_compared_by_squared_error_and_by_its_share_where_it_is_large() -> None:
    outputs, reference = np.array([0.3, 110, 0, 2], np.float32), np.array([0.1, 100, 0, 2], np.float32)
    assert difference(outputs, reference, DETECTOR) == pytest.approx([0.2, 0.1, 0, 0], abs=1e-6)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_is_infinitely_far(value: float) -> None:
    reference = np.zeros(4, np.float32)
    assert difference(np.array([value, 0, 0, 0], np.float32), reference, DETECTOR)[0] == np.inf


def test_a_decision_is_what_the_cards_threshold_makes_of_outputs() -> None:
    assert decision(np.array([0, 0], np.float32), CLASSIFIER) == 1  # exactly at the threshold
    assert decision(np.array([0.1, 0], np.float32), CLASSIFIER) == 0
    assert decision(np.full(4, 0.012, np.float32), DETECTOR) is True
    assert decision(np.full(4, 0.010, np.float32), DETECTOR) is False
