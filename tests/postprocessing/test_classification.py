"""From logits to labels, worked out on paper."""

from math import exp

import numpy as np
import numpy.typing as npt
import pytest

from models.card import ModelCard, parse_card
from postprocessing.classification import card_probabilities, classify, softmax
from tests.tiny import CARD

TWO_LABELS = parse_card(CARD.format(name="tiny"), "card")


def card_of(labels: int) -> ModelCard:
    """Return a card of so many labels, none of which has a threshold."""
    names = tuple(f"label{index}" for index in range(labels))
    return TWO_LABELS.model_copy(update={"labels": names, "positive_label": None, "threshold": None})


def logits(*values: float) -> npt.NDArray[np.float32]:
    return np.array(values, np.float32)


def test_softmax_by_hand_and_without_overflow() -> None:
    assert softmax(logits(0, 1)) == pytest.approx([1 / (1 + exp(1)), exp(1) / (1 + exp(1))])
    assert softmax(logits(10_000, 9_999)) == pytest.approx([exp(1) / (1 + exp(1)), 1 / (1 + exp(1))])


@pytest.mark.parametrize("count", [2, 10, 20, 21, 1000])
def test_an_answer_has_the_probabilities_of_softmax_whatever_the_number_of_labels(count: int) -> None:
    rng = np.random.default_rng(count)
    for scale in (1, 100, 10_000):
        row = rng.normal(0, scale, count).astype(np.float32)
        classification = classify(row, card_of(count), top_k=count)
        expected = np.exp(row.astype(np.float64) - row.max()) / np.exp(row.astype(np.float64) - row.max()).sum()
        assert list(classification.probabilities.values()) == pytest.approx(expected.tolist(), rel=1e-12, abs=1e-300)
        ranked = [label.probability for label in classification.top]
        assert ranked == pytest.approx(sorted(expected, reverse=True), rel=1e-12)


def test_equally_probable_labels_come_in_the_order_of_the_card() -> None:
    for count in (4, 24):
        values = np.zeros(count, np.float32)
        values[[1, 3]] = 2
        classification = classify(values, card_of(count), top_k=3)
        assert [label.label for label in classification.top] == ["label1", "label3", "label0"]


def test_the_positive_label_is_given_exactly_at_its_threshold() -> None:
    at = classify(logits(0, 0), TWO_LABELS)
    assert (at.label, at.class_id, at.confidence, at.threshold) == ("bright", 1, 0.5, 0.5)
    below = classify(logits(0, 0), TWO_LABELS, threshold=0.500001)
    assert (below.label, below.confidence, below.threshold) == ("dark", 0.5, 0.500001)


def test_confidence_is_the_probability_of_the_label_given_also_when_it_is_the_less_probable() -> None:
    classification = classify(logits(2, 0), TWO_LABELS, threshold=0.1)
    assert classification.label == "bright" and classification.confidence == pytest.approx(1 / (1 + exp(2)))
    assert classification.top[0].label == "dark"


def test_without_a_positive_label_the_most_probable_wins() -> None:
    classification = classify(logits(1, 3, 2), card_of(3), top_k=2)
    assert (classification.label, classification.threshold) == ("label1", None)
    assert [label.label for label in classification.top] == ["label1", "label2"]
    assert list(classification.probabilities) == ["label0", "label1", "label2"]
    assert sum(classification.probabilities.values()) == pytest.approx(1)


def test_more_than_twenty_labels_show_only_the_top_in_index_order() -> None:
    values = np.zeros(21, np.float32)
    values[[4, 17]] = 5, 9
    assert list(classify(values, card_of(21), top_k=2).probabilities) == ["label4", "label17"]
    assert len(classify(values[:20], card_of(20), top_k=2).probabilities) == 20


@pytest.mark.parametrize("count", [2, 21])
def test_a_temperature_divides_the_logits(count: int) -> None:
    card = card_of(count).model_copy(update={"temperature": 2.5})
    row = np.random.default_rng(count).normal(0, 3, count).astype(np.float32)
    expected = np.exp(row / 2.5) / np.exp(row / 2.5).sum()
    classification = classify(row, card, top_k=count)
    assert [label.probability for label in classification.top] == pytest.approx(
        sorted(expected, reverse=True), rel=1e-5
    )
    assert card_probabilities(row[None], card)[0] == pytest.approx(expected, rel=1e-5)
    assert classification.class_id == row.argmax()
