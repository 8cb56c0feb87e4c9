"""The parity check refuses a backend that differs, or that gives a golden another label."""

import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from backends.base import Batch, Logits, Outputs
from cli.main import main
from errors import StoreError
from export.parity import check_parity, random_inputs
from models import store
from models.architectures import build
from models.card import Card, read_card
from postprocessing.comparison import difference
from runners.cores import CoreShare
from serving.loaded_model import LoadedModel
from serving.loading import PREDICTION
from serving.options import RunnerOptions
from serving.self_check import golden_batch
from tests.conftest import ROOT

CHURN = read_card(ROOT / "models" / "churn" / "card.toml")
ANOMALY = read_card(ROOT / "models" / "machine_anomaly" / "card.toml")


class ShiftedBackend:
    """A network whose outputs in one column are shifted; `reference` gives what they should be."""

    runtime: Literal["onnx"] = "onnx"
    device = "cpu"

    def __init__(self, card: Card, shift: float, column: int = 0) -> None:
        torch.manual_seed(2)
        self.network, self.shift, self.column = build(card).eval(), shift, column

    def reference(self, batch: Batch) -> Logits:
        with torch.inference_mode():
            return np.asarray(self.network(torch.from_numpy(batch)))

    def run(self, batch: Batch) -> Outputs:
        outputs = self.reference(batch).copy()
        outputs[:, self.column] += self.shift
        return Outputs(outputs)

    def close(self) -> None: ...


@pytest.mark.parametrize("card", [CHURN, ANOMALY])
def test_a_small_difference_passes_and_is_reported(card: Card) -> None:
    backend, inputs = ShiftedBackend(card, 1e-5), random_inputs(card)
    report = check_parity(card, inputs, backend.reference(inputs), backend, reference_name="PyTorch", goldens=4)
    assert 0 < report.largest_difference <= 2e-5 and (report.inputs, report.label_flips) == (16, 0)


@pytest.mark.parametrize("card", [CHURN, ANOMALY])
def test_a_larger_difference_is_refused_with_its_size(card: Card) -> None:
    backend, inputs = ShiftedBackend(card, 1e-2), random_inputs(card)
    with pytest.raises(StoreError, match=r"differs from PyTorch by \d\.\d\de-0\d \(limit 0\.0001\)"):
        check_parity(card, inputs, backend.reference(inputs), backend, reference_name="PyTorch")


def test_an_output_that_is_not_finite_is_infinitely_far() -> None:
    backend, inputs = ShiftedBackend(CHURN, float("nan")), random_inputs(CHURN)
    with pytest.raises(StoreError, match="by inf"):
        check_parity(CHURN, inputs, backend.reference(inputs), backend, reference_name="PyTorch")


def test_a_golden_that_gets_another_label_is_refused_however_small_the_difference() -> None:
    inputs = random_inputs(CHURN, 4)
    reference = np.array([[0.0, 1e-5], [2.0, 0.0], [0.0, 2.0], [0.0, 2.0]], np.float32)

    class Near(ShiftedBackend):
        def run(self, batch: Batch) -> Outputs:
            rows = [int(np.flatnonzero((inputs == row).all(axis=1))[0]) for row in batch]
            return Outputs(reference[rows] - np.array([0.0, 2e-5], np.float32))

    near = Near(CHURN, 0.0)
    assert check_parity(CHURN, inputs, reference, near, reference_name="it").label_flips == 1
    with pytest.raises(StoreError, match="1 of 4 labels differ"):
        check_parity(CHURN, inputs, reference, near, reference_name="it", goldens=1)


def test_a_detectors_large_errors_are_compared_by_their_share() -> None:
    expected = np.array([[1000.0, 0.5, 0.0, 1.0]], np.float32)
    actual = np.array([[1000.1, 0.6, 0.0, 1.0]], np.float32)
    assert difference(actual, expected, ANOMALY)[0] == pytest.approx([1e-4, 0.1, 0, 0], rel=1e-2)


def changed_card(folder: Path, name: str, *changes: tuple[str, str]) -> Path:
    text = (ROOT / "models" / name.replace("-", "_") / "card.toml").read_text()
    for before, after in changes:
        assert before in text
        text = text.replace(before, after)
    (folder / "card.toml").write_text(text)
    return folder / "card.toml"


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("churn", [('name = "age"', 'name = "years"')]),
        ("churn", [("high = 120\nexample = 42", "high = 45\nexample = 42")]),
        ("machine-anomaly", [('name = "machine_id"', 'name = "machine"')]),
        ("machine-anomaly", [("mean = 1_800.0, std = 700.0", "mean = 1_800.0, std = 0.01")]),
    ],
)
def test_what_is_imported_with_a_card_of_ones_own_also_loads(
    home: Path, tmp_path: Path, name: str, changes: list[tuple[str, str]]
) -> None:
    card = changed_card(tmp_path, name, *changes)
    weights = ROOT / "models" / name.replace("-", "_") / "weights.safetensors"
    result = CliRunner().invoke(main, ["models", "import", name, "--weights", str(weights), "--card", str(card)])
    assert result.exit_code == 0, result.output
    model = LoadedModel(store.find(name).card, store.find(name), PREDICTION)
    model.load(RunnerOptions(), CoreShare(1))
    assert (model.state, model.detail) == ("ready", "")
    assert model.close(5)


def test_ones_own_weights_do_not_claim_to_be_the_bundled(home: Path) -> None:
    weights = ROOT / "models" / "machine_anomaly" / "weights.safetensors"
    result = CliRunner().invoke(main, ["models", "import", "machine-anomaly", "--weights", str(weights)])
    assert result.exit_code == 0 and "--card brings yours" in result.output
    card = store.find("machine-anomaly").card
    assert (card.warnings, card.data) == ((), "your own weights (weights.safetensors)")


def test_a_golden_that_the_card_refuses_is_named() -> None:
    row: dict[str, Any] = {"age": 5}
    with pytest.raises(StoreError, match=r"refuses the golden input bad\.json: .*income is missing"):
        golden_batch(CHURN, [("bad.json", json.dumps(row).encode())])
