"""The shipped models of rows against NumPy, and their stated quality on rows drawn anew."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from safetensors.numpy import load_file

from backends.onnx import OnnxBackend
from export.parity import random_inputs
from models.architectures import build
from models.card import RowCard, read_card
from models.goldens import read_goldens
from postprocessing.interpret import interpret_anomaly, softmax
from preprocessing.rows import transform_rows
from tests.conftest import ROOT
from training import figures as quality
from training.churn import data as customers
from training.machine_anomaly import data as sensors

CHURN, ANOMALY = ROOT / "models" / "churn", ROOT / "models" / "machine_anomaly"
Array = npt.NDArray[np.float64]


def card_of(package: Path) -> RowCard:
    card = read_card(package / "card.toml")
    assert isinstance(card, RowCard)
    return card


def layers(package: Path, *names: str) -> list[tuple[Array, Array]]:
    weights = load_file(package / "weights.safetensors")
    return [
        (weights[f"{name}.weight"].astype(np.float64), weights[f"{name}.bias"].astype(np.float64)) for name in names
    ]


def through(rows: Array, stack: list[tuple[Array, Array]]) -> Array:
    for index, (weight, bias) in enumerate(stack):
        rows = rows @ weight.T + bias
        if index < len(stack) - 1:
            rows = np.maximum(rows, 0)
    return rows


@pytest.mark.parametrize("package", [CHURN, ANOMALY])
def test_the_network_is_the_one_on_the_card(package: Path) -> None:
    card = card_of(package)
    assert sum(each.numel() for each in build(card).parameters()) == card.parameters


def test_churn_serves_what_its_matrices_say() -> None:
    rows = random_inputs(card_of(CHURN), 200)
    wanted = through(rows.astype(np.float64), layers(CHURN, "network.0", "network.3", "network.6"))
    assert np.allclose(OnnxBackend(CHURN / "predict.onnx").run(rows).logits, wanted, atol=1e-4 * np.abs(wanted).max())


def test_the_anomaly_score_is_the_mean_squared_error_of_the_reconstruction() -> None:
    card = card_of(ANOMALY)
    rows = transform_rows(sensors.faulty(200, 9, "leak"), card.input)
    code = through(rows.astype(np.float64), layers(ANOMALY, "encoder.0", "encoder.2"))
    again = through(code, layers(ANOMALY, "decoder.0", "decoder.2"))
    errors = OnnxBackend(ANOMALY / "predict.onnx").run(rows).logits
    assert np.allclose(errors, (rows - again) ** 2, atol=1e-4)
    for row, error in zip(errors, (rows - again) ** 2, strict=True):
        said = interpret_anomaly(row, card)
        assert said.anomaly_score == pytest.approx(error.mean(), abs=1e-4)
        assert said.is_anomaly == (said.anomaly_score > 0.011)
        assert sum(said.contributions.values()) == pytest.approx(4 * said.anomaly_score)


@pytest.mark.parametrize(
    ("errors", "threshold", "wanted"),
    [
        ((0.0, 0.0, 0.0, 0.0), None, (False, 0.0, 1.0)),
        ((0.0, 0.044, 0.0, 0.0), None, (False, 0.011, 0.0)),
        ((0.0, 0.0, 0.0, 0.066), None, (True, 0.0165, 0.5)),
        ((4.0, 4.0, 4.0, 4.0), 5.0, (False, 4.0, 0.2)),
        ((4.0, 4.0, 4.0, 4.0), 0.1, (True, 4.0, 1.0)),
    ],
)
def test_a_score_is_read_by_the_threshold(
    errors: tuple[float, ...], threshold: float | None, wanted: tuple[bool, float, float]
) -> None:
    said = interpret_anomaly(np.array(errors, np.float32), card_of(ANOMALY), threshold=threshold)
    assert said.is_anomaly == wanted[0]
    assert [said.anomaly_score, said.confidence] == pytest.approx(wanted[1:], abs=1e-6)


def report(package: Path) -> dict[str, Any]:
    metrics: dict[str, Any] = json.loads((package / "report.json").read_text())["metrics"]
    return metrics


def test_churn_is_as_good_as_its_report_says_and_nearly_as_good_as_can_be() -> None:
    drawn, said = customers.draw(20_000, 77), report(CHURN)
    scores = softmax(
        OnnxBackend(CHURN / "predict.onnx").run(transform_rows(drawn.features, card_of(CHURN).input)).logits
    )[:, 1]
    assert quality.auc(drawn.label, scores) == pytest.approx(said["auc"], abs=0.015)
    assert quality.auc(drawn.label, drawn.chance) - quality.auc(drawn.label, scores) < 0.01
    assert np.abs(scores - drawn.chance).mean() < 0.04


def test_the_threshold_keeps_the_stated_false_positive_rate_and_each_fault_points_at_its_sensor() -> None:
    card, said = card_of(ANOMALY), report(ANOMALY)
    backend = OnnxBackend(ANOMALY / "predict.onnx")
    well = backend.run(transform_rows(sensors.healthy(50_000, 77), card.input)).logits.mean(axis=1)
    assert (well > card.threshold).mean() == pytest.approx(said["wanted_false_positive_rate"], abs=0.003)
    for fault in sensors.FAULTS:
        ill = backend.run(transform_rows(sensors.faulty(2000, 77, fault), card.input)).logits.mean(axis=1)
        assert (ill > card.threshold).mean() == pytest.approx(said[f"detected, {fault}"], abs=0.03)
    with pytest.raises(ValueError, match="worn bearing"):
        sensors.faulty(1, 0, "rust")


@pytest.mark.parametrize("package", [CHURN, ANOMALY])
def test_goldens_are_rows_that_the_card_takes(package: Path) -> None:
    goldens, _ = read_goldens(package)
    card = card_of(package)
    for golden in goldens:
        row = json.loads(golden.data)
        assert set(row) == {entry.name for entry in card.input.entries}
