"""The package that an export writes, byte by byte, for a network of a few hundred values."""

import json
import shutil
import struct
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from click.testing import CliRunner
from torch import Tensor, nn

from backends.onnx import OnnxBackend
from errors import StoreError
from export import onnx as exporter
from export.onnx import export_package, main
from models.architectures import build
from models.card import read_image_card
from models.checkpoint import Checkpoint
from models.goldens import read_goldens
from preprocessing.decode import decode
from preprocessing.transform import transform
from tests.conftest import ROOT, encode
from tests.tiny import CARD


class SmallNetwork(nn.Module):
    """A network with the kinds of layers that the real one has, in a few hundred values."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, bias=False), nn.BatchNorm2d(8), nn.SiLU())
        self.head = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.BatchNorm1d(8), nn.Linear(8, 4), nn.GELU(), nn.Linear(4, 2)
        )

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.head(self.stem(image))
        return logits


def small_network() -> SmallNetwork:
    torch.manual_seed(5)
    network = SmallNetwork().eval()
    for name, buffer in network.named_buffers():
        if name.endswith(("mean", "var")):
            nn.init.uniform_(buffer, 0.5, 1.5)
    return network


@pytest.fixture(autouse=True, scope="module")
def small_architecture() -> Iterator[None]:
    """Build the small network for the card of these tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("models.checkpoint.build", lambda card: SmallNetwork() if card.name == "tiny" else build(card))
        yield


@pytest.fixture(scope="module")
def card_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("card") / "card.toml"
    path.write_text(CARD.format(name="tiny").replace("parameters = 6", "parameters = 294"))
    return path


@pytest.fixture(scope="module")
def images() -> list[tuple[str, bytes]]:
    rng = np.random.default_rng(3)
    return [(f"{index}.png", encode(rng.integers(0, 256, (20, 24, 3), np.uint8))) for index in range(3)]


@pytest.fixture(scope="module")
def package(card_file: Path, images: list[tuple[str, bytes]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported package; not to be changed."""
    folder = tmp_path_factory.mktemp("exported") / "package"
    report = export_package(card_file, Checkpoint(small_network().state_dict(), {}), images, folder, halve=True)
    assert report.largest_difference < 1e-6
    return folder


def test_goldens_and_graph_are_a_plain_forward_of_the_rounded_weights(
    package: Path, images: list[tuple[str, bytes]]
) -> None:
    network = small_network()
    for parameter in network.parameters():
        if parameter.ndim >= 2:
            parameter.data = parameter.data.half().float()
    card = read_image_card(package / "card.toml")
    batch = np.stack([transform(decode(data, card.limits), card.input).tensor for _, data in images])
    with torch.inference_mode():
        expected = network(torch.from_numpy(batch)).numpy()
        unrounded = small_network()(torch.from_numpy(batch)).numpy()
    goldens, tolerance = read_goldens(package)
    assert [(golden.name, golden.data) for golden in goldens] == images and tolerance == 1e-3
    assert np.allclose([golden.logits for golden in goldens], expected, atol=1e-6)
    assert not np.allclose(expected, unrounded, atol=1e-6)
    backend = OnnxBackend(package / "predict.onnx")
    for rows in (1, 2, 3):
        assert np.allclose(backend.run(batch[:rows]).logits, expected[:rows], atol=1e-5)


def test_every_weight_is_in_the_one_file_and_the_graph_points_at_its_bytes(package: Path) -> None:
    blob = (package / "weights.safetensors").read_bytes()
    graph = onnx.load(package / "predict.onnx", load_external_data=False).graph
    (header_length,) = struct.unpack("<Q", blob[:8])
    header = json.loads(blob[8 : 8 + header_length])
    casts = {node.input[0]: node.output[0] for node in graph.node if node.op_type == "Cast"}
    dtypes = {onnx.TensorProto.FLOAT: np.float32, onnx.TensorProto.FLOAT16: np.float16}
    arrays = {}
    for tensor in graph.initializer:
        if tensor.external_data:
            entry = {item.key: item.value for item in tensor.external_data}
            assert entry["location"] == "weights.safetensors"
            begin, end = int(entry["offset"]), int(entry["offset"]) + int(entry["length"])
            values = np.frombuffer(blob[begin:end], dtypes[tensor.data_type]).reshape(tensor.dims)
            arrays[casts.get(tensor.name, tensor.name)] = values
    state = small_network().state_dict()
    floats = {name for name, tensor in state.items() if tensor.is_floating_point()}
    assert set(arrays) == floats and set(header) - {"__metadata__"} == set(state)
    for name in floats:
        dtype = np.float16 if state[name].ndim >= 2 else np.float32
        assert arrays[name].dtype == dtype
        assert np.array_equal(arrays[name], state[name].numpy().astype(dtype))


def test_the_same_weights_make_the_same_bytes_and_name_no_machine(
    package: Path, card_file: Path, images: list[tuple[str, bytes]], tmp_path: Path
) -> None:
    export_package(card_file, Checkpoint(small_network().state_dict(), {}), images, tmp_path / "again", halve=True)
    files = sorted(path.relative_to(package) for path in package.rglob("*") if path.is_file())
    assert len(files) == 4 + 1 + len(images)
    assert files == sorted(path.relative_to(tmp_path / "again") for path in (tmp_path / "again").rglob("*.*"))
    for file in files:
        assert (package / file).read_bytes() == (tmp_path / "again" / file).read_bytes()
    graph = (package / "predict.onnx").read_bytes()
    for trace in (str(ROOT), str(package.parent), "site-packages", ".py", "stack_trace"):
        assert trace.encode() not in graph


def test_onnx_runtime_folds_the_casts_and_fuses_the_batch_norms(package: Path, tmp_path: Path) -> None:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    ort.InferenceSession(package / "predict.onnx", options, providers=["CPUExecutionProvider"])
    optimised = onnx.load(tmp_path / "optimised.onnx", load_external_data=False)
    operators = Counter(node.op_type for node in optimised.graph.node)
    assert operators["Cast"] == 0
    assert operators["BatchNormalization"] <= 1  # the one after the pooling has no convolution before it


def test_exporting_again_leaves_no_golden_of_before(
    package: Path, card_file: Path, images: list[tuple[str, bytes]], tmp_path: Path
) -> None:
    shutil.copytree(package, tmp_path / "copy")
    export_package(card_file, Checkpoint(small_network().state_dict(), {}), images[:1], tmp_path / "copy")
    assert sorted(path.name for path in (tmp_path / "copy" / "goldens").iterdir()) == ["0.png", "goldens.json"]


@pytest.mark.parametrize("value", [float("nan"), 1e6])
def test_weights_that_fp16_cannot_hold_are_refused(
    card_file: Path, images: list[tuple[str, bytes]], tmp_path: Path, value: float
) -> None:
    weights = small_network().state_dict()
    weights["stem.0.weight"][0, 0, 0, 0] = value
    with pytest.raises(StoreError, match=r"stem\.0\.weight: holds values that are not finite"):
        export_package(card_file, Checkpoint(weights, {}), images, tmp_path / "package", halve=True)


def test_the_command_needs_golden_inputs(card_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save(small_network().state_dict(), tmp_path / "weights.pth")
    monkeypatch.setattr(exporter, "package_folder", lambda name: tmp_path)
    shutil.copyfile(card_file, tmp_path / "card.toml")
    result = CliRunner().invoke(main, ["tiny", "--weights", str(tmp_path / "weights.pth")])
    assert result.exit_code == 1 and "there are no golden inputs" in result.output
    (tmp_path / "goldens").mkdir()
    (tmp_path / "goldens" / "a.png").write_bytes(encode(np.zeros((9, 9, 3), np.uint8)))
    result = CliRunner().invoke(main, ["tiny", "--weights", str(tmp_path / "weights.pth")])
    assert result.exit_code == 0, result.output
    assert "predict.onnx" in result.output and "Largest difference" in result.output
