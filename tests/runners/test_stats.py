"""The metrics: made once whoever comes first, and seen by Prometheus."""

import json
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import asdict
from types import SimpleNamespace

import pytest
from prometheus_client import REGISTRY, Counter, Histogram

from errors import InferenceFailed
from runners.metrics import Amount, Distribution, write_all
from runners.stats import RunnerStats, Series, StatsKeeper, add_stats, stats_from_json
from tests.conftest import ROOT
from tests.runners.steps import start_runner

RACE = """
import sys, threading
from runners.metrics import metrics
sys.setswitchinterval(1e-6)
start, made = threading.Barrier(8), []
def come():
    start.wait()
    made.append(metrics())
threads = [threading.Thread(target=come) for _ in range(8)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
assert len(made) == 8 and len({id(metrics) for metrics in made}) == 1
"""


def test_lanes_that_come_first_together_share_one_set_of_metrics() -> None:
    done = subprocess.run([sys.executable, "-c", RACE], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def labels(model: str, version: str = "") -> dict[str, str]:
    return {"model": model, "version": version, "runner": "predict"}


def test_prometheus_sees_what_a_runner_did() -> None:
    def run(batch: list[int]) -> Sequence[int]:
        return batch

    runner = start_runner("watched", int, run)
    for item in range(3):
        assert runner.submit(item).result(20).value == item
    assert runner.close(20)
    for name in ("queue_seconds", "decode_seconds", "infer_seconds", "batch_size"):
        assert REGISTRY.get_sample_value(f"vitrine_{name}_count", labels("watched")) == 3
    stats = runner.stats()
    assert (stats.succeeded, stats.executions, stats.mean_batch, stats.waiting, stats.running) == (3, 3, 1.0, 0, 0)


def test_what_explanations_ask_for_is_counted_apart_and_comes_after_the_predictions_of_its_batch() -> None:
    """Numbers below 0 are evaluations, of 100 inferences each; one of them fails, another is cancelled."""
    batches, begun, waits = list[list[int]](), threading.Event(), threading.Event()

    def run(batch: list[int]) -> Sequence[int]:
        batches.append(batch)
        begun.set()
        assert waits.wait(20) and 13 not in map(abs, batch)
        return batch

    def keep(item: int) -> int:
        return item

    def is_evaluation(item: int) -> bool:
        return item < 0

    def count(item: int) -> int:
        return 100 if item < 0 else 1

    runner = start_runner("apart", keep, run, max_batch=8, is_evaluation=is_evaluation, count_inferences=count)
    first = runner.submit(1)
    assert begun.wait(20)
    futures = [runner.submit(item) for item in (-2, 3, -13, 4, -5)]
    futures[-1].cancel()
    waits.set()
    assert first.result(20).value == 1
    assert [future.result(20).value for future in (futures[0], futures[1], futures[3])] == [-2, 3, 4]
    with pytest.raises(InferenceFailed):
        futures[2].result(20)
    assert runner.close(20)
    assert batches == [[1], [3, 4], [-2, -13], [-2], [-13]]
    stats = runner.stats()
    assert (stats.succeeded, stats.failed, stats.executions, stats.inferences) == (3, {}, 2, 3)
    assert (set(stats.batches), stats.mean_batch, stats.evaluations) == ({1, 2}, 1.5, 100)
    assert stats.evaluation_seconds > 0
    values = {
        name: REGISTRY.get_sample_value(f"vitrine_{name}", labels("apart"))
        for name in ("batch_size_count", "infer_seconds_count", "queue_seconds_count")
    }
    values["evaluations"] = REGISTRY.get_sample_value("vitrine_evaluations_total", {"model": "apart", "version": ""})
    assert list(values.values()) == [2, 2, 3, 100]


def test_what_is_written_now_and_then_is_what_would_have_been_observed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    histograms = [Histogram(f"amounts{name}", "Amounts.", ["to"], buckets=(0.1, 1.0), registry=None) for name in "ab"]
    counter = Counter("times", "Times.", ["to"], registry=None)
    monkeypatch.setattr("runners.metrics.metrics", lambda: SimpleNamespace(queue=histograms[1], waited=counter))
    amounts = [0.05, 0.1, 0.5, 2.0, 0.05]
    distribution, amount = Distribution((0.1, 1.0), "queue", "here"), Amount("waited", "here")
    for place, seconds in enumerate(amounts):
        histograms[0].labels("here").observe(seconds)
        distribution.add(seconds)
        if place in (1, 2, 4):
            distribution.write()
            amount.write(distribution.sum)
    one_by_one, together = (next(iter(histogram.collect())).samples for histogram in histograms)
    assert {
        (sample.name[9:], *sample.labels.values()): sample.value for sample in together if "_created" not in sample.name
    } == {
        (sample.name[9:], *sample.labels.values()): sample.value
        for sample in one_by_one
        if "_created" not in sample.name
    }
    assert [sample.value for sample in together if sample.name.endswith("_bucket")] == [3, 4, 5]
    assert distribution.count == 5 and counter.labels("here")._value.get() == pytest.approx(sum(amounts))


def test_a_runner_that_is_closed_has_written_what_it_counted_and_one_at_work_writes_when_asked() -> None:
    runner = start_runner("written", int, lambda batch: batch)
    assert runner.submit(1).result(20).value == 1

    def written() -> float | None:
        return REGISTRY.get_sample_value("vitrine_queue_seconds_count", labels("written"))

    assert not written()
    write_all()
    assert written() == 1
    assert runner.submit(2).result(20).value == 2
    assert runner.close(20) and written() == 2


def test_what_two_processes_did_adds_up_also_after_json() -> None:
    one, other = StatsKeeper(Series("one")), StatsKeeper(Series("other"))
    evaluations = StatsKeeper(Series("other"), of_evaluations=True)
    evaluations.executed(300, 1.5)
    evaluations.answered(9.0, 0.25, 1.5)
    one.executed(2, 0.5)
    one.executed(4, 1.0)
    one.answered(0.1, 0.2, 0.3)
    one.count("rejected")
    other.executed(4, 2.0)
    other.count("rejected")
    other.count("InvalidImage")
    told = stats_from_json(json.loads(json.dumps(asdict(other.snapshot(1, 2, 0.5, evaluations)))))
    total = add_stats([one.snapshot(waiting=3, running=0, expected_s=0.25, item_s=0.002), told])
    assert total == RunnerStats(
        succeeded=1,
        failed={"rejected": 2, "InvalidImage": 1},
        executions=3,
        inferences=10,
        mean_batch=10 / 3,
        queue_seconds=0.1,
        decode_seconds=0.2,
        infer_seconds=3.5,
        waited_seconds=0.3,
        batches={2: (1, 0.5), 4: (2, 3.0)},
        last_inference=told.last_inference,
        waiting=4,
        running=2,
        evaluations=300,
        evaluation_seconds=1.75,
        expected_seconds=0.5,
        item_seconds=0.002,
    )
