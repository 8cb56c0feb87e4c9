"""Measuring: arrivals, clocks that a late generator cannot fool, and the real Runner on small models."""

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
from runners.plan import CoreShare, CpuPlan
from runners.runner import Runner
from serving.loaded_model import RunnerOptions
from tests.explain.nets import SmallNet
from tests.explain.package import small_package
from tests.serving.test_repository import stored
from tuning.candidates import space_of
from tuning.measure import Trial, closed_loop, open_loop, schedule
from tuning.search import search


def done(payload: object) -> "Future[Any]":
    future: Future[Any] = Future()
    future.set_result(payload)
    return future


def test_arrivals_are_poisson_and_the_seed_decides_them() -> None:
    due = schedule(50.0, 20_000, 7)
    gaps = np.diff(due, prepend=0.0)
    assert (gaps > 0).all()
    assert gaps.mean() == pytest.approx(1 / 50, rel=0.03) and gaps.std() == pytest.approx(1 / 50, rel=0.03)
    counts = np.histogram(due, np.arange(0, int(due[-1])))[0]
    assert counts.var() == pytest.approx(counts.mean(), rel=0.25)  # of a Poisson process they are the same
    assert np.array_equal(due, schedule(50.0, 20_000, 7)) and not np.array_equal(due, schedule(50.0, 20_000, 8))
    assert np.allclose(schedule(100.0, 20_000, 7), due / 2)


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

    runner = Runner("sleeps", lambda payload: payload, run, lanes=2)
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
    with closing(Trial(stored(tmp_path / "a"), options, CoreShare(2), 0.1)) as trial:
        space = space_of(trial.default, 2, trial.device, options)
        found = search(trial, trial.default, space, 60_000)
        assert found.default.layout == trial.default
        assert found.best.rate and found.best.rate <= found.best.saturation
        assert np.isfinite(trial.alone(CpuPlan(1, (1,), 1))).all()
    assert not trial._backends


def test_an_accelerator_s_plans_are_measured_on_pytorch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("models.checkpoint.build", lambda card: SmallNet())
    options = RunnerOptions(device="torch-cpu")
    with closing(Trial(small(tmp_path), options, CoreShare(1), 0.1)) as trial:
        assert trial.device == "torch-cpu" and trial.default.decoders
        space = replace(space_of(trial.default, 1, trial.device, options), batches=(2, 4), lingers_ms=())
        found = search(trial, replace(trial.default, max_batch=4), space, 60_000)
        assert found.best.rate
        assert {each.layout.decoders for each in found.candidates} == {1, 2}
        assert len({each.layout.max_batch for each in found.candidates}) > 1


def small(folder: Path) -> StoredModel:
    from tests.serving.test_backend import stored as sealed

    return sealed(small_package(folder / "small"))
