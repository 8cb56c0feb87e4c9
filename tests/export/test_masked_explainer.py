"""RISE of the command line gives the maps of a server."""

from pathlib import Path

import numpy as np
import pytest

from backends.onnx import OnnxBackend
from explain.base import NO_CONTRAST, PREDICTED
from explain.rise import RISE
from export.masked_explainer import MaskedExplainer
from models.card import as_image_card
from preprocessing.prepare import prepare
from serving.gradcam.wire import ExplanationRequest
from serving.predictor import Predictor
from tests.conftest import encode
from tests.serving.predicting import PLAIN, loaded, run, soon
from tests.tiny import bright_square, plain, seal, tiny_package


@pytest.mark.parametrize("contrast", [None, 0])
def test_the_maps_are_those_of_a_server(tmp_path: Path, contrast: int | None) -> None:
    stored, data = seal(tiny_package(tmp_path / "tiny")), encode(bright_square())
    card = as_image_card(stored.card)
    against = NO_CONTRAST if contrast is None else contrast
    targets = (0, 1) if contrast is None else (1,)
    request = ExplanationRequest(data, targets, RISE, "map", 0.5, at_input_size=True, contrast=against, samples=50)
    with loaded(stored) as model:
        served = run(Predictor(30_000).explain_image(model, request, PLAIN, soon()))
    explainer = MaskedExplainer(card, OnnxBackend(stored.graph), 50)
    maps = explainer.explain(prepare(data, card.limits, card.input).tensor, targets, contrast)
    for rise_map, explanation in zip(maps, served.explanations, strict=True):
        assert np.array_equal(rise_map.values, explanation.map)
        assert explanation.sampling is not None and rise_map.standard_error == explanation.sampling.standard_error


def test_a_batch_is_explained_for_the_class_of_each_picture(tmp_path: Path) -> None:
    stored = seal(tiny_package(tmp_path / "tiny"))
    card = as_image_card(stored.card)
    explainer = MaskedExplainer(card, OnnxBackend(stored.graph), 30)
    tensors = np.stack(
        [prepare(data, card.limits, card.input).tensor for data in (encode(bright_square()), plain(240))]
    )
    outputs = explainer.run(tensors, np.array([1, PREDICTED]), frozenset({RISE}), np.array([0, NO_CONTRAST]))
    assert np.array_equal(outputs.maps[RISE][0], explainer.explain(tensors[0], [1], 0)[0].values)
    predicted = int(outputs.logits[1].argmax())
    assert np.array_equal(outputs.maps[RISE][1], explainer.explain(tensors[1], [predicted])[0].values)
