"""Rows that are judged together get what each of them gets alone."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.card import ModelCard, as_row_card, read_card
from postprocessing.anomaly import detect, detect_rows
from postprocessing.classification import classify, classify_rows
from tests.conftest import ROOT

CARD = read_card(ROOT / "models" / "cifar10" / "card.toml")
CHURN = read_card(ROOT / "models" / "churn" / "card.toml")
ANOMALY = as_row_card(read_card(ROOT / "models" / "machine_anomaly" / "card.toml"))


@pytest.mark.parametrize("card", [CARD, CHURN, CHURN.model_copy(update={"temperature": 2.5})])
@given(seed=st.integers(0, 1000), top_k=st.integers(1, 2), threshold=st.none() | st.floats(0, 1))
def test_rows_are_classified_as_each_of_them_is(
    card: ModelCard, seed: int, top_k: int, threshold: float | None
) -> None:
    logits = np.random.default_rng(seed).normal(0, 3, (5, len(card.labels))).round(1).astype(np.float32)
    together = classify_rows(logits, card, threshold=threshold, top_k=top_k)
    for place, row in enumerate(logits):
        alone = classify(row, card, threshold=threshold, top_k=top_k)
        assert alone.class_id == together.class_ids[place] and alone.threshold == together.threshold
        assert list(alone.probabilities.values()) == pytest.approx(together.probabilities[place].tolist(), abs=1e-12)
        assert [entry.label for entry in alone.top] == [card.labels[index] for index in together.most_probable[place]]


def test_rows_of_errors_are_judged_by_their_own_mean() -> None:
    errors = np.array([[0, 0, 0, 0.04], [0.08, 0, 0, 0]], np.float32)
    together = detect_rows(errors, ANOMALY)
    assert together.are_anomalies.tolist() == [False, True] and together.scores == pytest.approx([0.01, 0.02])
    assert detect(errors[1], ANOMALY).confidence == pytest.approx(together.confidences[1])
