"""The shipped models of rows against NumPy, and the quality that they state on newly drawn rows."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from safetensors.numpy import load_file

from backends.onnx import OnnxBackend
from export.parity import random_inputs
from export.quality import auc
from models.card import RowCard, read_card
from models.goldens import read_goldens
from postprocessing.anomaly import detect
from postprocessing.classification import softmax
from preprocessing.row_transform import transform_rows
from tests.conftest import ROOT
from training.churn import data as customers
from training.machine_anomaly import data as sensors

CHURN, ANOMALY = ROOT / "models" / "churn", ROOT / "models" / "machine_anomaly"
Array = npt.NDArray[np.float64]


def read_row_card(package: Path) -> RowCard:
    card = read_card(package / "card.toml")
    assert isinstance(card, RowCard)
    return card


def read_layers(package: Path, *names: str) -> list[tuple[Array, Array]]:
    weights = load_file(package / "weights.safetensors")
    return [
        (weights[f"{name}.weight"].astype(np.float64), weights[f"{name}.bias"].astype(np.float64)) for name in names
    ]


def run_layers(rows: Array, layers: list[tuple[Array, Array]]) -> Array:
    for index, (weight, bias) in enumerate(layers):
        rows = rows @ weight.T + bias
        if index < len(layers) - 1:
            rows = np.maximum(rows, 0)
    return rows


@pytest.mark.parametrize("package", [CHURN, ANOMALY])
def test_the_network_is_the_one_on_the_card(package: Path) -> None:
    from models.architectures import build  # which imports PyTorch, as no other test here does

    card = read_row_card(package)
    assert sum(parameter.numel() for parameter in build(card).parameters()) == card.parameters


def test_churns_graph_gives_what_its_matrices_give() -> None:
    rows = random_inputs(read_row_card(CHURN), 200)
    expected = run_layers(rows.astype(np.float64), read_layers(CHURN, "network.0", "network.3", "network.6"))
    logits = OnnxBackend(CHURN / "predict.onnx").run(rows).logits
    assert np.allclose(logits, expected, atol=1e-4 * np.abs(expected).max())


def test_the_anomaly_score_is_the_mean_squared_error_of_the_reconstruction() -> None:
    card = read_row_card(ANOMALY)
    rows = transform_rows(sensors.faulty(200, 9, "leak"), card.input)
    code = run_layers(rows.astype(np.float64), read_layers(ANOMALY, "encoder.0", "encoder.2"))
    reconstruction = run_layers(code, read_layers(ANOMALY, "decoder.0", "decoder.2"))
    errors = OnnxBackend(ANOMALY / "predict.onnx").run(rows).logits
    assert np.allclose(errors, (rows - reconstruction) ** 2, atol=1e-4)
    for row, error in zip(errors, (rows - reconstruction) ** 2, strict=True):
        answer = detect(row, card)
        assert answer.anomaly_score == pytest.approx(error.mean(), abs=1e-4)
        assert answer.is_anomaly == (answer.anomaly_score > 0.011)
        assert sum(answer.contributions.values()) == pytest.approx(4 * answer.anomaly_score)


@pytest.mark.parametrize(
    ("errors", "threshold", "expected"),
    [
        ((0.0, 0.0, 0.0, 0.0), None, (False, 0.0, 1.0)),
        ((0.0, 0.044, 0.0, 0.0), None, (False, 0.011, 0.0)),
        ((0.0, 0.0, 0.0, 0.066), None, (True, 0.0165, 0.5)),
        ((4.0, 4.0, 4.0, 4.0), 5.0, (False, 4.0, 0.2)),
        ((4.0, 4.0, 4.0, 4.0), 0.1, (True, 4.0, 1.0)),
    ],
)
def test_a_score_is_read_by_the_threshold(
    errors: tuple[float, ...], threshold: float | None, expected: tuple[bool, float, float]
) -> None:
    answer = detect(np.array(errors, np.float32), read_row_card(ANOMALY), threshold=threshold)
    assert answer.is_anomaly == expected[0]
    assert [answer.anomaly_score, answer.confidence] == pytest.approx(expected[1:], abs=1e-6)


def read_metrics(package: Path) -> dict[str, Any]:
    metrics: dict[str, Any] = json.loads((package / "report.json").read_text())["metrics"]
    return metrics


def test_churn_is_as_good_as_its_report_says_and_nearly_as_good_as_can_be() -> None:
    drawn, metrics = customers.draw(20_000, 77), read_metrics(CHURN)
    rows = transform_rows(drawn.features, read_row_card(CHURN).input)
    chances = softmax(OnnxBackend(CHURN / "predict.onnx").run(rows).logits)[:, 1]
    assert auc(drawn.label, chances) == pytest.approx(metrics["auc"], abs=0.015)
    assert auc(drawn.label, drawn.chance) - auc(drawn.label, chances) < 0.01
    assert np.abs(chances - drawn.chance).mean() < 0.04


def test_the_threshold_keeps_the_stated_false_positive_rate_and_finds_the_stated_share_of_each_fault() -> None:
    card, metrics = read_row_card(ANOMALY), read_metrics(ANOMALY)
    backend = OnnxBackend(ANOMALY / "predict.onnx")

    def share_called_anomalous(rows: Array) -> float:
        scores = backend.run(transform_rows(rows, card.input)).logits.mean(axis=1)
        return float((scores > card.threshold).mean())

    healthy = share_called_anomalous(sensors.healthy(50_000, 77))
    assert healthy == pytest.approx(metrics["wanted_false_positive_rate"], abs=0.003)
    for fault in sensors.FAULTS:
        share = share_called_anomalous(sensors.faulty(2000, 77, fault))
        assert share == pytest.approx(metrics[f"detected, {fault}"], abs=0.03)
    with pytest.raises(ValueError, match="worn bearing"):
        sensors.faulty(1, 0, "rust")


@pytest.mark.parametrize("package", [CHURN, ANOMALY])
def test_goldens_are_rows_that_the_card_takes(package: Path) -> None:
    goldens, _ = read_goldens(package)
    card = read_row_card(package)
    for golden in goldens:
        row = json.loads(golden.data)
        assert set(row) == {entry.name for entry in card.input.entries}
