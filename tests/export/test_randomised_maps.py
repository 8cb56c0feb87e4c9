"""What random weights do to maps, in cases solved on paper: maps of 2 x 2 cells over pictures of 32 x 32 pixels."""

import numpy as np
import pytest

from export.explanation_quality import Case
from export.layer_maps import AGAINST, Maps
from export.randomised_maps import (
    RandomisedMaps,
    compared_figures,
    compared_layers,
    heats_of,
    randomised_figures,
    rank_correlation,
)
from tests.explain.nets import SmallNet

SIZE = (32, 32)
LEFT, RIGHT, NOWHERE = (
    np.array(values, np.float32) for values in ([[1, 0], [0, 0]], [[0, 0], [0, 1]], [[0, 0], [0, 0]])
)


def case_at_the_top_left() -> Case:
    mask = np.zeros(SIZE, bool)
    mask[2, 2] = True  # the lower right corner is more than 15 pixels from it
    return Case(np.zeros((3, *SIZE), np.float32), mask, np.zeros(SIZE, np.float32))


def maps_of(*, gradcam: np.ndarray, layercam: np.ndarray, against: np.ndarray) -> Maps:
    """Maps of two pictures, for both layers alike."""
    rest = {"gradcam++": gradcam, "hirescam": layercam}
    methods = {"gradcam": gradcam, "layercam": layercam, AGAINST: against, **rest}
    return {(layer, method): np.stack([cam, cam]) for layer in ("fine", "own") for method, cam in methods.items()}


@pytest.fixture
def found() -> RandomisedMaps:
    """Grad-CAM loses the object with every other head, LayerCAM with none."""
    trained = maps_of(gradcam=LEFT, layercam=LEFT, against=LEFT)
    heads = [
        maps_of(gradcam=LEFT, layercam=LEFT, against=LEFT),
        maps_of(gradcam=NOWHERE, layercam=LEFT, against=RIGHT),
        maps_of(gradcam=LEFT, layercam=LEFT, against=RIGHT),
        maps_of(gradcam=RIGHT, layercam=LEFT, against=LEFT),
    ]
    lost = [maps_of(gradcam=RIGHT, layercam=RIGHT, against=RIGHT)]
    return RandomisedMaps(
        ("fine", "own"), ("own", "gradcam"), trained, {"head": heads, "after_layer": lost, "all": lost}
    )


def test_a_map_that_asks_the_head_falls_where_the_head_is_random(found: RandomisedMaps) -> None:
    figures = randomised_figures(found, [case_at_the_top_left()] * 2)
    assert figures["n"] == 2 and figures["trained"] == {"pointing_game": 1.0}
    head = figures["head"]
    assert (head["networks"], head["pointing_game"], head["pointing_networks"]) == (4, 0.5, 2)
    assert figures["all"]["pointing_game"] == 0.0


def test_without_masks_the_correlation_alone_is_left(found: RandomisedMaps) -> None:
    figures = randomised_figures(found, [case_at_the_top_left()] * 2, points=False)
    assert figures["n"] == 2 and "trained" not in figures
    assert set(figures["head"]) == {"networks", "rank_correlation"}


def test_candidates_are_listed_with_what_random_heads_make_of_them(found: RandomisedMaps) -> None:
    rows = {(row["layer"], row["method"]): row for row in compared_figures(found, [case_at_the_top_left()] * 2)}
    assert len(rows) == 2 * 4 + 3 + 1
    assert rows["own", "gradcam"]["random_head"] == 0.5
    assert rows["own", "layercam"]["random_head"] == 1.0
    assert rows["own", f"gradcam x {AGAINST}"]["random_head"] == 0.25
    assert rows["fine x own", "layercam"]["pointing_game"] == 1.0


def test_a_product_keeps_what_both_heatmaps_have(found: RandomisedMaps) -> None:
    maps = maps_of(gradcam=LEFT + RIGHT, layercam=LEFT, against=RIGHT)
    heats = heats_of(maps, [("own", "gradcam"), ("own", "layercam")], SIZE)
    assert heats.shape == (2, *SIZE) and heats[0, 0, 0] > 0.9 and heats[0, -1, -1] < 0.05


def test_equal_heatmaps_correlate_and_an_even_one_does_not() -> None:
    heats = np.random.default_rng(0).random((3, *SIZE)).astype(np.float32)
    assert rank_correlation(heats, heats) == pytest.approx(1.0)
    assert rank_correlation(heats, 1 - heats) == pytest.approx(-1.0)
    assert rank_correlation(heats, np.zeros_like(heats)) == 0.0


def test_layers_are_compared_with_their_neighbours_but_not_with_the_head() -> None:
    assert compared_layers(SmallNet(), "middle") == ("stem", "early", "middle", "late")
    assert compared_layers(SmallNet(), "stem") == ("stem", "early", "middle")
