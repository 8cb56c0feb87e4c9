"""Checkpoints as people save them, and the messages about those that do not fit or are not safe."""

import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from errors import StoreError
from models.architectures import build
from models.architectures.pyramidnet import PyramidNet
from models.card import read_card
from models.checkpoint import assumes_activation, check_dimensions, load_network, read_checkpoint, round_weights
from tests.conftest import ROOT

CHURN = read_card(ROOT / "models" / "churn" / "card.toml")
KIDNEY_STONE = read_card(ROOT / "models" / "kidney_stone" / "card.toml").model_copy(update={"head_activation": None})
CIFAR10 = read_card(ROOT / "models" / "cifar10" / "card.toml")


@pytest.fixture
def weights() -> dict[str, torch.Tensor]:
    torch.manual_seed(3)
    return build(CHURN).state_dict()


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "_orig_mod.module."])
@pytest.mark.parametrize("nested", ["", "model_state_dict", "state_dict"])
def test_every_usual_form_gives_the_same_weights(
    weights: dict[str, torch.Tensor], prefix: str, nested: str, tmp_path: Path
) -> None:
    named = {prefix + name: tensor for name, tensor in weights.items()}
    metadata = {"epoch": 12, "best_val_acc": 93.5, "version": "1.2"}
    torch.save({nested: named, **metadata, "optimiser": {"lr": 1}} if nested else named, tmp_path / "w.pth")
    read = read_checkpoint(tmp_path / "w.pth")
    assert read.metadata == (metadata if nested else {})
    assert set(read.weights) == set(weights)
    rows = torch.randn(5, 6)
    network = build(CHURN)
    network.load_state_dict(weights)
    assert torch.equal(load_network(CHURN, read.weights)(rows), network.eval()(rows))


def test_safetensors_and_half_precision_are_read(weights: dict[str, torch.Tensor], tmp_path: Path) -> None:
    save_file({name: tensor.half() for name, tensor in weights.items()}, tmp_path / "w.safetensors")
    network = load_network(CHURN, read_checkpoint(tmp_path / "w.safetensors").weights)
    assert all(parameter.dtype == torch.float32 for parameter in network.parameters())


def test_unknown_and_missing_names_are_listed_with_the_nearest_name(weights: dict[str, torch.Tensor]) -> None:
    renamed = dict(weights)
    renamed["networks.0.weight"] = renamed.pop("network.0.weight")
    renamed["network.6.bias"] = torch.zeros(7)
    with pytest.raises(StoreError) as raised:
        load_network(CHURN, renamed)
    message = str(raised.value)
    assert "missing: network.0.weight (nearest: networks.0.weight)" in message
    assert "unknown: networks.0.weight (nearest: network.0.weight)" in message
    assert "network.6.bias: shape (7,), expected (2,)" in message


def test_dimensions_in_the_metadata_that_differ_from_the_cards_are_refused() -> None:
    check_dimensions(CHURN, {"input_dim": 6, "hidden_dim": 64, "output_dim": 2, "version": "v1"})
    check_dimensions(read_card(ROOT / "models" / "machine_anomaly" / "card.toml"), {"input_dim": 4, "output_dim": 4})
    with pytest.raises(StoreError, match="input_dim = 7, the card of churn 6"):
        check_dimensions(CHURN, {"input_dim": 7})


def test_another_number_of_outputs_than_labels_is_named_and_not_listed_as_shapes() -> None:
    for card, weights in (
        (CIFAR10, PyramidNet(7).state_dict()),
        (CHURN, build(CHURN.model_copy(update={"labels": tuple("abcdefg")})).state_dict()),
    ):
        message = rf"have 7 outputs, and the card of {card.name} has {len(card.labels)} labels\. .*--card"
        with pytest.raises(StoreError, match=message):
            load_network(card, weights)


def test_an_activation_that_nobody_names_is_assumed() -> None:
    relu_card = KIDNEY_STONE.model_copy(update={"head_activation": "relu"})
    assert assumes_activation(KIDNEY_STONE, {"epoch": 3})
    assert not assumes_activation(KIDNEY_STONE, {"activation": "nn.GELU()"})
    assert not assumes_activation(relu_card, {}) and not assumes_activation(relu_card, {"head_activation": "ReLU"})
    assert not assumes_activation(CIFAR10, {}) and not assumes_activation(CHURN, {"activation": "relu"})


def test_a_checkpoint_that_names_another_activation_than_the_card_is_refused_with_the_line_to_add() -> None:
    with pytest.raises(StoreError, match=r'is relu, and by the card of kidney-stone it is gelu.*activation = "relu"'):
        assumes_activation(KIDNEY_STONE, {"activation": "ReLU"})


def test_values_that_are_not_finite_are_refused(weights: dict[str, torch.Tensor]) -> None:
    weights["network.3.bias"][5] = float("nan")
    with pytest.raises(StoreError, match=r"network\.3\.bias: holds values that are not finite"):
        load_network(CHURN, weights)


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (torch.ones(2, dtype=torch.int8), "holds torch.int8"),
        (torch.ones(2, dtype=torch.complex64), "holds torch.complex64"),
        (torch.ones(2).to_sparse(), "sparse"),
    ],
)
def test_a_tensor_that_is_no_plain_float_is_refused_and_not_cast(
    weights: dict[str, torch.Tensor], tensor: torch.Tensor, message: str
) -> None:
    with pytest.raises(StoreError, match=rf"network\.6\.bias: .*{message}"):
        load_network(CHURN, weights | {"network.6.bias": tensor})


def test_metadata_are_texts_and_finite_numbers(weights: dict[str, torch.Tensor], tmp_path: Path) -> None:
    torch.save({"model_state_dict": weights, "best": float("inf"), 3: "three", "epoch": 1}, tmp_path / "w.pth")
    assert read_checkpoint(tmp_path / "w.pth").metadata == {"3": "three", "epoch": 1}
    torch.save({1: torch.zeros(2)}, tmp_path / "w.pth")
    with pytest.raises(StoreError, match="holds no state_dict"):
        read_checkpoint(tmp_path / "w.pth")


@pytest.mark.parametrize("content", [{}, {"epoch": 1}, {"model_state_dict": {"a": 1}}, [1], {"model_state_dict": {}}])
def test_a_file_without_weights_says_what_to_save(content: object, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(StoreError, match="model_state_dict or state_dict"):
        read_checkpoint(tmp_path / "w.pth")


def test_the_networks_of_the_cards_are_built() -> None:
    assert isinstance(build(CIFAR10), PyramidNet)
    assert sum(parameter.numel() for parameter in build(CIFAR10).parameters()) == CIFAR10.parameters == 1_772_706
    with pytest.raises(StoreError, match="came as an ONNX graph"):
        build(read_card(ROOT / "models" / "imagenet" / "card.toml"))


def test_only_matrices_are_rounded() -> None:
    rounded = round_weights({"w": torch.ones(2, 2) / 3, "b": torch.ones(2) / 3, "n": torch.tensor(5)})
    assert [rounded[name].dtype for name in ("w", "b", "n")] == [torch.float16, torch.float32, torch.int64]


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
