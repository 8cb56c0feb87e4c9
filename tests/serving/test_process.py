"""What one process makes of its settings."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from errors import StoreError
from models.package import StoredModel
from models.registry import bundled_cards
from serving.predictions import PredictionParameters
from serving.predictor import Predictor
from serving.process import PredictionProcess, missing_models
from settings import Settings
from tests.tiny import plain, seal, tiny_package


@contextmanager
def process_of(stored: StoredModel, **values: Any) -> Iterator[PredictionProcess]:
    """Load a model as a server with these settings does, until the block ends."""
    settings = Settings(_env_file=None, default_model="tiny", models="tiny", **values)
    process = PredictionProcess(settings, [stored])
    process.repository.start()
    process.repository.wait_loaded(60)
    yield process
    assert process.repository.close(20)


@pytest.mark.parametrize(("cache_mb", "cached"), [(0, False), (1, True)])
def test_answers_are_kept_where_there_is_memory_for_them(tmp_path: Path, cache_mb: int, cached: bool) -> None:
    with process_of(seal(tiny_package(tmp_path / "tiny")), cache_mb=cache_mb) as process:
        predictor, model = Predictor(30_000), process.repository.get()
        for expected in (False, cached):
            work = predictor.predict_image(model, plain(77), PredictionParameters(), predictor.deadline())
            assert asyncio.run(work).answer.cached == expected


def test_explanations_can_be_switched_off(tmp_path: Path) -> None:
    stored = seal(tiny_package(tmp_path / "tiny"))
    with process_of(stored) as process:
        assert (
            process.predictor.explainer is not None
            and process.predictor.explainer.unavailable_reason == "it is starting"
        )
    with process_of(stored, explain=False) as process:
        assert process.predictor.explainer is None


def test_the_grad_cam_process_is_asked_for_no_version_that_failed_here(tmp_path: Path) -> None:
    stored = seal(tiny_package(tmp_path / "tiny", explained=True))
    with process_of(stored) as process:
        assert process._explained_tags() == [stored.tag]
        process.repository.get().fail(StoreError("damaged"))
        assert process._explained_tags() == []


def test_bundled_models_that_are_not_installed_are_listed_with_the_command_that_installs_them(tmp_path: Path) -> None:
    with process_of(seal(tiny_package(tmp_path / "tiny"))) as process:
        assert set(process.repository.models) == {"tiny"}
    every = missing_models({}, bundled_cards())
    assert set(every) == {"churn", "cifar10", "imagenet", "kidney-stone", "machine-anomaly"}
    assert "vitrine models import kidney-stone" in every["kidney-stone"][1]
    assert list(missing_models({"churn": ""}, bundled_cards())) == ["churn"]
    assert "asks for version abc" in missing_models({"churn": "abc"}, bundled_cards())["churn"][1]


def test_the_queue_is_as_long_as_the_settings_say(tmp_path: Path) -> None:
    with process_of(seal(tiny_package(tmp_path / "tiny")), queue_size=7) as process:
        futures = [process.repository.get().submit(plain(level)) for level in range(3)]
        assert all(np.isfinite(future.result(20).value.logits).all() for future in futures)
