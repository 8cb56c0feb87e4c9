"""A graph that keeps its weights in another file: packed with it from its own folder, refused from anywhere else."""

from pathlib import Path

import numpy as np
import onnx
import pytest

from backends.onnx import OnnxBackend
from models import store
from models.goldens import golden_inputs
from serving.self_check import golden_batch
from tests.export.graphs import graph_file, labels_file, run_add
from tests.export.test_importers import IMAGENET


def write_weights_apart(folder: Path, location: str, before: bytes = b"") -> np.ndarray:
    """Write `g.onnx` whose matrix is to be read from `location`; return the matrix."""
    weight = graph_file(folder / "g.onnx")
    model = onnx.load(folder / "g.onnx")
    tensor = model.graph.initializer[0]
    onnx.external_data_helper.set_external_data(tensor, location, offset=0, length=len(tensor.raw_data))
    tensor.ClearField("raw_data")
    (folder / "g.onnx").write_bytes(before + model.SerializeToString())
    return weight


def run(folder: Path) -> tuple[int, str]:
    result = run_add(folder / "g.onnx", "--name", "imagenet", "--labels", labels_file(folder / "l.txt"))
    return result.exit_code, result.output


@pytest.mark.parametrize("location", ["weights.bin", "sub/weights.bin"])
def test_weights_beside_a_graph_are_packed_with_it(home: Path, tmp_path: Path, location: str) -> None:
    (tmp_path / "sub").mkdir()
    weight = write_weights_apart(tmp_path, location)
    (tmp_path / location).write_bytes(weight.tobytes())
    code, output = run(tmp_path)
    assert code == 0 and "are packed with it" in output, output
    stored = store.find("imagenet")
    (tmp_path / location).unlink()
    inputs = golden_batch(stored.card, golden_inputs(IMAGENET))
    expected = inputs.astype(np.float64).mean(axis=(2, 3)) @ weight
    assert np.allclose(OnnxBackend(stored.graph).run(inputs).logits, expected, atol=1e-5)


@pytest.mark.parametrize("before", [b"", b"\xa3\x06\xa4\x06"], ids=["as it is", "behind a field nobody knows"])
@pytest.mark.parametrize(
    "location", ["../weights.bin", "/etc/hostname", "link.bin", "folder/weights.bin", "predict.onnx", "card.toml"]
)
def test_weights_that_are_not_in_the_graphs_folder_are_refused(
    home: Path, tmp_path: Path, location: str, before: bytes
) -> None:
    folder = tmp_path / "graph"
    folder.mkdir()
    weight = write_weights_apart(folder, location, before)
    (tmp_path / "weights.bin").write_bytes(weight.tobytes())
    (folder / "link.bin").symlink_to(tmp_path / "weights.bin")
    (folder / "folder").symlink_to(tmp_path)
    code, output = run(folder)
    assert code == 1 and "its weights cannot be packed with it" in output, output
    assert location in output or "outside" in output, output
    assert store.installed() == []
