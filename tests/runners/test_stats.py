"""The metrics: made once whoever comes first, and seen by Prometheus."""

import subprocess
import sys
from collections.abc import Sequence

from prometheus_client import REGISTRY

from runners.runner import Runner
from tests.conftest import ROOT

RACE = """
import sys, threading
from runners.stats import metrics
sys.setswitchinterval(1e-6)
start, made = threading.Barrier(8), []
def come():
    start.wait()
    made.append(metrics())
threads = [threading.Thread(target=come) for _ in range(8)]
[each.start() for each in threads]
[each.join() for each in threads]
assert len(made) == 8 and len({id(each) for each in made}) == 1
"""


def test_lanes_that_come_first_together_share_one_set_of_metrics() -> None:
    done = subprocess.run([sys.executable, "-c", RACE], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_prometheus_sees_what_a_runner_did() -> None:
    def run(batch: list[int]) -> Sequence[int]:
        return batch

    runner = Runner("watched", int, run)
    for item in range(3):
        assert runner.submit(item).result(20).value == item
    assert runner.close(20)
    for name in ("queue_seconds", "decode_seconds", "infer_seconds", "batch_size"):
        assert REGISTRY.get_sample_value(f"vitrine_{name}_count", {"model": "watched"}) == 3
    stats = runner.stats()
    assert (stats.succeeded, stats.executions, stats.mean_batch, stats.waiting, stats.running) == (3, 3, 1.0, 0, 0)
