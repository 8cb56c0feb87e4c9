"""Graphs with other inputs than three channels in NCHW: served as their card says, refused with the lines it lacks."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from onnx import TensorProto, helper, numpy_helper

from backends.onnx import OnnxBackend
from cli.main import main
from models import store
from models.goldens import golden_inputs
from serving.self_check import golden_batch
from tests.conftest import ROOT

IMAGENET = ROOT / "models" / "imagenet"
LABELS = ["a", "b", "c"]


def graph_file(path: Path, channels: int) -> np.ndarray:
    """Write a graph (N, 224, 224, channels) → 3 logits; return the matrix that it multiplies channel means by."""
    weight = np.random.default_rng(5).normal(size=(channels, len(LABELS))).astype(np.float32)
    nodes = [
        helper.make_node("ReduceMean", ["picture", "axes"], ["mean"], keepdims=0),
        helper.make_node("MatMul", ["mean", "weight"], ["logits"]),
    ]
    constants = [numpy_helper.from_array(weight, "weight"), numpy_helper.from_array(np.array([1, 2]), "axes")]
    picture = helper.make_tensor_value_info("picture", TensorProto.FLOAT, ["N", 224, 224, channels])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", len(LABELS)])
    graph = helper.make_graph(nodes, "nhwc", [picture], [logits], constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return weight


def card_file(path: Path, **changes: str) -> Path:
    """Write the card of imagenet with other lines in the section [input]."""
    text = (IMAGENET / "card.toml").read_text()
    lines = [line for line in text.splitlines() if line.partition(" ")[0] not in changes]
    place = lines.index("[input]") + 1
    lines[place:place] = [f"{key} = {value}" for key, value in changes.items()]
    path.write_text("\n".join(lines))
    return path


def run_add(folder: Path, card: Path) -> Result:
    (folder / "l.txt").write_text("\n".join(LABELS))
    arguments = [folder / "g.onnx", "--labels", folder / "l.txt", "--card", card]
    return CliRunner().invoke(main, ["models", "add", *map(str, arguments)])


@pytest.mark.parametrize(("channels", "count"), [("grey", 1), ("bgr", 3)])
def test_a_graph_with_the_channels_last_is_served_as_it_comes(
    home: Path, tmp_path: Path, channels: str, count: int
) -> None:
    weight = graph_file(tmp_path / "g.onnx", count)
    ones = str([1] * count)
    lines = {"layout": '"nhwc"', "channels": f'"{channels}"', "scale": '"0-255"', "mean": ones, "std": ones}
    result = run_add(tmp_path, card_file(tmp_path / "card.toml", **lines, resize='"letterbox"'))
    assert result.exit_code == 0, result.output
    stored = store.find("imagenet")
    inputs = golden_batch(stored.card, golden_inputs(IMAGENET))
    assert inputs.shape[1:] == (224, 224, count)
    expected = inputs.astype(np.float64).mean(axis=(1, 2)) @ weight
    assert np.allclose(OnnxBackend(stored.graph).run(inputs).logits, expected, rtol=1e-4, atol=1e-3)
    shown = CliRunner().invoke(main, ["models", "show", "imagenet"]).output
    assert "nhwc" in shown and "letterbox" in shown


def test_a_card_that_lacks_the_layout_or_channels_of_a_graph_is_told_them(home: Path, tmp_path: Path) -> None:
    for count, channels in ((3, "rgb"), (1, "grey")):
        graph_file(tmp_path / "g.onnx", count)
        result = run_add(tmp_path, card_file(tmp_path / "card.toml"))
        assert result.exit_code == 1
        assert f"its input is [224, 224, {count}], but the card's is [3, 224, 224]" in result.output
        assert f'The card would need layout = "nhwc" and channels = "{channels}" under [input].' in result.output
    assert store.installed() == []
