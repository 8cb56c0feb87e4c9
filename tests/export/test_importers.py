"""An operator's own graphs and cards: which are refused and why, and that the served graph gives what it should."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from onnx import TensorProto

from backends.onnx import OnnxBackend
from cli.main import main
from errors import CardError, StoreError
from export.card_text import card_for_own_weights, replace_values
from export.importers import from_checkpoint
from export.labels import read_labels
from models import store
from models.architectures import build
from models.background import BACKGROUND
from models.card import read_card
from models.goldens import golden_inputs
from postprocessing.classification import classify
from serving.self_check import golden_batch
from tests.conftest import ROOT
from tests.export.graphs import graph_file, labels_file, run_add

IMAGENET = ROOT / "models" / "imagenet"


def run_import(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["models", "import", *map(str, arguments)])


@pytest.mark.parametrize("batch", ["N", 1])
def test_a_graph_is_served_as_it_comes(home: Path, tmp_path: Path, batch: int | str) -> None:
    weight = graph_file(tmp_path / "g.onnx", batch=batch)
    result = run_add(tmp_path / "g.onnx", "--name", "imagenet", "--labels", labels_file(tmp_path / "l.txt"))
    assert result.exit_code == 0, result.output
    assert ("served without batching" in result.output) == (batch == 1)
    stored = store.find("imagenet")
    assert stored.card.labels[:3] == ("crane (0)", "tench, Tinca tinca", "crane (2)")
    assert stored.parity()["label_flips"] == 0
    inputs = golden_batch(stored.card, golden_inputs(IMAGENET))
    expected = inputs.astype(np.float64).mean(axis=(2, 3)) @ weight
    assert np.allclose(OnnxBackend(stored.graph).run(inputs).logits, expected, atol=1e-5)
    output = CliRunner().invoke(main, ["models", "show", "imagenet"]).output
    assert "without optimisations" in output and "largest_difference" in output


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes": 31}, "gives 31 logits, but there are 30 labels"),
        ({"rank": 4}, r"output out must be of rank 2"),
        ({"batch": 4}, "batch is fixed at 4"),
        ({"kind": TensorProto.DOUBLE}, r"must have one input of rank 4.*data tensor\(double\)"),
    ],
)
def test_a_graph_that_does_not_fit_is_refused_by_name(
    home: Path, tmp_path: Path, changes: dict[str, int], message: str
) -> None:
    graph_file(tmp_path / "g.onnx", **changes)
    result = run_add(tmp_path / "g.onnx", "--name", "imagenet", "--labels", labels_file(tmp_path / "l.txt"))
    assert result.exit_code == 1 and isinstance(result.exception, SystemExit)
    assert re.search(message, result.output), result.output
    assert store.installed() == []


def test_options_of_an_import_that_do_not_fit_are_refused(home: Path, tmp_path: Path) -> None:
    (tmp_path / "g.onnx").write_bytes(b"no graph")
    labels = labels_file(tmp_path / "l.txt")
    for arguments, message in (
        (("imagenet",), "vitrine models add GRAPH --name imagenet --labels FILE"),
        (("imagenet", "--weights", tmp_path / "g.onnx"), "vitrine models add GRAPH --name imagenet"),
        (("churn", "--card", labels), "goes with your own weights"),
        (("cifar10",), "vitrine models import cifar10 --weights CHECKPOINT"),
    ):
        result = run_import(*arguments)
        assert result.exit_code == 1 and message in result.output, (arguments, result.output)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("l.txt", "one\n", "two labels or more"),
        ("l.txt", "a\n\nb\n", "no line empty"),
        ("l.json", "{}", "two labels or more"),
        ("l.json", "[1, 2]", "a list of texts"),
        ("l.json", "[", "cannot be read"),
        ("l.json", "[" * 100_000, "cannot be read"),
    ],
)
def test_a_file_of_labels_that_cannot_be_used_says_why(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(StoreError, match=message):
        read_labels(tmp_path / name)


def test_labels_may_be_json_and_hold_any_character(tmp_path: Path) -> None:
    (tmp_path / "l.json").write_text(json.dumps(['a "quoted" one', "Käse\\", "\U0001f600"]))
    assert read_labels(tmp_path / "l.json") == ['a "quoted" one', "Käse\\", "\U0001f600"]


def test_a_card_of_ones_own_is_served_and_another_models_is_refused(home: Path, tmp_path: Path) -> None:
    card = (ROOT / "models" / "churn" / "card.toml").read_text().replace("threshold = 0.5", "threshold = 0.3")
    (tmp_path / "mine.toml").write_text(card)
    torch.manual_seed(1)
    weights = build(read_card(tmp_path / "mine.toml")).state_dict()
    torch.save({"model_state_dict": weights, "version": "7"}, tmp_path / "w.pth")
    result = run_import("churn", "--weights", tmp_path / "w.pth", "--card", tmp_path / "mine.toml")
    assert result.exit_code == 0, result.output
    assert store.find("churn").card.threshold == 0.3
    assert store.find("churn").parity()["checkpoint"] == {"version": "7"}
    result = run_import("machine-anomaly", "--weights", tmp_path / "w.pth", "--card", tmp_path / "mine.toml")
    assert result.exit_code == 1 and "'churn', but 'machine-anomaly' is to be imported" in result.output


def test_the_cards_labels_decide_how_many_outputs_a_known_architecture_has(home: Path, tmp_path: Path) -> None:
    text = (ROOT / "models" / "churn" / "card.toml").read_text().replace('"class_1"]', '"class_1", "class_2"]')
    (tmp_path / "three.toml").write_text(text.replace("parameters = 4_738", "parameters = 4_803"))
    torch.manual_seed(1)
    torch.save(build(read_card(tmp_path / "three.toml")).state_dict(), tmp_path / "w.pth")
    result = run_import("churn", "--weights", tmp_path / "w.pth", "--card", tmp_path / "three.toml")
    assert result.exit_code == 0, result.output
    assert len(store.find("churn").card.labels) == 3
    result = run_import("churn", "--weights", tmp_path / "w.pth")
    assert result.exit_code == 1 and "have 3 outputs, and the card of churn has 2 labels" in result.output
    assert "ASSUMED, since there is no --card: age less 45, divided by 15; income ln(1 + x), less 10.8" in result.output


def test_a_graph_may_have_a_positive_label_and_a_threshold(home: Path, tmp_path: Path) -> None:
    weight = graph_file(tmp_path / "g.onnx")
    text = (IMAGENET / "card.toml").read_text()
    for label, fits in (("tench, Tinca tinca", True), ("trench", False)):
        lines = f'labels = []\npositive_label = "{label}"\nthreshold = 0.01'
        (tmp_path / "mine.toml").write_text(text.replace("labels = []", lines))
        arguments = (tmp_path / "g.onnx", "--labels", labels_file(tmp_path / "l.txt"))
        result = run_add(*arguments, "--card", tmp_path / "mine.toml")
        assert (result.exit_code == 0) == fits, result.output
        assert fits or "positive_label 'trench' is not one of the labels: crane (0), tench" in result.output
    card = store.find("imagenet").card
    means = np.array([0.2, 0.1, -0.3], np.float32)
    logits = np.asarray(means @ weight, np.float32)
    assert np.exp(logits)[1] / np.exp(logits).sum() >= 0.01
    assert classify(logits, card).label == "tench, Tinca tinca"


def test_comments_and_order_of_a_card_survive_a_change_of_its_values() -> None:
    text = '# Mine.\nname = "x"\nlabels = [\n  "a",\n]  # filled in at import\n\n[input]  # pixels\nsize = [1, 2]\n'
    changed = replace_values(text, {"labels": ["b", 'c "d"'], "input.size": [3, 4]})
    assert changed == (
        '# Mine.\nname = "x"\nlabels = ["b", "c \\"d\\""]  # filled in at import\n\n[input]  # pixels\nsize = [3, 4]\n'
    )


def test_a_card_without_the_value_to_be_changed_is_refused_by_name() -> None:
    for text in ("size = [1, 2]\n", "[input]\nkernel = 1\n"):
        with pytest.raises(CardError, match=r"has no line for input\.size; add one"):
            replace_values(text, {"input.size": [3, 4]})
    with pytest.raises(CardError, match="not valid TOML"):
        replace_values("labels = ", {"labels": []})


def test_a_value_that_may_be_added_gets_a_line_at_the_end_of_its_section() -> None:
    text = "[input]\nsize = [1, 2]  # pixels\n\n[limits]\nmax_items = 1\n"
    changed = replace_values(text, {}, {"input.crop_pct": 0.875, "limits.max_items": 2})
    assert changed == "[input]\nsize = [1, 2]  # pixels\ncrop_pct = 0.875\n\n[limits]\nmax_items = 2\n"


def test_own_weights_do_not_inherit_what_a_card_says_of_the_bundled_ones() -> None:
    text = 'data = "x"\ntemperature = 1.7\nhead_activation = "gelu"\nthreshold = 0.5\n'
    assert card_for_own_weights(text, Path("w.pth")) == 'data = "your own weights (w.pth)"\nthreshold = 0.5\n'


def test_a_file_name_that_no_card_can_hold_is_refused() -> None:
    with pytest.raises(CardError, match="is not Unicode"):
        card_for_own_weights('data = "x"\n', Path("w\udcff.pth"))


def test_the_background_beside_a_card_goes_into_the_package(tmp_path: Path) -> None:
    churn, own, package = ROOT / "models" / "churn", tmp_path / "own", tmp_path / "package"
    own.mkdir()
    (own / "card.toml").write_bytes((churn / "card.toml").read_bytes())
    (own / BACKGROUND).write_bytes((churn / BACKGROUND).read_bytes())
    from_checkpoint(own / "card.toml", churn / "weights.safetensors", golden_inputs(churn), package, print)
    assert (package / BACKGROUND).read_bytes() == (churn / BACKGROUND).read_bytes()
    (own / BACKGROUND).write_text('{"data": "no customers", "rows": [{"age": 7}]}')
    with pytest.raises(StoreError, match="row 1 is wrong: income is missing"):
        from_checkpoint(own / "card.toml", churn / "weights.safetensors", golden_inputs(churn), package, print)
