"""Who a Runner lets in: by time, whole requests or none, and room for others as soon as somebody leaves."""

import gc
import time
import weakref
from collections.abc import Iterator
from concurrent.futures import CancelledError

import pytest

from errors import DeadlineExceeded, InvalidInput, QueueFull
from runners.admission import Work
from runners.runner import Runner
from tests.runners.steps import start_runner
from tests.runners.test_runner import PATIENCE_S, Gate, admit, value

ITEM_S, LIMIT_S = 100.0, 250.0
"""So long that nothing of what passes while a test runs matters."""


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
def busy(gate: Gate) -> Iterator[Runner[int, int, int]]:
    """A Runner whose only lane is at work, and which has measured what an item takes."""
    runner = start_runner("m", admit, gate.run, queue_ms=LIMIT_S * 1000, queue_size=20)
    runner.measured([0], ITEM_S)
    runner.submit(0)
    assert gate.entered.acquire(timeout=PATIENCE_S)
    yield runner
    gate.open.set()
    assert runner.close(PATIENCE_S)


def test_who_would_wait_too_long_is_refused_at_once(busy: Runner[int, int, int]) -> None:
    accepted = [busy.submit(1), busy.submit(2)]  # which wait for 100 and 200 seconds
    with pytest.raises(QueueFull, match=r"m has (300|299)\.\d seconds of work waiting, and takes 250") as refused:
        busy.submit(3)
    assert refused.value.retry_after_s == 30  # nobody is told to wait longer
    with pytest.raises(QueueFull):
        busy.check_room()
    stats = busy.stats()
    assert stats.failed == {"rejected": 2} and stats.waiting == 2
    assert 290 < stats.expected_seconds <= 300
    assert not any(future.done() for future in accepted)


def test_who_would_be_late_is_refused_at_once(busy: Runner[int, int, int]) -> None:
    with pytest.raises(QueueFull, match="so that this would be late"):
        busy.submit(1, time.monotonic() + 150)  # 100 seconds are ahead, and 100 are its own
    busy.check_room()
    assert not busy.submit(1, time.monotonic() + 250).done()


@pytest.mark.parametrize("way", ["cancelled", "answered"])
def test_a_place_is_free_as_soon_as_somebody_leaves(busy: Runner[int, int, int], gate: Gate, way: str) -> None:
    first, second = busy.submit(1), busy.submit(2)
    with pytest.raises(QueueFull):
        busy.submit(3)
    if way == "cancelled":
        assert first.cancel() and first.cancel()
        with pytest.raises(CancelledError):
            first.result(0)
        assert busy.stats().failed == {"rejected": 1, "cancelled": 1} and busy.stats().waiting == 1
    else:
        gate.open.set()
        assert (value(first), value(second)) == (10, 20)
    third = busy.submit(3)
    gate.open.set()
    assert value(third) == 30
    assert [1] not in gate.batches or way == "answered"


def test_many_who_left_take_no_place_and_are_not_computed(busy: Runner[int, int, int], gate: Gate) -> None:
    for _ in range(300):
        assert busy.submit(1).cancel()
    last = busy.submit(2)
    assert busy.stats().waiting == 1
    gate.open.set()
    assert value(last) == 20 and gate.batches == [[0], [2]]


def test_a_request_is_queued_whole_or_not_at_all(busy: Runner[int, int, int]) -> None:
    busy.submit_all([1, 2, 3, 4, 5])  # only what is ahead of them counts, not they themselves
    with pytest.raises(QueueFull):
        busy.submit_all([6, 7])
    assert busy.stats().waiting == 5 and busy.stats().failed == {"rejected": 2}
    assert busy.submit_all([]) == []


def test_a_request_that_would_not_be_done_by_its_deadline_is_refused_whole(busy: Runner[int, int, int]) -> None:
    with pytest.raises(QueueFull):
        busy.submit_all([1, 2, 3], time.monotonic() + 350)
    assert busy.stats().waiting == 0
    assert len(busy.submit_all([1, 2, 3], time.monotonic() + 450)) == 3


def test_an_idle_runner_takes_every_request() -> None:
    runner = start_runner("m", admit, lambda batch: batch, queue_ms=1, queue_size=2)
    runner.measured([0], ITEM_S)
    futures = runner.submit_all(list(range(50)), time.monotonic() + PATIENCE_S)
    assert [value(future) for future in futures] == list(range(50))
    assert runner.close(PATIENCE_S)


def test_the_queue_takes_so_many_items_however_quick_they_are(gate: Gate) -> None:
    runner = start_runner("m", admit, gate.run, queue_ms=1e6, queue_size=2)
    runner.measured([0], 1e-6)
    accepted = [runner.submit(0)]
    assert gate.entered.acquire(timeout=PATIENCE_S)
    accepted += [runner.submit(1)]
    with pytest.raises(QueueFull, match="1 items waiting, and takes 2"):
        runner.submit_all([2, 3])
    accepted += [runner.submit(2)]
    with pytest.raises(QueueFull, match="2 items waiting, and takes 2") as refused:
        runner.submit(3)
    assert refused.value.retry_after_s == 1
    gate.open.set()
    assert [value(future) for future in accepted] == [0, 10, 20]
    assert runner.close(PATIENCE_S)


def test_a_part_of_what_was_begun_is_queued_however_much_waits(busy: Runner[int, int, int], gate: Gate) -> None:
    ahead = [busy.submit(1), busy.submit(2)]
    part = busy.submit(3, is_admitted=True)
    with pytest.raises(QueueFull):
        busy.submit(4)
    gate.open.set()
    assert [value(future) for future in (*ahead, part)] == [10, 20, 30]


def test_what_was_late_wrong_or_computed_is_no_work_any_more(gate: Gate) -> None:
    runner = start_runner("m", admit, gate.run, max_batch=8)
    blocker = runner.submit(0)
    assert gate.entered.acquire(timeout=PATIENCE_S)
    late, wrong, good = runner.submit(1, time.monotonic()), runner.submit(-1), runner.submit(2)
    gate.open.set()
    assert (value(blocker), value(good)) == (0, 20)
    for future, error in ((late, DeadlineExceeded), (wrong, InvalidInput)):
        with pytest.raises(error):
            future.result(PATIENCE_S)
    assert runner.close(PATIENCE_S)
    assert (runner._backlog._items, runner._backlog._size) == (0, 0)


def test_a_payload_counts_as_much_as_its_pipeline_says(gate: Gate) -> None:
    runner = start_runner("m", admit, gate.run, queue_ms=LIMIT_S * 1000, work=lambda item: Work(1, item))
    for rows in (1, 100, 1, 100):
        runner.measured([rows], 1.0 + rows)
    runner.submit(0)
    assert gate.entered.acquire(timeout=PATIENCE_S)
    runner.submit(200)
    assert 195 < runner.stats().expected_seconds <= 202
    runner.submit(100)
    with pytest.raises(QueueFull):
        runner.submit(0)
    gate.open.set()
    assert runner.close(PATIENCE_S)


def test_what_a_lane_took_is_what_the_next_are_expected_to_take(gate: Gate) -> None:
    runner = start_runner("m", admit, gate.run, queue_ms=LIMIT_S * 1000)
    first = runner.submit(0)
    assert gate.entered.acquire(timeout=PATIENCE_S)
    time.sleep(0.05)
    gate.open.set()
    assert value(first) == 0
    gate.open.clear()
    waiting = [runner.submit(item) for item in range(11)]
    assert gate.entered.acquire(timeout=PATIENCE_S)
    assert runner.stats().expected_seconds >= 10 * 0.05  # beside what is left of the one under way
    gate.open.set()
    assert [value(future) for future in waiting] == [item * 10 for item in range(11)]
    assert runner.close(PATIENCE_S)


class Upload(list[int]):
    """A payload that can be watched."""


def test_nobody_keeps_the_payload_of_an_item_that_is_over(gate: Gate) -> None:
    runner = start_runner("m", len, gate.run)
    uploads = [Upload([1, 2, 3]) for _ in range(2)]
    watched = [weakref.ref(upload) for upload in uploads]
    answered = runner.submit(uploads.pop(0))
    assert gate.entered.acquire(timeout=PATIENCE_S)
    cancelled = runner.submit(uploads.pop(0))
    assert cancelled.cancel()
    gc.disable()
    try:
        assert watched[1]() is None
        gate.open.set()
        assert value(answered) == 30
        until = time.monotonic() + PATIENCE_S
        while watched[0]() is not None and time.monotonic() < until:
            time.sleep(0.001)
        assert watched[0]() is None
    finally:
        gc.enable()
    assert runner.close(PATIENCE_S)


def test_those_refused_before_their_size_is_known_are_told_different_times(gate: Gate) -> None:
    runner = start_runner("m", admit, gate.run, queue_ms=1000, work=lambda size: Work(1, size))
    for size in (10, 1000):
        runner.measured([size], size / 200)  # all of the time is put down to the size
    runner.submit(1000)
    assert gate.entered.acquire(timeout=PATIENCE_S)
    told = list[int]()
    for _ in range(3):
        with pytest.raises(QueueFull) as refused:
            runner.check_room()
        told.append(refused.value.retry_after_s)
    gate.open.set()
    assert runner.close(PATIENCE_S)
    # 5 seconds are ahead, of which one may be, and each is expected to bring as much.
    assert told[0] >= 4 + 5 and told[1] >= told[0] + 5 and told[2] >= told[1] + 5
