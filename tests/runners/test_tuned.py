"""What was tuned is served, on the machine that it was tuned on, and never keeps a model from starting."""

import json
import logging
from dataclasses import replace
from pathlib import Path

import pytest

from models.package import StoredModel, file_digests, verify
from runners.cores import CoreShare
from runners.machine import machine_of
from runners.plan import Plan
from runners.tuned import TUNING, Tuned, forget, read_tuned, remember, tuned_plan
from serving.loading import load_prediction
from serving.options import RunnerOptions
from tests.serving.test_repository import stored

SHARE = CoreShare(2)
HERE = machine_of("cpu", 2)
PLAN = Plan(lanes=3, widths=(2,), max_batch=5, linger_ms=1.0)
TUNED = Tuned(date="2026-01-02", slo_p99_ms=250, rate=90, default_rate=60, saturation=100, alone_p50_ms=3.0, plan=PLAN)


def served_plan(model: StoredModel, options: RunnerOptions) -> Plan:
    """Return the plan that a model is served with."""
    loaded = load_prediction(model, options, SHARE)
    loaded.release()
    return loaded.plan


def test_serving_uses_what_was_tuned_here_and_what_an_operator_set_before_that(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "vitrine.models")
    model = stored(tmp_path / "a")
    planned = served_plan(model, RunnerOptions())
    remember(model.path, HERE, TUNED)
    assert served_plan(model, RunnerOptions()) == PLAN != planned
    assert "runs as tuned on 2026-01-02: lanes 3, threads 2, batch 5, linger 1 ms" in caplog.text
    assert served_plan(model, RunnerOptions(max_batch=7)) == replace(PLAN, max_batch=7)
    assert forget(model.path) and not forget(model.path)
    assert served_plan(model, RunnerOptions()) == planned


@pytest.mark.parametrize("other", [machine_of("cpu", 3), machine_of("torch-cpu", 2), HERE.replace("ONNX", "onnx")])
def test_what_was_tuned_elsewhere_is_not_used_and_the_log_says_what_to_do(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, other: str
) -> None:
    caplog.set_level(logging.INFO, "vitrine.models")
    model = stored(tmp_path / "a")
    remember(model.path, other, TUNED)
    assert tuned_plan(model.path, model.tag, "cpu", 2) is None
    assert other in caplog.text and HERE in caplog.text and "`vitrine tune tiny`" in caplog.text
    remember(model.path, HERE, TUNED)
    assert tuned_plan(model.path, model.tag, "cpu", 2) == PLAN
    assert set(read_tuned(model.path)) == {HERE, other}


def damaged() -> list[str]:
    good = {HERE: TUNED.model_dump()}
    no_lane = json.loads(json.dumps(good))
    no_lane[HERE]["plan"]["lanes"] = 0
    no_plan = json.loads(json.dumps(good))
    del no_plan[HERE]["plan"]
    many = json.loads(json.dumps(good))
    many[HERE]["plan"]["max_batch"] = 10**9
    return ["", "{", "[1]", '{"a": 3}', *(json.dumps(content) for content in (no_lane, no_plan, many))]


@pytest.mark.parametrize("text", damaged())
def test_a_damaged_file_is_ignored_with_a_warning_and_replaced_by_the_next_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, text: str
) -> None:
    model = stored(tmp_path / "a")
    planned = served_plan(model, RunnerOptions())
    (model.path / TUNING).write_text(text)
    assert served_plan(model, RunnerOptions()) == planned
    (warning,) = [record for record in caplog.records if record.levelname == "WARNING"]
    assert TUNING in warning.getMessage() and "`vitrine tune tiny`" in warning.getMessage()
    assert read_tuned(model.path) == {}
    remember(model.path, HERE, TUNED)
    assert tuned_plan(model.path, model.tag, "cpu", 2) == PLAN


def test_the_file_is_no_part_of_the_version_nor_of_what_is_verified(tmp_path: Path) -> None:
    model = stored(tmp_path / "a")
    before = file_digests(model.path)
    assert remember(model.path, HERE, TUNED) == model.path / TUNING
    verify(model)
    assert file_digests(model.path) == before
    assert [path.name for path in model.path.glob(".*")] == []  # nothing left from writing it


@pytest.mark.parametrize("plan", [replace(PLAN, lanes=4096), replace(PLAN, widths=tuple(range(1, 9)))])
def test_a_plan_that_this_machine_cannot_carry_is_ignored(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, plan: Plan
) -> None:
    model = stored(tmp_path / "a")
    planned = served_plan(model, RunnerOptions())
    remember(model.path, HERE, TUNED.model_copy(update={"plan": plan}))
    assert served_plan(model, RunnerOptions()) == planned
    assert "vitrine tune tiny" in caplog.text
