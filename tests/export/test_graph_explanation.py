"""`vitrine models add` of ONNX graphs: which are explained, from the command to the heatmap, and why others are not."""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner
from torch import Tensor, nn

from api.metadata import model_details
from cli.main import main
from errors import NotCompilable
from explain.graph.maps import explain_graph
from export.gradient_check import gradient_deviation
from models import store
from models.card import as_image_card
from preprocessing.prepare import prepare
from serving.loaded_model import LoadedModel
from serving.loading import PREDICTION
from tests.api.conftest import client_maker
from tests.conftest import encode
from tests.explain.graph.exported import Cut, assert_close, by_autograd, exported, first_convolution
from tests.export.graphs import graph_file, labels_file, run_add
from tests.local_gradcam import local_gradcam

SIDE = 32


@pytest.fixture
def network() -> Cut:
    torch.manual_seed(7)
    return Cut(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5), nn.Hardswish(), nn.Linear(5, 3)))


@pytest.fixture
def graph(network: Cut, tmp_path: Path) -> Path:
    onnx.save(exported(network, torch.zeros(2, 3, SIDE, SIDE)), tmp_path / "mine.onnx")
    return tmp_path / "mine.onnx"


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    (tmp_path / "labels.txt").write_text("a\nb\nc\n")
    return tmp_path / "labels.txt"


def shown(name: str) -> str:
    """Return what `vitrine models show` says, its tables' borders and line breaks taken out."""
    output = CliRunner().invoke(main, ["models", "show", name]).output
    return " ".join(output.replace("│", " ").split())


def test_an_added_graph_answers_with_the_map_of_autograd(home: Path, graph: Path, labels: Path, network: Cut) -> None:
    result = run_add(graph, "--labels", labels)
    layer = first_convolution(onnx.load(graph))
    assert result.exit_code == 0, result.output
    assert f"Heatmaps: gradcam at '{layer}', maps of {SIDE}×{SIDE}." in result.output
    stored = store.find("mine")
    card = as_image_card(stored.card)
    data = encode(np.random.default_rng(0).integers(0, 256, (50, 70, 3)).astype(np.uint8))
    with local_gradcam(stored) as (explainer, _), client_maker() as make:
        client = make(stored, explainer=explainer)
        answers = {
            method: client.post(f"/explain?output=map&target=c&method={method}", content=data).json()
            for method in ("gradcam", "gradcam++", "layercam")
        }
        details = client.get("/models/mine").json()
        health = client.get("/health").json()
    tensor = torch.from_numpy(prepare(data, card.limits, card.input).tensor[None])
    expected = by_autograd(network, tensor, [2])
    for method, answer in answers.items():
        assert_close(np.array(answer["explanation"]["map"]), expected.maps[method][0])
        assert answer["explanation"]["layer"] == layer
    probabilities = torch.from_numpy(expected.logits).softmax(1)[0].tolist()
    assert list(answers["gradcam"]["probabilities"].values()) == pytest.approx(probabilities, abs=1e-4)
    assert (details["explain"]["way"], details["explain"]["layer"]) == ("graph-gradient", layer)
    assert details["explain"]["quality"]["deviation_from_finite_differences"] < 1e-2
    assert health["explanations"]["mine"] == "ready"
    assert "way graph-gradient" in shown("mine")


def test_a_graph_without_an_exact_gradient_is_served_and_says_why_it_has_no_heatmaps(
    home: Path, tmp_path: Path
) -> None:
    graph_file(tmp_path / "flat.onnx", classes=30, size=64)
    result = run_add(tmp_path / "flat.onnx", "--labels", labels_file(tmp_path / "labels.txt"))
    assert result.exit_code == 0, result.output
    assert "No gradient: it has no feature map" in result.output
    stored = store.find("flat")
    assert as_image_card(stored.card).explain is None and stored.explain_graph is None
    model = LoadedModel(stored.card, stored, PREDICTION)
    assert not model.not_explainable_reason and model.no_gradient_reason.startswith("it has no feature map")
    facts = model_details(model, "0").explain
    assert facts is not None and (facts["way"], facts["methods"]) == ("rise", ["rise"])
    assert "way rise" in shown("flat") and "no gradient it has no feature map" in shown("flat")


def test_a_card_of_ones_own_is_kept_and_names_the_layer(home: Path, graph: Path, labels: Path, tmp_path: Path) -> None:
    assert run_add(graph, "--labels", labels).exit_code == 0
    text = CliRunner().invoke(main, ["models", "export-card", "mine"]).output
    layer, card = first_convolution(onnx.load(graph)), tmp_path / "card.toml"
    assert "[explain]" in text and layer in text
    card.write_text(text.replace('"gradcam"', '"layercam"'))
    result = run_add(graph, "--card", card)
    assert result.exit_code == 0 and f"Heatmaps: layercam at '{layer}'" in result.output
    card.write_text(text.replace(layer, "layer4"))
    refused = run_add(graph, "--card", card)
    assert refused.exit_code == 1
    assert "no feature map 'layer4'" in refused.output.replace("\n", " ") and layer in refused.output
    card.write_text(text[: text.index("[explain]")])
    bare = run_add(graph, "--card", card)
    assert bare.exit_code == 0 and "No gradient: its card names no layer" in bare.output and layer in bare.output
    assert as_image_card(store.find("mine").card).explain is None


def test_without_the_onnx_package_a_graph_is_served_and_the_extra_is_named(
    home: Path, graph: Path, labels: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    result = run_add(graph, "--labels", labels)
    assert result.exit_code == 0, result.output
    assert "No gradient: the onnx package" in result.output and "requirements/convert.txt" in result.output


def test_a_wrong_gradient_is_far_from_finite_differences(network: Cut) -> None:
    image = torch.randn(1, 3, SIDE, SIDE)
    built = explain_graph(exported(network, image.repeat(2, 1, 1, 1)), image.repeat(2, 1, 1, 1).numpy())
    assert gradient_deviation(built, image.numpy()) < 1e-2
    broken = onnx.ModelProto()
    broken.CopyFrom(built.model)
    doubled = onnx.helper.make_node("Add", [built.gradient, built.gradient], ["doubled"])
    place = next(index for index, node in enumerate(broken.graph.node) if built.gradient in node.output)
    broken.graph.node.insert(place + 1, doubled)
    assert gradient_deviation(built._replace(model=broken, gradient="doubled"), image.numpy()) > 0.3


class Head(nn.Module):
    """Mean, then a function that is not finite, or whose slope is 0, where the activations are."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function, self.linear = function, nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.linear(self.function((x * torch.tensor([1.0, 1, 1, 0])[:, None, None]).mean((2, 3))))
        return logits


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: torch.relu(x).sqrt(), "not finite"),  # the slope of a root is infinite at 0
        (lambda x: torch.clamp(x, 100, 101), "do not change with the feature map"),
    ],
)
def test_a_gradient_that_is_nowhere_a_number_or_always_zero_is_refused(
    function: Callable[[Tensor], Tensor], message: str
) -> None:
    torch.manual_seed(0)
    pictures = torch.randn(2, 3, SIDE, SIDE)
    built = explain_graph(exported(Cut(Head(function)), pictures), pictures.numpy())
    with pytest.raises(NotCompilable, match=message):
        gradient_deviation(built, pictures.numpy())
