"""A model with an early exit: who answers which picture, against logits worked out by hand."""

import asyncio
from pathlib import Path

import numpy as np
import pytest
from prometheus_client import REGISTRY

from runners.cores import CoreShare
from serving.loaded_model import LoadedModel
from serving.loading import PREDICTION, device_for
from serving.options import RunnerOptions
from serving.predictions import ImagePrediction, PredictionParameters
from serving.predictor import Predictor
from tests.tiny import logits_of_plain, plain, seal, tiny_package

SOONER, LATER = (0, 63, 192, 255), (65, 100, 128, 190)


@pytest.fixture
def model(tmp_path: Path) -> LoadedModel:
    stored = seal(tiny_package(tmp_path / "exits", "tiny-exits", 1, exits=True))
    loaded = LoadedModel(stored.card, stored, PREDICTION)
    loaded.load(RunnerOptions(), CoreShare(2))
    assert (loaded.state, loaded.detail) == ("ready", "")
    return loaded


def counts(model: LoadedModel) -> list[float]:
    """Return the pictures that the early exit answered, and those that the whole network did."""
    labels = [{"model": "tiny-exits", "version": model.version or "", "by": part} for part in ("early_exit", "network")]
    return [REGISTRY.get_sample_value("vitrine_early_exit_total", label) or 0.0 for label in labels]


def test_every_answer_says_who_gave_it_and_both_are_counted(model: LoadedModel) -> None:
    assert model.has_early_exit
    before = counts(model)  # its goldens, which it replayed first, are not in them
    levels = (*SOONER, *LATER)
    predictor, payloads = Predictor(10_000), [plain(level) for level in levels]
    work = predictor.predict_images(model, payloads, PredictionParameters(), predictor.deadline())
    for level, prediction in zip(levels, asyncio.run(work), strict=True):
        assert isinstance(prediction, ImagePrediction)
        early = level in SOONER
        assert prediction.answered_by == ("early_exit" if early else "network")
        assert np.allclose(prediction.logits, (3 if early else 1) * logits_of_plain(level), atol=1e-4)
    assert [after - earlier for after, earlier in zip(counts(model), before, strict=True)] == [len(SOONER), len(LATER)]
    assert model.close(5)


def test_a_model_without_an_exit_says_nothing_of_it(tmp_path: Path) -> None:
    stored = seal(tiny_package(tmp_path / "plain"))
    plain_one = LoadedModel(stored.card, stored, PREDICTION)
    plain_one.load(RunnerOptions(), CoreShare(1))
    assert not plain_one.has_early_exit and plain_one.submit(plain(255)).result(10).value.answered_by is None
    assert plain_one.close(5)


def test_an_output_of_that_name_means_nothing_in_a_graph_that_is_no_such_variant(tmp_path: Path) -> None:
    package = tiny_package(tmp_path / "own", "tiny-own", 1, exits=True)
    index = package / "goldens" / "goldens.json"
    index.write_text(index.read_text().replace('"variant": "early-exit"', '"variant": "fp32"'))
    stored = seal(package)
    model = LoadedModel(stored.card, stored, PREDICTION)
    model.load(RunnerOptions(), CoreShare(1))
    assert not model.has_early_exit and model.submit(plain(255)).result(10).value.answered_by is None
    assert model.close(5)


def test_it_stays_on_the_cpu_where_its_graph_is(model: LoadedModel) -> None:
    assert model.stored is not None
    assert (model.stored.variant, device_for(model.stored, "torch-cpu"), model.device) == ("early-exit", "cpu", "cpu")
    assert model.close(5)
