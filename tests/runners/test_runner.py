"""The Runner: nothing lost, nobody's neighbour harmed, no waiting without need. Gates, not sleeps."""

import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor, wait

import pytest

from errors import DeadlineExceeded, InferenceFailed, InvalidInput, QueueFull, Unavailable
from runners.runner import Answer, Runner
from tests.runners.steps import start_runner

PATIENCE_S = 20.0


class Gate:
    """A backend that waits until it is let go, and remembers its batches."""

    def __init__(self) -> None:
        self.open, self.entered, self.batches = threading.Event(), threading.Semaphore(0), list[list[int]]()

    def run(self, batch: list[int]) -> Sequence[int]:
        self.batches.append(list(batch))
        self.entered.release()
        assert self.open.wait(PATIENCE_S)
        return [item * 10 for item in batch]


def tenfold(batch: list[int]) -> list[int]:
    return [item * 10 for item in batch]


def admit(item: int) -> int:
    if item < 0:
        raise InvalidInput(f"{item} is negative")
    return item


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
def runners() -> Iterator[list[Runner[int, int, int]]]:
    made: list[Runner[int, int, int]] = []
    yield made
    for runner in made:
        runner.close(PATIENCE_S)


def value(future: "Future[Answer[int]]") -> int:
    return future.result(PATIENCE_S).value


def test_each_of_many_callers_gets_its_own_answer(runners: list[Runner[int, int, int]]) -> None:
    runner = start_runner(
        "m", admit, lambda batch: [item * 10 for item in batch], lanes=3, max_batch=4, queue_size=1000
    )
    runners.append(runner)
    with ThreadPoolExecutor(64) as pool:
        answers = list(pool.map(lambda item: value(runner.submit(item)), range(640)))
    assert answers == [item * 10 for item in range(640)]
    assert runner.stats().succeeded == 640


def test_batches_grow_while_the_lane_is_busy_and_never_beyond_the_most(
    gate: Gate, runners: list[Runner[int, int, int]]
) -> None:
    runner = start_runner("m", admit, gate.run, max_batch=4)
    runners.append(runner)
    first = runner.submit(0)
    assert gate.entered.acquire(timeout=PATIENCE_S)  # an idle lane took it at once, alone
    rest = [runner.submit(item) for item in range(1, 7)]
    gate.open.set()
    assert [value(future) for future in (first, *rest)] == [0, 10, 20, 30, 40, 50, 60]
    assert gate.batches == [[0], [1, 2, 3, 4], [5, 6]]
    assert runner.stats().mean_batch == pytest.approx(7 / 3)


def test_idle_lanes_share_what_is_waiting(gate: Gate, runners: list[Runner[int, int, int]]) -> None:
    runner = start_runner("m", admit, gate.run, lanes=2, max_batch=8)
    runners.append(runner)
    blockers = [runner.submit(item) for item in (100, 101)]
    assert gate.entered.acquire(timeout=PATIENCE_S) and gate.entered.acquire(timeout=PATIENCE_S)
    assert sorted(gate.batches) == [[100], [101]]
    gate.open.set()
    wait(blockers)


def test_a_lane_told_to_linger_fills_its_batch(runners: list[Runner[int, int, int]]) -> None:
    batches: list[int] = []

    def run(batch: list[int]) -> Sequence[int]:
        batches.append(len(batch))
        return batch

    runner = start_runner("m", admit, run, max_batch=3, linger_ms=PATIENCE_S * 1000)
    runners.append(runner)
    assert [value(future) for future in [runner.submit(item) for item in range(3)]] == [0, 1, 2]
    assert batches == [3]


def test_an_invalid_item_fails_alone_before_the_batch(gate: Gate, runners: list[Runner[int, int, int]]) -> None:
    runner = start_runner("m", admit, gate.run, max_batch=8)
    runners.append(runner)
    blocker = runner.submit(0)
    assert gate.entered.acquire(timeout=PATIENCE_S)
    good, bad, other = runner.submit(1), runner.submit(-5), runner.submit(2)
    gate.open.set()
    assert (value(blocker), value(good), value(other)) == (0, 10, 20)
    with pytest.raises(InvalidInput, match="-5 is negative"):
        bad.result(PATIENCE_S)
    assert gate.batches[1] == [1, 2]


@pytest.mark.parametrize("way", ["raises", "loses one"])
def test_a_failing_batch_is_run_again_one_by_one(
    way: str, runners: list[Runner[int, int, int]], caplog: pytest.LogCaptureFixture
) -> None:
    entered, go = threading.Event(), threading.Event()

    def run(batch: list[int]) -> Sequence[int]:
        if batch == [0]:
            entered.set()
            assert go.wait(PATIENCE_S)
        if 13 in batch:
            if way == "raises":
                raise ValueError("unlucky")
            return batch[1:]
        return batch

    runner = start_runner("m", admit, run, max_batch=8)
    runners.append(runner)
    runner.submit(0)
    assert entered.wait(PATIENCE_S)
    items = {item: runner.submit(item) for item in (11, 12, 13, 14)}
    go.set()
    assert [value(items[item]) for item in (11, 12, 14)] == [11, 12, 14]
    with pytest.raises(InferenceFailed):
        items[13].result(PATIENCE_S)
    assert runner.stats().failed == {"InferenceFailed": 1}
    assert "a batch of 4 failed" in caplog.text


def test_what_is_cancelled_or_late_before_its_turn_is_not_computed(
    gate: Gate, runners: list[Runner[int, int, int]]
) -> None:
    runner = start_runner("m", admit, gate.run, max_batch=8)
    runners.append(runner)
    blocker = runner.submit(0)
    assert gate.entered.acquire(timeout=PATIENCE_S)
    cancelled, late, good = runner.submit(1), runner.submit(2, deadline=time.monotonic()), runner.submit(3)
    assert cancelled.cancel()
    gate.open.set()
    assert (value(blocker), value(good)) == (0, 30)
    with pytest.raises(CancelledError):
        cancelled.result(PATIENCE_S)
    with pytest.raises(DeadlineExceeded):
        late.result(PATIENCE_S)
    assert gate.batches == [[0], [3]]
    assert runner.stats().failed == {"cancelled": 1, "DeadlineExceeded": 1}


def test_a_full_queue_refuses_and_says_when_to_come_back(gate: Gate, runners: list[Runner[int, int, int]]) -> None:
    runner = start_runner("m", admit, gate.run, queue_size=2)
    runners.append(runner)
    accepted = [runner.submit(0)]
    assert gate.entered.acquire(timeout=PATIENCE_S)
    accepted += [runner.submit(1), runner.submit(2)]
    with pytest.raises(QueueFull, match="2 items waiting, and takes 2") as refused:
        runner.submit(3)
    assert refused.value.retry_after_s >= 1
    gate.open.set()
    assert [value(future) for future in accepted] == [0, 10, 20]


def test_close_finishes_what_waits_and_leaves_no_thread(gate: Gate) -> None:
    runner = start_runner("closing", admit, gate.run, lanes=2, max_batch=2)
    items = [runner.submit(item) for item in range(9)]
    gate.open.set()
    assert runner.close(PATIENCE_S)
    assert [value(future) for future in items] == [item * 10 for item in range(9)]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("lane-closing")]
    with pytest.raises(Unavailable, match="shutting down"):
        runner.submit(1)


def test_close_gives_up_on_a_stuck_lane_and_tells_those_who_wait(gate: Gate) -> None:
    runner = start_runner("stuck", admit, gate.run)
    running, waiting = runner.submit(0), runner.submit(1)
    assert gate.entered.acquire(timeout=PATIENCE_S)
    assert not runner.close(0.05)
    for future in (running, waiting):
        with pytest.raises(Unavailable, match="shut down"):
            future.result(0)
    gate.open.set()
    assert runner.close(PATIENCE_S)


def test_an_admit_that_breaks_fails_its_item_and_the_lane_lives_on(runners: list[Runner[int, int, int]]) -> None:
    runner: Runner[int, int, int] = start_runner("m", lambda item: 10 // item, lambda batch: batch)
    runners.append(runner)
    with pytest.raises(InferenceFailed):
        runner.submit(0).result(PATIENCE_S)
    assert value(runner.submit(5)) == 2


def test_the_times_of_an_answer_add_up_to_no_more_than_it_took(runners: list[Runner[int, int, int]]) -> None:
    runner = start_runner("m", admit, lambda batch: batch)
    runners.append(runner)
    started = time.monotonic()
    answer = runner.submit(1).result(PATIENCE_S)
    elapsed_ms = (time.monotonic() - started) * 1e3
    assert 0 <= answer.queue_ms + answer.decode_ms + answer.infer_ms <= elapsed_ms
    assert answer.batch_size == 1


def test_decoders_admit_the_items_of_a_batch_side_by_side_and_in_order() -> None:
    together = threading.Barrier(4)

    def slowly(item: int) -> int:
        if item < 0:
            raise InvalidInput(f"{item} is negative")
        together.wait(PATIENCE_S)  # passes only when four are in here at once
        return item

    seen = list[list[int]]()

    def run(batch: list[int]) -> list[int]:
        seen.append(list(batch))
        return [item * 10 for item in batch]

    runner = start_runner("pooled", slowly, run, lanes=1, max_batch=8, linger_ms=500, decoders=4)
    futures = [runner.submit(item) for item in (3, 1, -1, 4, 2)]
    assert [value(future) for future in futures if future is not futures[2]] == [30, 10, 40, 20]
    with pytest.raises(InvalidInput, match="-1 is negative"):
        futures[2].result(PATIENCE_S)
    assert seen == [[3, 1, 4, 2]]
    assert runner.close(PATIENCE_S)
    assert not [thread for thread in threading.enumerate() if "pooled" in thread.name]


def test_only_a_batch_with_something_heavy_is_worth_more_threads() -> None:
    admitted_by = dict[int, str]()

    def admit(item: int) -> int:
        admitted_by[item] = threading.current_thread().name
        return item

    runner = start_runner(
        "mixed", admit, lambda batch: batch, max_batch=4, linger_ms=200, decoders=2, is_heavy=lambda item: item > 9
    )
    for items in ((1, 2), (3, 10)):
        for future in [runner.submit(item) for item in items]:
            future.result(PATIENCE_S)
    assert runner.close(PATIENCE_S)
    assert admitted_by[1].startswith("lane-") and admitted_by[2].startswith("lane-")
    assert admitted_by[3].startswith("decode-") and admitted_by[10].startswith("decode-")
