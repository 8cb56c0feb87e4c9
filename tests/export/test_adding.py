"""`vitrine models add` of an ONNX graph: what its card says, where that is from, and what is refused."""

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner

from api.metadata import model_details
from backends.onnx import OnnxBackend
from cli.main import main
from export.labels import labels_in_metadata
from models import store
from models.card import as_image_card
from models.goldens import read_goldens
from preprocessing.prepare import prepare
from serving.loaded_model import LoadedModel
from serving.loading import PREDICTION
from tests.conftest import encode
from tests.export.graphs import graph_file, labels_file, run_add

LABELS = "a\nb\nc\n"


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    graph_file(tmp_path / "CT phase (2).onnx", classes=3, size=64)
    return tmp_path / "CT phase (2).onnx"


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    (tmp_path / "labels.txt").write_text(LABELS)
    return tmp_path / "labels.txt"


def with_metadata(graph: Path, **metadata: str) -> Path:
    model = onnx.load(graph)
    onnx.helper.set_model_props(model, {key.replace("__", "."): value for key, value in metadata.items()})
    onnx.save(model, graph)
    return graph


def test_a_graph_and_its_labels_are_all_it_takes_and_what_was_assumed_is_said(
    home: Path, graph: Path, labels: Path
) -> None:
    result = run_add(graph, "--labels", labels)
    assert result.exit_code == 0, result.output
    assert "ASSUMED: resize short_side, kernel bilinear, mean [0.485, 0.456, 0.406]" in result.output
    stored = store.find("ct-phase-2")
    card = as_image_card(stored.card)
    assert card.labels == ("a", "b", "c") and card.input.size == (64, 64) and card.input.box == (73, 73)
    assert card.assumed == ("input.resize", "input.kernel", "input.mean", "input.std")
    shown = CliRunner().invoke(main, ["models", "show", "ct-phase-2"]).output
    assert "assumed" in shown and "input.mean" in shown
    details = model_details(LoadedModel(card, stored, PREDICTION), "0").model_dump()
    assert details["assumed"] == list(card.assumed)


def test_what_is_stated_is_not_assumed(home: Path, graph: Path, labels: Path) -> None:
    stated = ["--mean", "0.5,0.5,0.5", "--std", "0.25,0.25,0.25", "--resize", "stretch"]
    assert run_add(graph, "--name", "mine", "--labels", labels, *stated).exit_code == 0
    card = as_image_card(store.find("mine").card)
    assert card.assumed == ("input.kernel",) and card.input.mean == (0.5,) * 3 and card.input.box == (64, 64)


def test_metadata_of_a_graph_say_its_labels_and_pixels(home: Path, graph: Path) -> None:
    metadata = {"Image__BitmapPixelFormat": "Bgr8", "Image__NominalPixelRange": "NominalRange_0_255"}
    result = run_add(with_metadata(graph, names="{0: 'cat', 1: 'dog', 2: 'owl'}", **metadata), "--name", "mine")
    assert result.exit_code == 0, result.output
    card = as_image_card(store.find("mine").card)
    assert card.labels == ("cat", "dog", "owl") and card.input.channels == "bgr" and card.input.scale == "0-255"
    assert card.input.mean == (0,) * 3 and card.input.std == (1,) * 3 and "input.mean" not in card.assumed


@pytest.mark.parametrize("text", ['["a", "b"]', '{"0": "a", "1": "b"}', "a,b", "a\nb\n", "['a', 'b']"])
def test_labels_in_metadata_may_be_written_in_any_usual_way(text: str) -> None:
    assert labels_in_metadata({"classes": text}) == ["a", "b"]
    assert labels_in_metadata({"classes": '{"0": "a", "7": "b"}'}) is None


def test_examples_become_the_goldens(home: Path, graph: Path, labels: Path, tmp_path: Path) -> None:
    examples = tmp_path / "examples"
    (examples / "cats").mkdir(parents=True)
    rng = np.random.default_rng(0)
    pictures = [encode(rng.integers(0, 256, (80, 90, 3)).astype(np.uint8)) for _ in range(12)]
    for index, picture in enumerate(pictures):
        (examples / ("cats" if index % 2 else "") / f"Grüße {index}.PNG").write_bytes(picture)
    (examples / "notes.txt").write_text("no picture")
    result = run_add(graph, "--name", "mine", "--labels", labels, "--examples", examples)
    assert result.exit_code == 0, result.output
    stored = store.find("mine")
    goldens, _ = read_goldens(stored.path)
    assert len(goldens) == 8 and len({golden.data for golden in goldens} & set(pictures)) == 8
    card = as_image_card(stored.card)
    tensors = np.stack([prepare(golden.data, card.limits, card.input).tensor for golden in goldens])
    served = OnnxBackend(stored.graph).run(tensors).logits
    assert np.allclose(served, [golden.logits for golden in goldens], atol=1e-4)


def test_a_card_is_exported_edited_and_brought_back(home: Path, graph: Path, labels: Path, tmp_path: Path) -> None:
    assert run_add(graph, "--name", "mine", "--labels", labels).exit_code == 0
    file = tmp_path / "mine.toml"
    assert CliRunner().invoke(main, ["models", "export-card", "mine", "--output", str(file)]).exit_code == 0
    text = file.read_text()
    assert text == CliRunner().invoke(main, ["models", "export-card", "mine"]).output
    file.write_text(text.replace('title = "Mine"', 'title = "CT phases"').replace('"input.kernel", ', ""))
    assert run_add(graph, "--card", file).exit_code == 0
    card = as_image_card(store.find("mine").card)
    assert card.title == "CT phases" and card.labels == ("a", "b", "c") and "input.kernel" not in card.assumed
    refused = run_add(graph, "--card", file, "--mean", "0,0,0")
    assert refused.exit_code == 1 and "--card says all of the input" in refused.output
    file.write_text(text.replace("[input]", "[inptu]"))
    assert run_add(graph, "--card", file).exit_code == 1 and store.find("mine").card == card


def test_a_name_that_is_taken_or_reserved_is_refused(home: Path, graph: Path, labels: Path) -> None:
    for name, message in (
        ("kidney-stone", "is the name of a bundled model"),
        ("stats", "is reserved"),
        ("Mine", "such as 'mine'"),
    ):
        result = run_add(graph, "--name", name, "--labels", labels)
        assert result.exit_code == 1 and message in result.output, result.output
    assert store.installed() == []
    assert run_add(graph, "--name", "mine", "--labels", labels).exit_code == 0
    labels.write_text("a\nb\nd\n")
    result = run_add(graph, "--name", "mine", "--labels", labels)
    assert result.exit_code == 1 and "taken by another model: its labels: a, b, c" in result.output
    assert len(store.installed()) == 1
    assert run_add(graph, "--name", "mine", "--labels", labels, "--replace").exit_code == 0
    assert store.find("mine").card.labels == ("a", "b", "d")


def test_a_full_disk_leaves_nothing_behind(
    home: Path, graph: Path, labels: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", full)
    result = run_add(graph, "--name", "mine", "--labels", labels)
    assert result.exit_code == 1 and "No space left on device" in result.output and "Nothing" in result.output
    assert store.installed() == []


def test_what_cannot_be_added_is_refused_with_what_to_do(home: Path, graph: Path, tmp_path: Path) -> None:
    (tmp_path / "keras.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(64))
    (tmp_path / "g.onnx").write_bytes(b"no graph")
    graph_file(tmp_path / "any.onnx", classes=3, size="side")
    for arguments, message in (
        ((graph,), "nothing says what the 3 outputs mean: bring --labels FILE"),
        ((graph, "--labels", labels_file(tmp_path / "l.txt")), "gives 3 logits, but there are 30 labels"),
        ((graph, "--trust-pickle"), "--trust-pickle does not go with"),
        (("a" * 300 + ".onnx",), "is no file (File name too long)"),
        (
            (tmp_path / "any.onnx", "--size", "60000", "--labels", labels_file(tmp_path / "3.txt", 3)),
            "is too large; 4096",
        ),
        ((tmp_path / "absent.onnx",), "there is no such file. A model is a file"),
        ((tmp_path / "keras.h5",), "tf2onnx"),
        ((tmp_path / "g.onnx",), "ONNX Runtime cannot load it"),
    ):
        result = run_add(*arguments)
        assert result.exit_code == 1 and message in result.output, (arguments, result.output)
    assert store.installed() == []


def test_what_a_source_needs_is_said_before_anything_is_done(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    result = run_add("timm:resnet18")
    assert result.exit_code == 1 and isinstance(result.exception, SystemExit)
    assert "takes onnx, onnxscript, safetensors, timm, torch, torchvision" in result.output
    assert "pip install --require-hashes -r requirements/cuda.txt" in result.output
