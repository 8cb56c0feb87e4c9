"""logits → labels, on paper."""

from math import exp

import numpy as np
import pytest

from models.card import ModelCard, parse_card
from postprocessing.interpret import interpret, softmax
from tests.tiny import CARD

TWO = parse_card(CARD.format(name="tiny"), "card")


def many(count: int) -> ModelCard:
    labels = tuple(f"label{index}" for index in range(count))
    return TWO.model_copy(update={"labels": labels, "positive_label": None, "threshold": None})


def logits(*values: float) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    return np.array(values, np.float32)


def test_softmax_by_hand_and_without_overflow() -> None:
    assert softmax(logits(0, 1)) == pytest.approx([1 / (1 + exp(1)), exp(1) / (1 + exp(1))])
    assert softmax(logits(10_000, 9_999)) == pytest.approx([exp(1) / (1 + exp(1)), 1 / (1 + exp(1))])


@pytest.mark.parametrize("count", [2, 10, 20, 21, 1000])
def test_an_answer_has_the_probabilities_of_softmax_whatever_the_number_of_labels(count: int) -> None:
    draw = np.random.default_rng(count)
    for scale in (1, 100, 10_000):
        row = draw.normal(0, scale, count).astype(np.float32)
        said = interpret(row, many(count), top_k=count)
        wanted = np.exp(row.astype(np.float64) - row.max()) / np.exp(row.astype(np.float64) - row.max()).sum()
        assert list(said.probabilities.values()) == pytest.approx(wanted.tolist(), rel=1e-12, abs=1e-300)
        assert [each.probability for each in said.top] == pytest.approx(sorted(wanted, reverse=True), rel=1e-12)


def test_equally_probable_labels_come_in_the_order_of_the_card() -> None:
    for count in (4, 24):
        values = np.zeros(count, np.float32)
        values[[1, 3]] = 2
        said = interpret(values, many(count), top_k=3)
        assert [each.label for each in said.top] == ["label1", "label3", "label0"]


def test_the_positive_label_is_called_exactly_at_its_threshold() -> None:
    at = interpret(logits(0, 0), TWO)
    assert (at.label, at.class_id, at.confidence, at.threshold) == ("bright", 1, 0.5, 0.5)
    below = interpret(logits(0, 0), TWO, threshold=0.500001)
    assert (below.label, below.confidence, below.threshold) == ("dark", 0.5, 0.500001)


def test_confidence_is_the_probability_of_the_label_given_also_when_it_is_the_less_probable() -> None:
    said = interpret(logits(2, 0), TWO, threshold=0.1)
    assert said.label == "bright" and said.confidence == pytest.approx(1 / (1 + exp(2)))
    assert said.top[0].label == "dark"


def test_without_a_positive_label_the_most_probable_wins() -> None:
    said = interpret(logits(1, 3, 2), many(3), top_k=2)
    assert (said.label, said.threshold) == ("label1", None)
    assert [each.label for each in said.top] == ["label1", "label2"]
    assert list(said.probabilities) == ["label0", "label1", "label2"]
    assert sum(said.probabilities.values()) == pytest.approx(1)


def test_more_than_twenty_labels_show_only_the_top_in_index_order() -> None:
    values = np.zeros(21, np.float32)
    values[[4, 17]] = 5, 9
    said = interpret(values, many(21), top_k=2)
    assert list(said.probabilities) == ["label4", "label17"]
    assert len(interpret(values[:20], many(20), top_k=2).probabilities) == 20
