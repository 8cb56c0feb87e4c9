"""The report on explanations: figures of cases solved on paper, and of a small network whose weights are randomised."""

import numpy as np
import pytest
import torch

from explain.autograd import AutogradExplainer
from export import explanation_report as report
from export.explanation_quality import Case
from models.card import Explain
from tests.explain.nets import SIZE, SmallNet

LAYERS = ("stem", "early", "middle", "late", "late.1")


def case_at(row: int, column: int) -> Case:
    """A dark picture with a bright square, which is the object to be found."""
    mask = np.zeros(SIZE, bool)
    mask[row : row + 4, column : column + 4] = True
    grey = np.where(mask, 200.0, 20.0).astype(np.float32)
    return Case(np.stack([grey / 128 - 1] * 3).astype(np.float32), mask, grey)


@pytest.fixture(scope="module")
def cases() -> list[Case]:
    return [case_at(0, 0), case_at(26, 40), case_at(3, 30)]


def test_heatmaps_that_equal_the_masks_hit_every_time(cases: list[Case]) -> None:
    figures = report.pointing_figures(cases, np.stack([case.mask for case in cases]).astype(np.float32))
    assert figures["n"] == 3 and figures["pointing_game"] == figures["energy"] == 1.0
    assert figures["uniform_energy"] == round(16 / (SIZE[0] * SIZE[1]), 4)
    assert figures["baselines"] == {"centre": pytest.approx(1 / 3, abs=1e-4), "brightest_blob": 1.0}


def test_curves_begin_and_end_at_the_blurred_and_the_whole_picture(cases: list[Case]) -> None:
    net = SmallNet()
    heats = np.stack([case.mask for case in cases]).astype(np.float32)
    curves = report.mean_curves(net, cases, heats, target=1)
    with torch.inference_mode():
        whole = net(torch.from_numpy(np.stack([case.tensor for case in cases]))).softmax(1)[:, 1].mean()
    assert curves["insertion"].shape == curves["deletion"].shape == (report.CURVE_STEPS + 1,)
    assert [curves["insertion"][-1], curves["deletion"][0]] == pytest.approx([float(whole)] * 2, abs=1e-5)
    assert curves["insertion"][0] == pytest.approx(curves["deletion"][-1])


def test_random_weights_change_the_maps_and_the_trained_ones_are_left_as_they_were(cases: list[Case]) -> None:
    net, explain = SmallNet(), Explain(layer="middle", method="layercam")
    weights = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    heats = report.heatmaps_of(AutogradExplainer(net, "middle"), cases, 1, "trained")["layercam"]
    figures = report.randomised_figures(net, SmallNet(seed=5), explain, cases, heats, target=1)
    assert figures["trained"]["pointing_game"] == report.pointing_game(cases, heats)
    assert set(figures) == {"trained", "head", "after_layer", "all"}
    assert figures["all"]["rank_correlation"] < 0.99
    assert all(torch.equal(tensor, weights[name]) for name, tensor in net.state_dict().items())
    same = report.randomised_figures(net, net, explain, cases, heats, target=1)
    assert same["all"] == {**same["trained"], "rank_correlation": pytest.approx(1.0, abs=1e-3)}


def test_layers_and_their_products_are_listed_from_the_best_to_the_worst(cases: list[Case]) -> None:
    rows = report.compared_figures(SmallNet(), LAYERS, cases, target=1)
    assert len(rows) == 5 * 4 + 2 * 3
    shares = [row["pointing_game"] for row in rows]
    assert shares == sorted(shares, reverse=True)
    assert {row["layer"] for row in rows} == {*LAYERS, "middle x late.1", "early x middle", "middle x late"}
