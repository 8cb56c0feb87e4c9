"""Export: what is served is what was trained, and a checkpoint that does not fit or is not safe is refused."""

import pickle
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from safetensors.torch import load_file, save_file

from errors import StoreError
from export.onnx import export
from models.architectures.efficientnet import EfficientNetB4Head
from models.card import read_image_card
from models.checkpoint import Checkpoint, load_network, read_checkpoint, rounded
from models.goldens import read_goldens
from models.package import GRAPH, WEIGHTS
from preprocessing.decode import decode
from preprocessing.transform import transform
from tests.conftest import SHIPPED
from training.kidney_stone.goldens import golden_images

CARD = read_image_card(SHIPPED / "card.toml")


def network() -> EfficientNetB4Head:
    torch.manual_seed(0)
    return EfficientNetB4Head(2).eval()


def test_the_network_is_the_one_on_the_card() -> None:
    made = network()
    assert sum(each.numel() for each in made.parameters()) == CARD.parameters == 18_471_242
    names = set(made.state_dict())
    assert {name.split(".")[0] for name in names} == {"backbone", "head"}
    assert {name.split(".")[1] for name in names if name.startswith("head")} == {"2", "4", "7"}
    assert [type(layer).__name__ for layer in made.head] == [
        *("AdaptiveAvgPool2d", "Flatten", "BatchNorm1d", "Dropout", "Linear", "GELU", "Dropout", "Linear"),
    ]
    assert [layer.p for layer in made.head if isinstance(layer, torch.nn.Dropout)] == [0.4, 0.3]


@pytest.mark.slow
def test_an_export_gives_pytorchs_logits_and_names_no_machine(tmp_path: Path) -> None:
    weights, images = Checkpoint(network().state_dict(), {}), golden_images()[:2]
    assert export(SHIPPED / "card.toml", weights, images, tmp_path, halve=True).largest_difference <= 1e-4
    graph = (tmp_path / GRAPH).read_bytes()
    assert len(graph) < 2**20
    assert str(Path(__file__).parent.parent).encode() not in graph

    reference = EfficientNetB4Head(2)
    reference.load_state_dict(load_file(tmp_path / WEIGHTS))
    reference.eval()
    tensors = np.random.default_rng(1).normal(size=(3, 3, 224, 224)).astype(np.float32)
    with torch.inference_mode():
        expected = reference(torch.from_numpy(tensors)).numpy()
    session = ort.InferenceSession(tmp_path / GRAPH, providers=["CPUExecutionProvider"])
    assert np.abs(session.run(["logits"], {"image": tensors})[0] - expected).max() <= 1e-4 * max(
        1, np.abs(expected).max()
    )


def test_the_shipped_graph_folds_to_plain_convolutions(tmp_path: Path) -> None:
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "folded.onnx")
    options.log_severity_level = 3
    ort.InferenceSession(SHIPPED / GRAPH, options, providers=["CPUExecutionProvider"])
    nodes = onnx.load(tmp_path / "folded.onnx", load_external_data=False).graph.node
    kinds = [node.op_type for node in nodes]
    assert "Cast" not in kinds
    assert kinds.count("BatchNormalization") <= 1  # the head's own, on a vector


def test_the_shipped_goldens_are_what_the_shipped_weights_give_in_pytorch() -> None:
    made = load_network(CARD, read_checkpoint(SHIPPED / WEIGHTS).weights)
    goldens, tolerance = read_goldens(SHIPPED)
    assert tolerance <= 1e-3
    for golden in goldens:
        tensor = transform(decode(golden.data, CARD.limits), CARD.input).tensor
        with torch.inference_mode():
            logits = made(torch.from_numpy(tensor)[None])[0].numpy()
        assert np.abs(logits - golden.logits).max() < 1e-3


def test_only_matrices_are_rounded() -> None:
    kept = rounded({"w": torch.ones(2, 2) / 3, "b": torch.ones(2) / 3, "n": torch.tensor(5)})
    assert (kept["w"].dtype, kept["b"].dtype, kept["n"].dtype) == (torch.float16, torch.float32, torch.int64)


def test_weights_that_do_not_fit_are_listed() -> None:
    weights = dict(network().state_dict())
    weights["head.7.weight"] = torch.zeros(3, 512)
    weights["extra"] = weights.pop("head.4.bias")
    with pytest.raises(StoreError, match=r"missing: head\.4\.bias(?s:.*)unknown: extra(?s:.*)expected \(2, 512\)"):
        load_network(CARD, weights)


def test_a_checkpoint_is_read_from_pth_and_safetensors(tmp_path: Path) -> None:
    weights = {"a": torch.arange(6.0).reshape(2, 3)}
    torch.save(weights, tmp_path / "w.pth")
    save_file(weights, tmp_path / "w.safetensors")
    for name in ("w.pth", "w.safetensors"):
        assert torch.equal(read_checkpoint(tmp_path / name).weights["a"], weights["a"])


class Malicious:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, ("open('ran', 'w')",)


def test_a_pickle_that_would_run_code_is_refused_and_does_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"a": Malicious()}, tmp_path / "evil.pth")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(Malicious()))
    for name in ("evil.pth", "plain.pth"):
        with pytest.raises(StoreError, match=r"cannot|safely"):
            read_checkpoint(tmp_path / name)
    assert not (tmp_path / "ran").exists()


def test_a_whole_module_or_something_else_is_told_what_to_save(tmp_path: Path) -> None:
    torch.save({"epoch": 3}, tmp_path / "w.pth")
    with pytest.raises(StoreError, match="state_dict"):
        read_checkpoint(tmp_path / "w.pth")
