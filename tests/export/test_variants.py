"""Variants of lower precision: really quantised, compared with NumPy's own forward pass, refused where worse."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner, Result
from onnx import TensorProto
from safetensors.numpy import load_file, save_file
from sklearn.metrics import roc_auc_score

from backends.base import Outputs
from backends.onnx import OnnxBackend
from cli.main import main
from errors import StoreError
from export.labelled import Items, Labelled, auc
from export.parity import golden_batch
from export.variant_gate import RANDOM, Side, measure
from export.variants import ITEMS_OF_ROWS, make
from models import store
from models.card import ImageCard, read_card, read_image_card
from models.goldens import read_goldens
from models.package import MANIFEST, StoredModel, files_of
from models.registry import source_of
from preprocessing.transform import transform
from runners.plan import CoreShare
from serving.backend import device_of
from serving.gradcam.worker import ExplainedModel
from serving.loaded_model import RunnerOptions, ServedModel
from tests.conftest import ROOT
from tests.explain.package import coloured, small_net, small_package, tensor_of
from tests.export.test_importers import graph_file, labels_file
from training.churn import data as customers
from training.kidney_stone import data as phantoms
from training.kidney_stone.phantom import draw
from training.machine_anomaly import data as readings

CHURN = ROOT / "models" / "churn"
ITEMS = ITEMS_OF_ROWS


def imported(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["models", "import", *map(str, arguments)])


def churn_chances(rows: np.ndarray) -> np.ndarray:
    """P(class_1) of customers (N, 6) by NumPy alone, from the card's steps and the weights; float64."""
    age, income, tenure, purchases, value, idle = rows.T
    scaled = np.stack(
        [
            (age - 45) / 15,
            (np.log1p(income) - 10.8) / 0.6,
            np.log1p(np.clip(tenure, 0, 7300)) - 6.3,
            np.log1p(purchases) - 2.3,
            (np.log1p(value) - 4) / 0.7,
            (np.log1p(np.clip(idle, 0, 3650)) - 3.9) / 1.2,
        ],
        axis=1,
    )
    weights = {name: each.astype(np.float64) for name, each in load_file(CHURN / "weights.safetensors").items()}
    for layer in (0, 3):
        scaled = np.maximum(scaled @ weights[f"network.{layer}.weight"].T + weights[f"network.{layer}.bias"], 0)
    logits = scaled @ weights["network.6.weight"].T + weights["network.6.bias"]
    return np.asarray(1 / (1 + np.exp(logits[:, 0] - logits[:, 1])))


def served(stored: StoredModel, rows: list[dict[str, float]]) -> np.ndarray:
    """P(class_1) as a client gets it."""
    model = ServedModel(stored.card, stored)
    model.load(RunnerOptions(), CoreShare(1))
    assert (model.state, model.detail) == ("ready", "")
    outputs = model.submit_rows(rows).result(30).value.outputs.astype(np.float64)
    assert model.close(5)
    return np.asarray(1 / (1 + np.exp(outputs[:, 0] - outputs[:, 1])))


@pytest.mark.parametrize(("precision", "kind"), [("int8", TensorProto.INT8), ("fp16", TensorProto.FLOAT16)])
def test_churn_is_lowered_and_the_report_is_what_numpy_makes_of_it(home: Path, precision: str, kind: int) -> None:
    result = imported("churn", "--variant", precision)
    assert result.exit_code == 0, result.output
    stored = store.find("churn")
    drawn = customers.draw(ITEMS, customers.VALIDATE)
    names = [feature.name for feature in stored.card.input.features]  # type: ignore[union-attr]
    right = churn_chances(drawn.features)
    got = served(stored, [dict(zip(names, row, strict=True)) for row in drawn.features.tolist()])
    found = stored.parity()["variant"]
    assert (found["variant"], found["data"], found["items"]) == (precision, "synthetic customers", ITEMS)
    assert found["auc_fp32"] == pytest.approx(roc_auc_score(drawn.label, right), abs=1e-5)
    assert found["auc"] == pytest.approx(roc_auc_score(drawn.label, got), abs=1e-5)
    assert found["largest_difference_labelled"] == pytest.approx(np.abs(got - right).max(), abs=1e-5)
    assert 1e-5 < found["largest_difference_labelled"] < 0.5
    for side, chances in (("_fp32", right), ("", got)):
        assert found[f"sensitivity{side}"] == pytest.approx((chances[drawn.label == 1] >= 0.5).mean(), abs=2e-4)
        assert found[f"false_positive_rate{side}"] == pytest.approx((chances[drawn.label == 0] >= 0.5).mean(), abs=2e-4)

    written = json.loads((stored.path / "goldens" / "goldens.json").read_text())
    goldens = [json.loads((stored.path / "goldens" / each["file"]).read_text()) for each in written["goldens"]]
    away = np.abs(served(stored, goldens) - churn_chances(np.array([[row[name] for name in names] for row in goldens])))
    assert found["largest_difference_goldens"] == pytest.approx(away.max(), abs=1e-6)
    assert written["tolerance"] == found["tolerance"] == pytest.approx(max(1e-3, 1.5 * away.max()), rel=0.05)
    shipped = json.loads((CHURN / "goldens" / "goldens.json").read_text())
    assert written["goldens"] == shipped["goldens"] and written["reference"] == shipped["reference"]

    graph = onnx.load(stored.graph)
    weights = [each for each in graph.graph.initializer if len(each.dims) == 2]
    assert len(weights) == 3 and {each.data_type for each in weights} == {kind}
    assert not any(each.external_data for each in graph.graph.initializer)
    assert found["bytes"] == stored.graph.stat().st_size
    assert found["bytes_fp32"] == sum((CHURN / each).stat().st_size for each in ("predict.onnx", "weights.safetensors"))
    assert found["milliseconds"] > 0 and found["milliseconds_fp32"] > 0
    assert stored.parity()["reference"] == json.loads((CHURN / "parity.json").read_text())["reference"]


def test_labels_that_differ_are_counted(home: Path) -> None:
    assert imported("churn", "--variant", "int8").exit_code == 0
    found, graph = store.find("churn").parity()["variant"], OnnxBackend(store.find("churn").graph)
    rows = customers.draw(ITEMS, customers.VALIDATE)
    batches = list(customers.labelled(store.find("churn").card, "validate", ITEMS) or [])
    outputs = np.concatenate([graph.run(batch).logits for batch, _ in batches])
    flips = ((outputs[:, 1] >= outputs[:, 0]) != (churn_chances(rows.features) >= 0.5)).sum()
    assert found["inputs"] == ITEMS + RANDOM + 4
    assert flips > 0 and 0 <= found["label_flips"] - flips <= RANDOM  # those of the random inputs come on top


def test_a_variant_is_a_version_of_its_own_that_stays_in_service(home: Path) -> None:
    assert imported("churn").exit_code == 0
    plain = store.find("churn")
    assert imported("churn", "--variant", "int8").exit_code == 0
    variant = store.find("churn")
    assert variant.version != plain.version and len(store.installed()) == 2
    assert (plain.variant, variant.variant) == ("fp32", "int8")
    assert not store.shipped_is_wanted("churn")
    listed = CliRunner().invoke(main, ["models", "list"]).output.splitlines()
    assert any(variant.version in line and "int8" in line and "served" in line for line in listed)
    assert any(plain.version in line and "fp32" in line and "installed" in line for line in listed)
    shown = CliRunner().invoke(main, ["models", "show", "churn"]).output
    assert "Variant" in shown and "auc_fp32" in shown and "milliseconds_fp32" in shown
    assert "Variant" not in CliRunner().invoke(main, ["models", "show", plain.tag]).output
    again = imported("churn", "--variant", "int8")
    assert again.exit_code == 0 and f"Already there: {variant.tag}" in again.output


def with_an_outlier(folder: Path, size: float) -> Path:
    """Churn's weights, one hidden unit of which is huge and goes nowhere: fp32 hardly notices, a shared scale does."""
    weights = load_file(CHURN / "weights.safetensors")
    weights["network.0.bias"][7] = size
    weights["network.3.weight"][:, 7] = 0
    save_file(weights, folder / "outlier.safetensors")
    return folder / "outlier.safetensors"


def test_what_int8_ruins_is_refused_and_fp16_takes_it(home: Path, tmp_path: Path) -> None:
    weights = with_an_outlier(tmp_path, 1e4)
    result = imported("churn", "--weights", weights, "--variant", "int8")
    assert result.exit_code == 1 and isinstance(result.exception, SystemExit)
    assert "AUC falls from 0.89" in result.output and "to 0.5000 on 20,000 labelled items" in result.output
    assert "try --variant fp16" in result.output
    assert store.installed() == []
    result = imported("churn", "--weights", weights, "--variant", "fp16")
    assert result.exit_code == 0, result.output
    assert store.find("churn").variant == "fp16"


def test_outputs_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    card, (goldens, _) = read_card(CHURN / "card.toml"), read_goldens(CHURN)
    graph = onnx.load(CHURN / "predict.onnx")
    bias = next(each for each in graph.graph.initializer if each.name == "network.6.bias")
    bias.CopyFrom(onnx.numpy_helper.from_array(np.array([0, np.inf], np.float32), bias.name))
    onnx.save(graph, tmp_path / "broken.onnx")
    fp32 = Side(OnnxBackend(CHURN / "predict.onnx"), 1)
    assert measure(card, "fp16", goldens, None, fp32, fp32).largest_difference_goldens < 1e-6
    with pytest.raises(StoreError, match=r"as fp16 is refused: its outputs for goldens .* are not finite.*keep fp32"):
        measure(card, "fp16", goldens, None, fp32, Side(OnnxBackend(tmp_path / "broken.onnx"), 1))


def test_a_golden_that_is_called_another_label_is_refused_by_name(tmp_path: Path) -> None:
    package = tmp_path / "churn"
    shutil.copytree(CHURN, package)
    make(package, "int8", tmp_path / "int8")
    goldens = sorted((package / "goldens").glob("[0-9].json"))
    rows = np.array([list(json.loads(path.read_text()).values()) for path in goldens])
    right = churn_chances(rows)
    inputs = golden_batch(read_card(package / "card.toml"), [(path.name, path.read_bytes()) for path in goldens])
    outputs = OnnxBackend(tmp_path / "int8" / "predict.onnx").run(inputs).logits
    got = 1 / (1 + np.exp(outputs[:, 0].astype(np.float64) - outputs[:, 1]))
    place = int(np.abs(got - right).argmax())
    threshold = (got[place] + right[place]) / 2
    card = (package / "card.toml").read_text()
    (package / "card.toml").write_text(card.replace("threshold = 0.5", f"threshold = {threshold:.8f}"))
    with pytest.raises(StoreError, match=rf"1 of 4 goldens are called another label \({goldens[place].name}\)"):
        make(package, "int8", tmp_path / "again")


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_pictures_without_labelled_data_are_lowered_served_and_explained(tmp_path: Path, precision: Any) -> None:
    package = small_package(tmp_path / "small")
    found = make(package, precision, tmp_path / "made")
    assert (found.auc, found.auc_fp32, found.items) == (None, None, 0) and "no AUC" in str(found)
    assert found.inputs == 3 + RANDOM
    card = read_image_card(tmp_path / "made" / "card.toml")
    (tmp_path / "made" / MANIFEST).write_text(json.dumps({"files": files_of(tmp_path / "made")}))
    stored = StoredModel(card, "0" * 16, tmp_path / "made")
    assert device_of(StoredModel(card, "0" * 16, package), "torch-cpu") == "torch-cpu"
    assert device_of(stored, "torch-cpu") == "cpu"
    model = ServedModel(card, stored)
    model.load(RunnerOptions(device="torch-cpu"), CoreShare(1))
    assert (model.state, model.detail, model.unexplained) == ("ready", "", "")
    data = coloured(1)  # the golden 1.png
    wanted = small_net()(torch.from_numpy(tensor_of(data, package))).numpy()[0]
    got = model.submit(data).result(30).value.logits
    assert np.abs(_softmax(got) - _softmax(wanted)).max() <= found.largest_difference_goldens + 1e-6
    assert not np.array_equal(got, wanted)
    explained = ExplainedModel(stored)
    explained.load(RunnerOptions(device="torch-cpu"), 1)
    assert (explained.state, explained.detail) == ("ready", "")
    assert model.close(5) and explained.close(5)


def _softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits.astype(np.float64))
    return np.asarray(powers / powers.sum())


@pytest.mark.parametrize(("precision", "batch"), [("fp16", "N"), ("fp16", 1)])
def test_a_graph_as_it_comes_is_lowered_too(home: Path, tmp_path: Path, precision: str, batch: int | str) -> None:
    weight = graph_file(tmp_path / "g.onnx", batch=batch)
    arguments = ("imagenet", "--onnx", tmp_path / "g.onnx", "--labels", labels_file(tmp_path / "l.txt"))
    result = imported(*arguments, "--variant", precision)
    assert result.exit_code == 0, result.output
    stored = store.find("imagenet")
    inputs = golden_batch(stored.card, [(each.name, each.data) for each in read_goldens(stored.path)[0]])
    wanted = [_softmax(row) for row in inputs.astype(np.float64).mean(axis=(2, 3)) @ weight]
    got = [_softmax(row) for row in OnnxBackend(stored.graph).run(inputs).logits]
    found = stored.parity()["variant"]
    assert found["largest_difference_goldens"] == pytest.approx(np.abs(np.subtract(got, wanted)).max(), abs=1e-5)
    assert found["bytes_fp32"] == (tmp_path / "g.onnx").stat().st_size


def test_without_an_auc_labels_that_change_for_random_inputs_are_refused(home: Path, tmp_path: Path) -> None:
    # It averages noise of mean 0, so its logits are all but equal, and eight bits cannot keep them apart.
    graph_file(tmp_path / "g.onnx")
    arguments = ("imagenet", "--onnx", tmp_path / "g.onnx", "--labels", labels_file(tmp_path / "l.txt"))
    result = imported(*arguments, "--variant", "int8")
    assert result.exit_code == 1 and "random inputs are called another label, and there is no AUC" in result.output
    assert store.installed() == []


@pytest.mark.parametrize("decimals", [0, 1, 8])
def test_auc_is_that_of_scikit_learn_ties_included(decimals: int) -> None:
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 2, 500)
    scores = np.round(rng.normal(labels.astype(float), 1.5), decimals)
    assert auc(labels, scores) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    assert np.isnan(auc(np.ones(4, np.int64), scores[:4]))


def test_phantoms_are_transformed_by_the_card_that_asks_and_splits_share_none() -> None:
    card = read_card(ROOT / "models" / "kidney_stone" / "card.toml")
    assert isinstance(card, ImageCard)
    own = card.model_copy(update={"input": card.input.model_copy(update={"size": (40, 56), "clahe": None})})
    items = list(phantoms.labelled(own, "validate", 4) or [])
    for index, (inputs, labels) in enumerate(items):
        phantom = draw(phantoms.VALIDATE + index)
        assert inputs.shape == (1, 3, 40, 56) and labels.tolist() == [phantom.label]
        assert np.array_equal(inputs[0], transform(phantom.image, own.input).tensor)
    other = [each.inputs for each in phantoms.labelled(own, "calibrate", 4) or []]
    assert not any(np.array_equal(a.inputs, b) for a in items for b in other)
    assert phantoms.labelled(own.model_copy(update={"labels": ("a", "b")}), "validate", 4) is None


def test_faults_are_the_positive_half_of_the_readings_and_other_rows_have_none() -> None:
    card = read_card(ROOT / "models" / "machine_anomaly" / "card.toml")
    parts = list(readings.labelled(card, "validate", 600) or [])
    labels = np.concatenate([each.labels for each in parts])
    assert len(labels) == 600 and abs(int(labels.sum()) - 300) < 5
    outputs = OnnxBackend(ROOT / "models" / "machine_anomaly" / "predict.onnx").run(
        np.concatenate([each.inputs for each in parts])
    )
    assert roc_auc_score(labels, outputs.logits.mean(axis=1)) > 0.99
    assert readings.labelled(read_card(CHURN / "card.toml"), "validate", 600) is None
    assert customers.labelled(card, "validate", 600) is None
    assert source_of(read_card(ROOT / "models" / "cifar10" / "card.toml")) is None


def test_a_card_of_other_features_has_no_auc(home: Path, tmp_path: Path) -> None:
    (tmp_path / "card.toml").write_text((CHURN / "card.toml").read_text().replace('name = "age"', 'name = "years"'))
    result = imported(
        "churn", "--weights", CHURN / "weights.safetensors", "--card", tmp_path / "card.toml", "--variant", "int8"
    )
    assert result.exit_code == 0, result.output  # calibrated on rows from anywhere in the card's ranges
    assert "no AUC" in result.output
    found = store.find("churn").parity()["variant"]
    assert (found["auc"], found["items"], found["data"]) == (None, 0, "no labelled data, so no AUC")


class Known:
    """A backend that says of a row what its first value is; `swaps` of 100 positives come out below one negative."""

    runtime: Literal["onnx"] = "onnx"
    device = "cpu"

    def __init__(self, swaps: int = 0, *, flips_in_batches: bool = False) -> None:
        self.swaps, self.flips_in_batches = swaps, flips_in_batches

    def run(self, batch: np.ndarray) -> Outputs:
        score = batch[:, 0].copy()
        score[score == 1099] = 1100 + self.swaps - 0.5  # negatives are 1000 to 1099, positives 1100 to 1199
        if self.flips_in_batches and len(batch) > 1:
            score = np.where(np.abs(score) < 900, -score, score)
        positive = (score - 1100) * 0.01 * (score > 900) + score * (score < 900)
        return Outputs(np.stack([np.zeros_like(score), positive], axis=1))

    def close(self) -> None:
        """Nothing to release."""


def judged(lowered: Known, *, labelled: bool = True) -> Any:
    """What the gate says of a backend whose AUC is known by counting pairs: 1 - swaps / 10,000."""
    card, (shipped, _) = read_card(CHURN / "card.toml"), read_goldens(CHURN)
    inputs = golden_batch(card, [(each.name, each.data) for each in shipped])
    goldens = [each._replace(logits=row) for each, row in zip(shipped, Known().run(inputs).logits, strict=True)]
    rows = np.zeros((200, 6), np.float32)
    rows[:, 0] = np.arange(1000, 1200)
    items = Labelled("rows", "class_1", iter([Items(rows, (np.arange(200) >= 100).astype(np.int64))]))
    return measure(card, "int8", goldens, items if labelled else None, Side(Known(), 1), Side(lowered, 1))


def test_auc_may_fall_by_two_thousandths_and_no_more() -> None:
    assert judged(Known(0)).auc == 1.0
    assert judged(Known(19)).auc == pytest.approx(0.9981)
    with pytest.raises(
        StoreError, match=r"AUC falls from 1\.0000 to 0\.9979 on 200 labelled items, by more than 0\.002"
    ):
        judged(Known(21))


def test_a_golden_that_flips_only_in_a_batch_is_refused_too() -> None:
    with pytest.raises(StoreError, match="goldens are called another label"):
        judged(Known(flips_in_batches=True))


def test_int8_is_calibrated_on_other_items_than_it_is_judged_by(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, really = list[tuple[Any, int]](), customers.labelled

    def spy(card: Any, split: Any, count: int) -> Any:
        asked.append((split, count))
        return really(card, split, count)

    monkeypatch.setattr(customers, "labelled", spy)
    make(CHURN, "int8", tmp_path / "made")
    assert asked == [("calibrate", ITEMS // 4), ("validate", ITEMS)]
    drawn = [
        np.concatenate([each.inputs for each in really(read_card(CHURN / "card.toml"), *each_split) or []])
        for each_split in asked
    ]
    assert not set(map(bytes, drawn[0])) & set(map(bytes, drawn[1]))


def test_a_graph_without_anything_to_lower_is_refused(tmp_path: Path) -> None:
    package = small_package(tmp_path / "small")
    card = read_image_card(package / "card.toml")
    height, width = card.input.size
    nodes = [
        onnx.helper.make_node("GlobalAveragePool", ["image"], ["mean"]),
        onnx.helper.make_node("Flatten", ["mean"], ["logits"]),
    ]
    image = onnx.helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, height, width])
    logits = onnx.helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 3])
    graph = onnx.helper.make_graph(nodes, "flat", [image], [logits])
    onnx.save(
        onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9),
        package / "predict.onnx",
    )
    with pytest.raises(StoreError, match="nothing in its graph that int8 could be made of"):
        make(package, "int8", tmp_path / "made")


def test_what_cannot_be_done_says_what_to_do(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "export.variants")
    monkeypatch.setitem(sys.modules, "onnx", None)
    result = imported("churn", "--variant", "int8")
    assert result.exit_code == 1 and "(onnx is missing here)" in result.output and ".venv-dev" in result.output
    assert store.installed() == []
