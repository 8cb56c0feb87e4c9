"""Measuring: arrivals, clocks that a late generator cannot fool, and the real Runner on small models."""

import gc
import time
from concurrent.futures import Future
from contextlib import closing
from dataclasses import replace
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from errors import InferenceFailed, QueueFull, StoreError
from models.package import StoredModel
from runners.cores import CoreShare
from runners.plan import Plan
from runners.runner import Runner
from serving.options import RunnerOptions
from tests.explain.nets import SmallNet
from tests.explain.package import small_package
from tests.runners.steps import start_runner
from tests.serving.test_repository import stored
from tests.tiny import seal
from tuning.candidates import search_space
from tuning.measure import ModelMeasurer, closed_loop, open_loop, poisson_arrivals
from tuning.search import search


def done(payload: object) -> "Future[Any]":
    future: Future[Any] = Future()
    future.set_result(payload)
    return future


def test_arrivals_are_poisson_and_the_seed_decides_them() -> None:
    due = poisson_arrivals(50.0, 20_000, 7)
    gaps = np.diff(due, prepend=0.0)
    assert (gaps > 0).all()
    assert gaps.mean() == pytest.approx(1 / 50, rel=0.03) and gaps.std() == pytest.approx(1 / 50, rel=0.03)
    counts = np.histogram(due, np.arange(0, int(due[-1])))[0]
    assert counts.var() == pytest.approx(counts.mean(), rel=0.25)  # of a Poisson process they are the same
    assert np.array_equal(due, poisson_arrivals(50.0, 20_000, 7)) and not np.array_equal(
        due, poisson_arrivals(50.0, 20_000, 8)
    )
    assert np.allclose(poisson_arrivals(100.0, 20_000, 7), due / 2)


def test_a_late_generator_does_not_hide_the_waiting() -> None:
    calls = list[int]()

    def slow_first(payload: object) -> "Future[Any]":
        if not calls:
            time.sleep(0.2)
        calls.append(1)
        return done(payload)

    latencies = open_loop(slow_first, repeat(0), np.array([0.0, 0.05, 0.1]))
    assert latencies[0] >= 200 and latencies[1] >= 150 and latencies[2] >= 100


def test_what_is_refused_or_fails_never_answers() -> None:
    def submit(payload: int) -> "Future[Any]":
        if payload == 1:
            raise QueueFull("full")
        future = done(payload)
        if payload == 2:
            future = Future()
            future.set_exception(InferenceFailed("failed"))
        return future

    latencies = open_loop(submit, iter([0, 1, 2, 3]), np.zeros(4))
    assert np.isfinite(latencies).tolist() == [True, False, False, True]


def test_saturation_is_no_more_than_lanes_over_service_time() -> None:
    def run(items: list[int]) -> list[int]:
        time.sleep(0.01)
        return items

    runner: Runner[int, int, int] = start_runner("sleeps", lambda payload: payload, run, lanes=2)
    rate = closed_loop(runner.submit, repeat(0), 4, 1.0)
    assert runner.close(10)
    assert 0 < rate <= 2 / 0.01 * 1.05


def test_a_model_that_answers_nothing_is_an_error_not_a_rate() -> None:
    def failing(payload: object) -> "Future[Any]":
        future: Future[Any] = Future()
        future.set_exception(InferenceFailed("failed"))
        return future

    with pytest.raises(StoreError, match="Not one request was answered"):
        closed_loop(failing, repeat(0), 2, 0.05)


def test_a_real_model_is_searched_from_end_to_end(tmp_path: Path) -> None:
    options = RunnerOptions()
    with closing(ModelMeasurer(stored(tmp_path / "a"), options, CoreShare(2), 0.1)) as measurer:
        space = search_space(measurer.default, 2, measurer.device, options)
        outcome = search(measurer, measurer.default, space, 60_000)
        assert outcome.default.plan == measurer.default
        assert outcome.best.rate and outcome.best.rate <= outcome.best.saturation
        assert np.isfinite(measurer.lone_latencies(Plan(1, (1,), 1))).all()
    assert gc.get_freeze_count() == 0


def test_an_accelerator_s_plans_are_measured_on_pytorch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("models.checkpoint.build", lambda card: SmallNet())
    monkeypatch.setattr("tuning.duration.FEWEST", 50)
    options = RunnerOptions(device="torch-cpu")
    with closing(ModelMeasurer(small(tmp_path), options, CoreShare(1), 0.1)) as measurer:
        assert measurer.device == "torch-cpu" and measurer.default.decoders
        space = replace(search_space(measurer.default, 1, measurer.device, options), batches=(2,), lingers_ms=())
        outcome = search(measurer, replace(measurer.default, max_batch=4), space, 60_000)
        assert outcome.best.rate
        assert {candidate.plan.decoders for candidate in outcome.candidates} == {1, 2}
        assert len({candidate.plan.max_batch for candidate in outcome.candidates}) > 1


def small(folder: Path) -> StoredModel:
    return seal(small_package(folder / "small"))
