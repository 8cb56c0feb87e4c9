"""Bulk scoring on a real Ray cluster of two nodes: the same rows, whoever is killed."""

import shutil
import signal
import tempfile
from pathlib import Path

import pytest

from loadtests.bulk.cluster import TOKEN, cluster
from tests.bulk.scoring import Pictures, begin, end, parts_in, rows_in, serving_pictures, succeed, table_of
from tests.live.server import environment, wait_until
from tests.tiny import plain

NAMES = [f"{place}.png" for place in range(200)]
DAMAGED = (17, 130)
SAME = {40: 3, 41: 3, 199: 0}
"""The places of pictures that are equal to those of other places."""


def pictures() -> dict[str, bytes]:
    """200 pictures: 1 % damaged, three that are equal to others."""
    data = [plain(place) for place in range(200)]
    for place in DAMAGED:
        data[place] = data[place][:40]
    for place, other in SAME.items():
        data[place] = data[other]
    return dict(zip(NAMES, data, strict=True))


def asked_parts(served: Pictures, first: int) -> set[int]:
    """The parts, from one on, of which pictures were asked for."""
    return {part for part in (int(name.partition(".")[0]) // 10 for name in served.fetched) if part >= first}


@pytest.mark.slow
def test_a_driver_and_then_a_node_killed_half_way_lose_nothing_and_repeat_nothing(
    tiny: str, home: Path, tmp_path: Path
) -> None:
    ray_folder = Path(tempfile.mkdtemp(prefix="vr-", dir="/tmp"))
    try:
        with serving_pictures(pictures()) as served, cluster(environment(home), ray_folder) as nodes:
            table, out = table_of(tmp_path / "table.csv", served, NAMES), tmp_path / "out"
            arguments = (table, "--model", "tiny", "--out", out, "--part-rows", "10", "--address", nodes.address)
            served.hold(NAMES[100:])
            driver = begin(home, *arguments, "--workers", "2", **TOKEN)
            second = nodes.add()  # the second actor waits for it
            with serving_pictures(pictures()) as own:
                own_table = table_of(tmp_path / "own.csv", own, NAMES)
                succeed(own_table, "--model", "tiny", "--part-rows", "10", "--out", tmp_path / "here")
            wait_until(lambda: len(parts_in(out)) >= 6 and len(asked_parts(served, 10)) >= 2, 180)
            driver.send_signal(signal.SIGKILL)
            driver.communicate()
            there = len(parts_in(out))
            assert 6 <= there <= 10
            served.fetched.clear()
            served.hold(NAMES[150:])
            driver = begin(home, *arguments, "--resume", **TOKEN)
            wait_until(lambda: len(asked_parts(served, 15)) >= 2, 180)
            assert there < len(parts_in(out)) < 20
            second.kill()  # while both nodes have a part in hand
            served.release()
            printed = end(driver)
            assert f"{10 * there} rows were there before" in printed, printed
    finally:
        shutil.rmtree(ray_folder, ignore_errors=True)
    rows, here = rows_in(out), rows_in(tmp_path / "here")
    assert [row["input"].rpartition("/")[2] for row in rows] == NAMES
    assert [row | {"input": ""} for row in rows] == [row | {"input": ""} for row in here]
    assert [place for place, row in enumerate(rows) if row["error"]] == list(DAMAGED)
    for place, other in SAME.items():
        assert rows[place] | {"input": ""} == rows[other] | {"input": ""}
