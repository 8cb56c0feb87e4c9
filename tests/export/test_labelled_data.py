"""The labelled data of the shipped models: transformed by the card that asks, and other items in each split."""

import numpy as np
from sklearn.metrics import roc_auc_score

from backends.onnx import OnnxBackend
from models.card import ImageCard, read_card
from preprocessing.transform import transform
from tests.conftest import ROOT
from training.churn import data as customers
from training.kidney_stone import data as phantoms
from training.kidney_stone.phantom import draw
from training.machine_anomaly import data as readings

CHURN = ROOT / "models" / "churn"


def test_phantoms_are_transformed_by_the_card_that_asks_and_splits_share_none() -> None:
    card = read_card(ROOT / "models" / "kidney_stone" / "card.toml")
    assert isinstance(card, ImageCard)
    own = card.model_copy(update={"input": card.input.model_copy(update={"size": (40, 56), "clahe": None})})
    items = list(phantoms.labelled(own, "validate", 4) or [])
    for index, (inputs, labels) in enumerate(items):
        phantom = draw(phantoms.VALIDATE + index)
        assert inputs.shape == (1, 3, 40, 56) and labels.tolist() == [phantom.label]
        assert np.array_equal(inputs[0], transform(phantom.image, own.input).tensor)
    calibration = list(phantoms.labelled(own, "calibrate", 4) or [])
    assert not any(np.array_equal(item.inputs, other.inputs) for item in items for other in calibration)
    assert phantoms.labelled(own.model_copy(update={"labels": ("a", "b")}), "validate", 4) is None


def test_faults_are_the_positive_half_of_the_readings_and_other_rows_have_none() -> None:
    card = read_card(ROOT / "models" / "machine_anomaly" / "card.toml")
    batches = list(readings.labelled(card, "validate", 600) or [])
    labels = np.concatenate([batch.labels for batch in batches])
    assert len(labels) == 600 and abs(int(labels.sum()) - 300) < 5
    outputs = OnnxBackend(ROOT / "models" / "machine_anomaly" / "predict.onnx").run(
        np.concatenate([batch.inputs for batch in batches])
    )
    assert roc_auc_score(labels, outputs.logits.mean(axis=1)) > 0.99
    assert readings.labelled(read_card(CHURN / "card.toml"), "validate", 600) is None
    assert customers.labelled(card, "validate", 600) is None
