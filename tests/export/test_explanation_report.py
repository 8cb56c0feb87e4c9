"""The report on explanations: figures of cases solved on paper."""

from typing import Literal

import numpy as np
import pytest

from backends.base import Batch, Outputs
from explain.autograd import AutogradExplainer
from export import explanation_report as report
from export import layer_maps
from export.explanation_quality import Case
from export.randomised_maps import Counts
from models.card import Explain, read_image_card
from tests.conftest import SHIPPED
from tests.explain.nets import SIZE, SmallNet


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


class MeanOfRed:
    """A model whose two logits are the mean of the first channel and its negative."""

    runtime: Literal["onnx"] = "onnx"
    device = "cpu"

    def run(self, batch: Batch) -> Outputs:
        mean = batch[:, 0].mean((1, 2))
        return Outputs(np.stack([-mean, mean], 1))

    def close(self) -> None: ...


def test_curves_begin_and_end_at_the_blurred_and_the_whole_picture(cases: list[Case]) -> None:
    card = read_image_card(SHIPPED / "card.toml").model_copy(update={"temperature": None})
    model = report.ExplainedModel(card, Explain(layer="", method="gradcam"), None, MeanOfRed(), None)  # type: ignore[arg-type]
    heats = np.stack([case.mask for case in cases]).astype(np.float32)
    targets = np.array([1, 1, 0])
    curves = report.mean_curves(model, cases, heats, targets)
    means = np.array([case.tensor[0].mean() for case in cases]) * [1, 1, -1]
    whole = np.mean(1 / (1 + np.exp(-2 * means)))
    assert curves["insertion"].shape == curves["deletion"].shape == (report.CURVE_STEPS + 1,)
    assert [curves["insertion"][-1], curves["deletion"][0]] == pytest.approx([float(whole)] * 2, abs=1e-5)
    assert curves["insertion"][0] == pytest.approx(curves["deletion"][-1])


def test_a_network_gets_random_weights_also_where_no_place_is_known(
    cases: list[Case], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layer_maps, "build", lambda card: SmallNet(seed=5))
    card, explain = read_image_card(SHIPPED / "card.toml"), Explain(layer="middle", method="gradcam")
    explainer = AutogradExplainer(SmallNet(), "middle")
    model = report.ExplainedModel(card, explain, explainer, MeanOfRed(), SmallNet())
    targets, counts = np.ones(3, np.int64), Counts(compare_on=2, random_on=2, heads=1, networks=1)
    known = report.measure(model, cases, targets, 1, counts, data="squares")
    assert known.figures["randomised"]["head"]["networks"] == 2
    assert {"pointing_game", "compared", "insertion_auc", "deletion_auc"} <= set(known.figures)
    blind = [case._replace(mask=np.zeros_like(case.mask)) for case in cases]
    unknown = report.measure(model, blind, targets, 1, counts, data="squares")
    assert set(unknown.figures) == {"n", "data", "insertion_auc", "deletion_auc", "randomised"}
    correlations = {part: known.figures["randomised"][part]["rank_correlation"] for part in ("head", "all")}
    assert {part: unknown.figures["randomised"][part]["rank_correlation"] for part in correlations} == correlations
    assert all(correlation < 0.9 for correlation in correlations.values())
