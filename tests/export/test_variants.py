"""Variants of lower precision: really quantised, compared with a forward pass by NumPy, refused where worse."""

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner, Result
from onnx import TensorProto, helper
from safetensors.numpy import load_file, save_file
from sklearn.metrics import roc_auc_score

from backends.onnx import OnnxBackend
from cli.main import main
from errors import StoreError
from export.labelled_data import LabelledBatch, Split
from export.variant_comparison import RANDOM_INPUTS, golden_items
from export.variants import LABELLED_ROWS, make_variant
from models import store
from models.card import Card, read_card, read_image_card
from models.goldens import read_goldens
from models.package import MANIFEST, StoredModel, VariantName, file_digests
from models.served_versions import serves_own_weights
from runners.cores import CoreShare
from serving.gradcam.worker import EXPLANATION
from serving.loaded_model import LoadedModel
from serving.loading import PREDICTION, device_for
from serving.options import RunnerOptions
from serving.self_check import golden_batch
from tests.conftest import ROOT
from tests.explain.package import coloured, small_net, small_package, tensor_of
from tests.export.graphs import graph_file, labels_file, run_add
from training.churn import data as customers

CHURN = ROOT / "models" / "churn"
ITEMS = LABELLED_ROWS


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package of pictures with an explain graph and without labelled data; not to be changed."""
    return small_package(tmp_path_factory.mktemp("small") / "small")


def imported(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["models", "import", *map(str, arguments)])


def churn_chances(rows: np.ndarray) -> np.ndarray:
    """Return P(class_1) of customers (N, 6), computed by NumPy alone from the card's steps and the weights; float64."""
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
    weights = {name: array.astype(np.float64) for name, array in load_file(CHURN / "weights.safetensors").items()}
    for layer in (0, 3):
        scaled = np.maximum(scaled @ weights[f"network.{layer}.weight"].T + weights[f"network.{layer}.bias"], 0)
    logits = scaled @ weights["network.6.weight"].T + weights["network.6.bias"]
    return np.asarray(1 / (1 + np.exp(logits[:, 0] - logits[:, 1])))


def served(stored: StoredModel, rows: list[dict[str, float]]) -> np.ndarray:
    """Return P(class_1) of rows as a client gets it."""
    model = LoadedModel(stored.card, stored, PREDICTION)
    model.load(RunnerOptions(), CoreShare(1))
    assert (model.state, model.detail) == ("ready", "")
    outputs = model.submit(rows).result(30).value.outputs.astype(np.float64)
    assert model.close(5)
    return np.asarray(1 / (1 + np.exp(outputs[:, 0] - outputs[:, 1])))


@pytest.mark.parametrize(("precision", "kind"), [("int8", TensorProto.INT8), ("fp16", TensorProto.FLOAT16)])
def test_the_report_of_a_variant_of_churn_is_what_numpy_makes_of_it(home: Path, precision: str, kind: int) -> None:
    result = imported("churn", "--variant", precision)
    assert result.exit_code == 0, result.output
    stored = store.find("churn")
    drawn = customers.draw(ITEMS, customers.VALIDATE)
    names = [feature.name for feature in stored.card.input.features]  # type: ignore[union-attr]
    expected = churn_chances(drawn.features)
    actual = served(stored, [dict(zip(names, row, strict=True)) for row in drawn.features.tolist()])
    report = stored.parity()["variant"]
    assert (report["variant"], report["data"], report["items"]) == (precision, "synthetic customers", ITEMS)
    assert report["auc_fp32"] == pytest.approx(roc_auc_score(drawn.label, expected), abs=1e-5)
    assert report["auc"] == pytest.approx(roc_auc_score(drawn.label, actual), abs=1e-5)
    assert report["largest_difference_labelled"] == pytest.approx(np.abs(actual - expected).max(), abs=1e-5)
    assert 1e-5 < report["largest_difference_labelled"] < 0.5
    for side, chances in (("_fp32", expected), ("", actual)):
        called = chances >= 0.5
        assert report[f"sensitivity{side}"] == pytest.approx(called[drawn.label == 1].mean(), abs=2e-4)
        assert report[f"false_positive_rate{side}"] == pytest.approx(called[drawn.label == 0].mean(), abs=2e-4)

    index = json.loads((stored.path / "goldens" / "goldens.json").read_text())
    goldens = [json.loads((stored.path / "goldens" / entry["file"]).read_text()) for entry in index["goldens"]]
    values = np.array([[row[name] for name in names] for row in goldens])
    largest = np.abs(served(stored, goldens) - churn_chances(values)).max()
    assert report["largest_difference_goldens"] == pytest.approx(largest, abs=1e-6)
    assert index["tolerance"] == report["tolerance"] == pytest.approx(max(1e-3, 1.5 * largest), rel=0.05)
    shipped = json.loads((CHURN / "goldens" / "goldens.json").read_text())
    assert index["goldens"] == shipped["goldens"] and index["reference"] == shipped["reference"]

    initializers = onnx.load(stored.graph).graph.initializer
    assert [tensor.data_type for tensor in initializers if len(tensor.dims) == 2] == [kind] * 3
    assert not any(tensor.external_data for tensor in initializers)
    assert report["bytes"] == stored.graph.stat().st_size
    assert report["bytes_fp32"] == sum(
        (CHURN / file).stat().st_size for file in ("predict.onnx", "weights.safetensors")
    )
    assert report["milliseconds"] > 0 and report["milliseconds_fp32"] > 0
    assert stored.parity()["reference"] == json.loads((CHURN / "parity.json").read_text())["reference"]


def test_labels_that_differ_are_counted(home: Path) -> None:
    assert imported("churn", "--variant", "int8").exit_code == 0
    stored = store.find("churn")
    report, graph = stored.parity()["variant"], OnnxBackend(stored.graph)
    batches = list(customers.labelled(stored.card, "validate", ITEMS) or [])
    outputs = np.concatenate([graph.run(batch.inputs).logits for batch in batches])
    chances = churn_chances(customers.draw(ITEMS, customers.VALIDATE).features)
    flips = ((outputs[:, 1] >= outputs[:, 0]) != (chances >= 0.5)).sum()
    assert report["inputs"] == ITEMS + RANDOM_INPUTS + 4
    assert flips > 0 and 0 <= report["label_flips"] - flips <= RANDOM_INPUTS  # random inputs may flip too


def test_a_variant_is_a_version_of_its_own_that_stays_in_service(home: Path) -> None:
    assert imported("churn").exit_code == 0
    plain = store.find("churn")
    assert imported("churn", "--variant", "int8").exit_code == 0
    variant = store.find("churn")
    assert variant.version != plain.version and len(store.installed()) == 2
    assert (plain.variant, variant.variant) == ("fp32", "int8")
    assert serves_own_weights("churn")
    listed = CliRunner().invoke(main, ["models", "list"]).output.splitlines()
    assert any(variant.version in line and "int8" in line and "served" in line for line in listed)
    assert any(plain.version in line and "fp32" in line and "installed" in line for line in listed)
    output = CliRunner().invoke(main, ["models", "show", "churn"]).output
    assert "Variant" in output and "auc_fp32" in output and "milliseconds_fp32" in output
    assert "Variant" not in CliRunner().invoke(main, ["models", "show", plain.tag]).output
    again = imported("churn", "--variant", "int8")
    assert again.exit_code == 0 and f"Already there: {variant.tag}" in again.output


def with_an_outlier(folder: Path, size: float) -> Path:
    """Write churn's weights with one hidden unit that is huge but unused: fp32 hardly changes, a shared scale does."""
    weights = load_file(CHURN / "weights.safetensors")
    weights["network.0.bias"][7] = size
    weights["network.3.weight"][:, 7] = 0
    save_file(weights, folder / "outlier.safetensors")
    return folder / "outlier.safetensors"


def test_weights_that_int8_cannot_hold_are_refused_and_fp16_takes_them(home: Path, tmp_path: Path) -> None:
    weights = with_an_outlier(tmp_path, 1e4)
    result = imported("churn", "--weights", weights, "--variant", "int8")
    assert result.exit_code == 1 and isinstance(result.exception, SystemExit)
    assert "AUC falls from 0.89" in result.output and "to 0.5000 on 20,000 labelled items" in result.output
    assert "try --variant fp16" in result.output
    assert store.installed() == []
    result = imported("churn", "--weights", weights, "--variant", "fp16")
    assert result.exit_code == 0, result.output
    assert store.find("churn").variant == "fp16"


def test_a_golden_that_gets_another_label_is_refused_by_name(tmp_path: Path) -> None:
    package = tmp_path / "churn"
    shutil.copytree(CHURN, package)
    make_variant(package, "int8", tmp_path / "int8", None)
    card, (goldens, _) = read_card(package / "card.toml"), read_goldens(package)
    expected = churn_chances(np.array([list(json.loads(golden.data).values()) for golden in goldens]))
    logits = OnnxBackend(tmp_path / "int8" / "predict.onnx").run(golden_batch(card, golden_items(goldens))).logits
    actual = 1 / (1 + np.exp(logits[:, 0].astype(np.float64) - logits[:, 1]))
    index = int(np.abs(actual - expected).argmax())
    threshold = (actual[index] + expected[index]) / 2
    text = (package / "card.toml").read_text()
    (package / "card.toml").write_text(text.replace("threshold = 0.5", f"threshold = {threshold:.8f}"))
    with pytest.raises(StoreError, match=rf"1 of 4 goldens get another label \({goldens[index].name}\)"):
        make_variant(package, "int8", tmp_path / "again", None)


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_pictures_without_labelled_data_are_lowered_served_and_explained(
    small: Path, tmp_path: Path, precision: VariantName
) -> None:
    report = make_variant(small, precision, tmp_path / "variant", None)
    assert (report.auc, report.auc_fp32, report.items) == (None, None, 0) and "no AUC" in str(report)
    assert report.inputs == 3 + RANDOM_INPUTS
    card = read_image_card(tmp_path / "variant" / "card.toml")
    (tmp_path / "variant" / MANIFEST).write_text(json.dumps({"files": file_digests(tmp_path / "variant")}))
    stored = StoredModel(card, "0" * 16, tmp_path / "variant")
    assert device_for(StoredModel(card, "0" * 16, small), "torch-cpu") == "torch-cpu"
    assert device_for(stored, "torch-cpu") == "cpu"
    model = LoadedModel(card, stored, PREDICTION)
    model.load(RunnerOptions(device="torch-cpu"), CoreShare(1))
    assert (model.state, model.detail, model.not_explainable_reason) == ("ready", "", "")
    data = coloured(1)  # the golden 1.png
    expected = small_net()(torch.from_numpy(tensor_of(data, small))).numpy()[0]
    actual = model.submit(data).result(30).value.logits
    assert np.abs(_softmax(actual) - _softmax(expected)).max() <= report.largest_difference_goldens + 1e-6
    assert not np.array_equal(actual, expected)
    explained = LoadedModel(stored.card, stored, EXPLANATION)
    explained.load(RunnerOptions(device="torch-cpu"), CoreShare(1))
    assert (explained.state, explained.detail) == ("ready", "")
    assert model.close(5) and explained.close(5)


def _softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits.astype(np.float64))
    return np.asarray(powers / powers.sum())


@pytest.mark.parametrize(("precision", "batch"), [("fp16", "N"), ("fp16", 1)])
def test_a_graph_as_it_comes_is_lowered_too(home: Path, tmp_path: Path, precision: str, batch: int | str) -> None:
    weight = graph_file(tmp_path / "g.onnx", batch=batch)
    arguments = (tmp_path / "g.onnx", "--name", "imagenet", "--labels", labels_file(tmp_path / "l.txt"))
    result = run_add(*arguments, "--variant", precision)
    assert result.exit_code == 0, result.output
    stored = store.find("imagenet")
    inputs = golden_batch(stored.card, golden_items(read_goldens(stored.path)[0]))
    expected = [_softmax(row) for row in inputs.astype(np.float64).mean(axis=(2, 3)) @ weight]
    actual = [_softmax(row) for row in OnnxBackend(stored.graph).run(inputs).logits]
    report = stored.parity()["variant"]
    assert report["largest_difference_goldens"] == pytest.approx(np.abs(np.subtract(actual, expected)).max(), abs=1e-5)
    assert report["bytes_fp32"] == (tmp_path / "g.onnx").stat().st_size


def test_without_an_auc_other_labels_for_random_inputs_are_refused(home: Path, tmp_path: Path) -> None:
    # It averages noise of mean 0, so its logits are all but equal, and eight bits cannot keep them apart.
    graph_file(tmp_path / "g.onnx")
    arguments = (tmp_path / "g.onnx", "--name", "imagenet", "--labels", labels_file(tmp_path / "l.txt"))
    result = run_add(*arguments, "--variant", "int8")
    assert result.exit_code == 1 and "random inputs get another label, and there is no AUC" in result.output
    assert store.installed() == []


def test_a_card_of_other_features_has_no_auc(home: Path, tmp_path: Path) -> None:
    (tmp_path / "card.toml").write_text((CHURN / "card.toml").read_text().replace('name = "age"', 'name = "years"'))
    result = imported(
        "churn", "--weights", CHURN / "weights.safetensors", "--card", tmp_path / "card.toml", "--variant", "int8"
    )
    assert result.exit_code == 0, result.output  # calibrated on rows from anywhere in the card's ranges
    assert "no AUC" in result.output
    report = store.find("churn").parity()["variant"]
    assert (report["auc"], report["items"], report["data"]) == (None, 0, "no labelled data, so no AUC")


def test_int8_is_calibrated_on_other_items_than_it_is_compared_on(tmp_path: Path) -> None:
    items: dict[Split, set[bytes]] = {}

    class Spy:
        """Churn's labelled data, and a note of what was asked for."""

        NAME, POSITIVE = customers.NAME, customers.POSITIVE

        def labelled(self, card: Card, split: Split, count: int) -> Iterator[LabelledBatch]:
            batches = list(customers.labelled(card, split, count) or [])
            items[split] = {bytes(row) for batch in batches for row in batch.inputs}
            assert sum(len(batch.labels) for batch in batches) == count
            return iter(batches)

    make_variant(CHURN, "int8", tmp_path / "int8", Spy())
    assert {split: len(rows) for split, rows in items.items()} == {"calibrate": ITEMS // 4, "validate": ITEMS}
    assert not items["calibrate"] & items["validate"]


def test_a_graph_without_anything_to_lower_is_refused(small: Path, tmp_path: Path) -> None:
    package = tmp_path / "flat"
    shutil.copytree(small, package)
    height, width = read_image_card(package / "card.toml").input.size
    nodes = [
        helper.make_node("GlobalAveragePool", ["image"], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["logits"]),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, height, width])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 3])
    graph = helper.make_graph(nodes, "flat", [image], [logits])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, package / "predict.onnx")
    with pytest.raises(StoreError, match="nothing in its graph that int8 could be made of"):
        make_variant(package, "int8", tmp_path / "variant", None)


def test_without_the_onnx_library_the_message_says_what_to_use(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "export.variants")
    monkeypatch.setitem(sys.modules, "onnx", None)
    result = imported("churn", "--variant", "int8")
    assert result.exit_code == 1 and "(onnx is missing here)" in result.output and ".venv-dev" in result.output
    assert store.installed() == []
