"""The parity gate refuses what differs, and what calls a golden another label."""

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
from export.parity import check, golden_batch, random_inputs
from models import store
from models.architectures import build
from models.card import Card, read_card
from postprocessing.interpret import difference
from runners.plan import CoreShare
from serving.loaded_model import RunnerOptions, ServedModel
from tests.conftest import ROOT

CHURN = read_card(ROOT / "models" / "churn" / "card.toml")
ANOMALY = read_card(ROOT / "models" / "machine_anomaly" / "card.toml")


class Off:
    """A network whose first output is off by some; the reference is right."""

    runtime: Literal["onnx"] = "onnx"
    device = "cpu"

    def __init__(self, card: Card, off: float, at: int = 0) -> None:
        torch.manual_seed(2)
        self.network, self.off, self.at = build(card).eval(), off, at

    def right(self, batch: Batch) -> Logits:
        with torch.inference_mode():
            return np.asarray(self.network(torch.from_numpy(batch)))

    def run(self, batch: Batch) -> Outputs:
        outputs = self.right(batch).copy()
        outputs[:, self.at] += self.off
        return Outputs(outputs)

    def close(self) -> None: ...


@pytest.mark.parametrize("card", [CHURN, ANOMALY])
def test_a_small_difference_passes_and_is_reported(card: Card) -> None:
    backend, inputs = Off(card, 1e-5), random_inputs(card)
    found = check(card, inputs, backend.right(inputs), backend, named="right", goldens=4)
    assert 0 < found.largest_difference <= 2e-5 and (found.inputs, found.label_flips) == (16, 0)


@pytest.mark.parametrize("card", [CHURN, ANOMALY])
def test_a_larger_one_is_refused_with_its_size(card: Card) -> None:
    backend, inputs = Off(card, 1e-2), random_inputs(card)
    with pytest.raises(StoreError, match=r"differs from right by \d\.\d\de-0\d \(limit 0\.0001\)"):
        check(card, inputs, backend.right(inputs), backend, named="right")


def test_what_is_not_finite_is_infinitely_far() -> None:
    backend, inputs = Off(CHURN, float("nan")), random_inputs(CHURN)
    with pytest.raises(StoreError, match="by inf"):
        check(CHURN, inputs, backend.right(inputs), backend, named="right")


def test_a_golden_that_is_called_another_label_is_refused_however_small_the_difference() -> None:
    inputs = random_inputs(CHURN, 4)
    reference = np.array([[0.0, 1e-5], [2.0, 0.0], [0.0, 2.0], [0.0, 2.0]], np.float32)

    class Near(Off):
        def run(self, batch: Batch) -> Outputs:
            rows = [int(np.flatnonzero((inputs == row).all(axis=1))[0]) for row in batch]
            return Outputs(reference[rows] - np.array([0.0, 2e-5], np.float32))

    near = Near(CHURN, 0.0)
    assert check(CHURN, inputs, reference, near, named="it").label_flips == 1
    with pytest.raises(StoreError, match="1 of 4 labels another"):
        check(CHURN, inputs, reference, near, named="it", goldens=1)


def test_a_detectors_large_errors_are_compared_by_their_share() -> None:
    wanted = np.array([[1000.0, 0.5, 0.0, 1.0]], np.float32)
    got = np.array([[1000.1, 0.6, 0.0, 1.0]], np.float32)
    assert difference(got, wanted, ANOMALY)[0] == pytest.approx([1e-4, 0.1, 0, 0], rel=1e-2)


def changed(folder: Path, name: str, *changes: tuple[str, str]) -> Path:
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
    card = changed(tmp_path, name, *changes)
    weights = ROOT / "models" / name.replace("-", "_") / "weights.safetensors"
    result = CliRunner().invoke(main, ["models", "import", name, "--weights", str(weights), "--card", str(card)])
    assert result.exit_code == 0, result.output
    model = ServedModel(store.find(name).card, store.find(name))
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
