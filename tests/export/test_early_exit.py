"""An early exit: the exported graph against PyTorch layer by layer, and kidney-stone's compared with fp32."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file
from torch import nn

from backends.onnx import EarlyExitBackend, OnnxBackend
from cli.main import main
from errors import CardError, NotCompilable, StoreError
from explain.compile import split
from export import variants
from export.early_exit import early_exit_graph, load_head
from export.graph import trace_to_onnx, use_external_weights
from export.variant_comparison import ComparedModel, compare_with_fp32
from models import store
from models.architectures.early_exit import EarlyExitNetwork, ExitHead
from models.card import ImageCard, parse_card, read_image_card
from models.checkpoint import load_network, read_checkpoint, round_weights
from models.goldens import Golden, read_goldens
from models.package import EXIT, WEIGHTS
from runners.cores import CoreShare
from serving.loaded_model import LoadedModel
from serving.loading import PREDICTION
from serving.options import RunnerOptions
from tests.conftest import ROOT
from tests.explain.nets import SIZE, SmallNet
from tests.tiny import CARD, logits_of_plain, plain, tiny_package
from training.kidney_stone import data as phantoms

EXITS = '\n[early_exit]\nlayer = "{layer}"\nclear_below = {below}\nclear_from = {above}\n'


def card_of(layer: str, below: float, above: float) -> ImageCard:
    text = CARD.format(name="tiny").replace("[16, 16]", str(list(SIZE)))
    card = parse_card(text + EXITS.format(layer=layer, below=below, above=above), "card.toml")
    assert isinstance(card, ImageCard)
    return card


def two_classes() -> SmallNet:
    net = SmallNet()
    net.head[2] = nn.Linear(24, 2)
    return net.eval().requires_grad_(False)


def head_for(layer: str, net: SmallNet, pictures: torch.Tensor) -> ExitHead:
    features = features_at(layer, net, pictures)
    torch.manual_seed(1)
    head = ExitHead(features.shape[1], 2, width=8)
    with torch.no_grad():
        for _ in range(20):
            head(features)
        head.logits.weight.mul_(8)
    return head.eval()


def features_at(layer: str, net: SmallNet, pictures: torch.Tensor) -> torch.Tensor:
    for name, stage in net.stages():
        pictures = stage(pictures)
        if name == layer:
            break
    return pictures


@pytest.mark.parametrize("layer", ["early", "late"])
def test_the_graph_answers_early_where_the_head_is_sure_and_goes_on_elsewhere(tmp_path: Path, layer: str) -> None:
    net, pictures = two_classes(), torch.randn(60, 3, *SIZE, generator=torch.Generator().manual_seed(2))
    head = head_for(layer, net, pictures)
    with torch.inference_mode():
        early, whole = head(features_at(layer, net, pictures)).numpy(), net(pictures).numpy()
    chance = 1 / (1 + np.exp(early[:, 0] - early[:, 1]))
    below, above = float(np.quantile(chance, 0.3)), float(np.quantile(chance, 0.7))
    card = card_of(layer, min(below, 0.5), max(above, 0.5))
    assert card.early_exit is not None
    sure = (chance < card.early_exit.clear_below) | (chance >= card.early_exit.clear_from)
    assert 5 < sure.sum() < 55

    save_file(net.state_dict(), tmp_path / WEIGHTS)
    save_file({f"exit.{name}": value for name, value in head.state_dict().items()}, tmp_path / EXIT)
    graph = trace_to_onnx(
        EarlyExitNetwork(net, head, card), {"image": torch.zeros(1, 3, *SIZE)}, ["logits", "early"], fixed_batch=True
    )
    use_external_weights(graph, tmp_path / WEIGHTS, tmp_path / EXIT)
    (tmp_path / "predict.onnx").write_bytes(graph.SerializeToString())
    logits, answered_by = EarlyExitBackend(tmp_path / "predict.onnx").run(pictures.numpy())
    assert answered_by == ["early_exit" if exited else "network" for exited in sure]
    assert np.allclose(logits, np.where(sure[:, None], early, whole), atol=1e-4)
    assert not np.allclose(early, whole, atol=0.1)


def test_the_weights_are_in_their_files_and_the_graph_tells_nothing_of_this_machine(tmp_path: Path) -> None:
    net, pictures = two_classes(), torch.randn(4, 3, *SIZE)
    head = head_for("early", net, pictures)
    save_file(round_weights(net.state_dict()), tmp_path / WEIGHTS)
    save_file(round_weights({f"exit.{name}": value for name, value in head.state_dict().items()}), tmp_path / EXIT)
    module = EarlyExitNetwork(net, head, card_of("early", 0.1, 0.9))
    graph = trace_to_onnx(module, {"image": torch.zeros(1, 3, *SIZE)}, ["logits", "early"], fixed_batch=True)
    use_external_weights(graph, tmp_path / WEIGHTS, tmp_path / EXIT)
    assert not any(part in str(graph) for part in (str(Path(__file__).parents[2]), "fx_node", "stack_trace"))
    initializers = graph.graph.initializer
    inside = [tensor.name for tensor in initializers if not tensor.external_data]
    weights = {*net.state_dict(), *(f"exit.{name}" for name in head.state_dict())}
    assert not [name for name in inside if name.removesuffix(".fp16") in weights]
    external = [entry for tensor in initializers for entry in tensor.external_data]
    assert {entry.value for entry in external if entry.key == "location"} == {WEIGHTS, EXIT}
    onnx.save(graph, tmp_path / "predict.onnx")
    assert EarlyExitBackend(tmp_path / "predict.onnx").run(np.zeros((2, 3, *SIZE), np.float32)).logits.shape == (2, 2)


def test_a_head_comes_back_from_its_weights() -> None:
    torch.manual_seed(0)
    head = ExitHead(12, 2, width=6).eval()
    again = load_head({f"exit.{name}": value for name, value in head.state_dict().items()})
    features = torch.randn(2, 12, 8, 8)
    assert torch.equal(again(features), head(features))
    with pytest.raises(RuntimeError, match="norm"):
        load_head({"exit.map.weight": torch.zeros(1, 6, 1, 1)})


def test_a_layer_that_is_not_there_is_refused_by_name() -> None:
    with pytest.raises(NotCompilable, match="it can be at: stem, early"):
        EarlyExitNetwork(two_classes(), ExitHead(16, 2), card_of("nowhere", 0.1, 0.9))


@pytest.mark.parametrize(
    ("old", "new"),
    [("below = 0.1", "below = 0.6"), ("from = 0.9", "from = 0.4"), ("from = 0.9", "from = 1.4"), ("layer", "layers")],
)
def test_limits_that_make_no_sense_are_refused_by_name(old: str, new: str) -> None:
    text = CARD.format(name="tiny") + EXITS.format(layer="early", below=0.1, above=0.9)
    assert old in text
    with pytest.raises(CardError, match="early_exit"):
        parse_card(text.replace(old, new), "card.toml")


@pytest.mark.slow
def test_kidney_stones_is_as_good_as_fp32_and_its_goldens_say_which_part_answered(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(variants, "LABELLED_PICTURES", 48)
    result = CliRunner().invoke(main, ["models", "import", "kidney-stone", "--variant", "early-exit"])
    assert result.exit_code == 0, result.output
    stored = store.find("kidney-stone")
    report = stored.parity()["variant"]
    assert (stored.variant, report["variant"], report["items"]) == ("early-exit", "early-exit", 48)
    assert f"{report['answered_early']:.1%} answered early" in result.output

    # PyTorch gives the same answers, by the same part of the network, when its layers are run one by one.
    card = read_image_card(stored.path / "card.toml")
    assert card.early_exit is not None
    network = load_network(card, read_checkpoint(stored.path / WEIGHTS).weights)
    head = load_head(read_checkpoint(stored.path / EXIT).weights)
    stages: Any = network
    trunk, tail = split(stages.stages(), card.early_exit.layer)
    batches = list(phantoms.labelled(card, "validate", 12) or [])
    pictures = torch.from_numpy(np.concatenate([batch.inputs for batch in batches]))
    with torch.inference_mode():
        features = trunk(pictures)
        early, whole = head(features), tail(features)
    chance = early.softmax(1)[:, 1]
    sure = ((chance < card.early_exit.clear_below) | (chance >= card.early_exit.clear_from)).numpy()
    logits, answered_by = EarlyExitBackend(stored.graph).run(pictures.numpy())
    assert answered_by == ["early_exit" if exited else "network" for exited in sure]
    assert np.allclose(logits, np.where(sure[:, None], early, whole), atol=1e-3)

    served = LoadedModel(stored.card, stored, PREDICTION)
    served.load(RunnerOptions(), CoreShare(1))
    assert (served.state, served.detail) == ("ready", "")
    for golden in read_goldens(stored.path)[0]:
        answer = served.submit(golden.data).result(60).value
        assert answer.answered_by in ("early_exit", "network")
        assert (answer.logits[1] > answer.logits[0]) == (golden.logits[1] > golden.logits[0])
    assert served.close(10)


def test_a_model_without_an_exit_or_without_its_weights_is_refused_by_name(home: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["models", "import", "churn", "--variant", "early-exit"])
    assert result.exit_code == 1 and "The card of churn names no early exit" in result.output
    package = ROOT / "models" / "kidney_stone"
    for name in ("card.toml", "predict.onnx", WEIGHTS):
        (tmp_path / name).symlink_to(package / name)
    shutil.copytree(package / "goldens", tmp_path / "goldens")
    with pytest.raises(StoreError, match=r"the weights of its early exit, exit\.safetensors, are missing"):
        variants.make_variant(tmp_path, "early-exit", tmp_path / "variant", None)
    own = ["--weights", str(package / WEIGHTS), "--variant", "early-exit"]
    result = CliRunner().invoke(main, ["models", "import", "kidney-stone", *own])
    assert result.exit_code == 1 and "goes with the weights that ship" in result.output
    assert store.installed() == []


@pytest.mark.parametrize(
    ("features", "classes", "message"), [(56, 3, "its head has 3 outputs for 2 labels"), (112, 2, "expected.*112|112")]
)
def test_a_head_that_does_not_fit_is_refused_before_anything_is_traced(
    tmp_path: Path, features: int, classes: int, message: str
) -> None:
    card = read_image_card(ROOT / "models" / "kidney_stone" / "card.toml")
    (tmp_path / WEIGHTS).symlink_to(ROOT / "models" / "kidney_stone" / WEIGHTS)
    save_file(
        {f"exit.{name}": value for name, value in ExitHead(features, classes).state_dict().items()}, tmp_path / EXIT
    )
    with pytest.raises(StoreError, match=rf"the early exit does not fit its network \(.*({message})"):
        early_exit_graph(card, tmp_path)


def test_an_exit_that_is_never_taken_is_refused(tmp_path: Path) -> None:
    package = tiny_package(tmp_path / "exits", "tiny", 1, exits=True)
    plain_package = tiny_package(tmp_path / "plain")
    card = read_image_card(package / "card.toml")
    goldens = [Golden(f"{level}.png", plain(level), logits_of_plain(level)) for level in (100, 150)]
    fp32 = ComparedModel(OnnxBackend(plain_package / "predict.onnx"), 1)
    variant = ComparedModel(EarlyExitBackend(package / "predict.onnx"), 1)
    # Noise averages to grey, of which the exit is not sure.
    with pytest.raises(StoreError, match="of 64 items not one is answered early"):
        compare_with_fp32(card, "early-exit", goldens, None, fp32, variant)
