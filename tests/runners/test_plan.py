"""The CPU plan reads the quota that the kernel enforces."""

import os
import threading
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from errors import InferenceFailed
from models.card import read_card
from runners.plan import CoreShare, cgroup_quota, cores, plan
from runners.runner import Runner
from serving.loaded_model import RunnerOptions
from tests.conftest import ROOT, SHIPPED


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_version_2_takes_the_tightest_quota_on_the_way_up(tmp_path: Path) -> None:
    root = tree(
        tmp_path,
        {
            "proc/self/cgroup": "0::/pod/app\n",
            "sys/fs/cgroup/pod/app/cpu.max": "max 100000\n",
            "sys/fs/cgroup/pod/cpu.max": "150000 100000\n",
            "sys/fs/cgroup/cpu.max": "400000 100000\n",
        },
    )
    assert cgroup_quota(root) == pytest.approx(1.5)
    assert cores(root) == min(2, len(os.sched_getaffinity(0)))


def test_version_1_reads_quota_over_period(tmp_path: Path) -> None:
    root = tree(
        tmp_path,
        {
            "proc/self/cgroup": "4:memory:/x\n3:cpu,cpuacct:/x\n",
            "sys/fs/cgroup/cpu/x/cpu.cfs_quota_us": "50000\n",
            "sys/fs/cgroup/cpu/x/cpu.cfs_period_us": "100000\n",
        },
    )
    assert cgroup_quota(root) == pytest.approx(0.5)
    assert cores(root) == 1


@pytest.mark.parametrize("quota", ["max 100000\n", "", None])
def test_no_quota_means_every_core_of_the_affinity(tmp_path: Path, quota: str | None) -> None:
    files = {"proc/self/cgroup": "0::/\n"} | ({"sys/fs/cgroup/cpu.max": quota} if quota is not None else {})
    assert cgroup_quota(tree(tmp_path, files)) is None
    assert cores(tmp_path) == len(os.sched_getaffinity(0))


def test_an_image_model_gets_a_lane_a_core_and_batches_of_one_unless_told_otherwise() -> None:
    card = read_card(SHIPPED / "card.toml")
    assert (plan(card, 4).lanes, plan(card, 4).widths, plan(card, 4).max_batch) == (4, (4, 1), 1)
    assert plan(card, 1).widths == (1,)
    tiny = plan(card, 4, item_s=0.0005)
    assert (tiny.lanes, tiny.widths) == (1, (1,)) and tiny.max_batch > 1
    assert RunnerOptions(max_batch=8).over(plan(card, 2)) == replace(plan(card, 2), max_batch=8)


def test_rows_share_one_lane_and_an_accelerator_gets_large_batches_and_a_decoding_pool() -> None:
    rows, pictures = (read_card(ROOT / "models" / name / "card.toml") for name in ("churn", "kidney_stone"))
    assert plan(rows, 8).lanes == 1 and plan(rows, 8).max_batch > 1 and plan(rows, 8).decoders == 0
    assert (plan(pictures, 8, "cuda:0").lanes, plan(pictures, 8, "cuda:0").decoders) == (2, 8)
    assert RunnerOptions(max_batch=64).over(plan(pictures, 8, "cuda:0")).max_batch == 64


@pytest.mark.parametrize(("at_work", "cores_each"), [(0, 4), (1, 4), (2, 2), (3, 1), (4, 1), (9, 1)])
def test_a_lane_alone_has_every_core_and_a_crowd_one_each(at_work: int, cores_each: int) -> None:
    share = CoreShare(4)
    with ExitStack() as lanes:
        for _ in range(at_work):
            lanes.enter_context(share)
        assert share.cores() == cores_each
    assert share.cores() == 4


def test_lanes_at_work_are_counted_whatever_becomes_of_their_items() -> None:
    share, seen, both = CoreShare(4), list[int](), threading.Barrier(2, timeout=20)

    def run(items: list[int]) -> list[int]:
        if items[0] < 0:
            raise ValueError("broken")
        if items[0] > 1:
            both.wait()
        seen.append(share.cores())
        if items[0] > 1:
            both.wait()
        return items

    runner = Runner("m", int, run, lanes=2, at_work=share)
    assert runner.submit(1).result(20).value == 1
    with pytest.raises(InferenceFailed):
        runner.submit(-1).result(20)
    for each in [runner.submit(2), runner.submit(3)]:
        each.result(20)
    assert runner.close(20)
    assert seen == [4, 2, 2]
    assert share.cores() == 4


@pytest.mark.parametrize(("workers", "places"), [(1, 256), (2, 128), (8, 64), (16, 64)])
def test_a_workers_share_of_the_queue_still_takes_the_largest_request(workers: int, places: int) -> None:
    card = read_card(SHIPPED / "card.toml")
    assert card.limits.max_items == 64
    assert RunnerOptions(workers=workers).queue_of(card) == places
    assert RunnerOptions(queue_size=4, workers=workers).queue_of(card) == 4
