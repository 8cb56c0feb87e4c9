"""The cores of a process: the quota that the kernel enforces, and the share that a lane may use."""

import os
import threading
from contextlib import ExitStack
from pathlib import Path

import pytest

from errors import InferenceFailed
from runners.cores import CoreShare, available_cores, cgroup_quota
from tests.runners.steps import start_runner


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
    assert available_cores(root) == min(2, len(os.sched_getaffinity(0)))


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
    assert available_cores(root) == 1


@pytest.mark.parametrize("quota", ["max 100000\n", "", None])
def test_no_quota_means_every_core_of_the_affinity(tmp_path: Path, quota: str | None) -> None:
    files = {"proc/self/cgroup": "0::/\n"} | ({"sys/fs/cgroup/cpu.max": quota} if quota is not None else {})
    assert cgroup_quota(tree(tmp_path, files)) is None
    assert available_cores(tmp_path) == len(os.sched_getaffinity(0))


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

    runner = start_runner("m", int, run, lanes=2, working=share)
    assert runner.submit(1).result(20).value == 1
    with pytest.raises(InferenceFailed):
        runner.submit(-1).result(20)
    for future in [runner.submit(2), runner.submit(3)]:
        future.result(20)
    assert runner.close(20)
    assert seen == [4, 2, 2]
    assert share.cores() == 4
