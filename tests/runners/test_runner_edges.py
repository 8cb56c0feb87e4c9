"""The Runner where two things happen at once: cancel and admit, close and compute, linger and lanes."""

import logging
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future

import pytest

from errors import DeadlineExceeded, InferenceFailed, Unavailable
from runners.runner import Answer, Runner
from tests.runners.steps import start_runner

PATIENCE_S = 20.0


class Held:
    """A step that lets go only when told to, and says when somebody is in it."""

    def __init__(self, only: int | None = None) -> None:
        self.only, self.entered, self.go = only, threading.Event(), threading.Event()

    def __call__(self, item: int) -> int:
        if self.only in (None, item):
            self.entered.set()
            assert self.go.wait(PATIENCE_S)
        return item


def same(batch: list[int]) -> Sequence[int]:
    return batch


def batches_of(runs: list[list[int]], held: Held | None = None) -> Callable[[list[int]], Sequence[int]]:
    def run(batch: list[int]) -> Sequence[int]:
        runs.append(sorted(batch))
        if held:
            held(batch[0])
        return batch

    return run


def value(future: "Future[Answer[int]]") -> int:
    return future.result(PATIENCE_S).value


def test_an_item_cancelled_while_it_is_decoded_is_not_computed() -> None:
    runs, decode = list[list[int]](), Held()
    runner = start_runner("m", decode, batches_of(runs))
    item = runner.submit(1)
    assert decode.entered.wait(PATIENCE_S)
    assert item.cancel()
    decode.go.set()
    assert runner.close(PATIENCE_S) and runs == []
    with pytest.raises(CancelledError):
        item.result(0)
    assert runner.stats().failed == {"cancelled": 1}


def test_an_item_whose_deadline_passes_while_it_is_decoded_is_not_computed() -> None:
    runs, deadline = list[list[int]](), time.monotonic() + 0.05

    def slow(item: int) -> int:
        while time.monotonic() <= deadline:
            pass
        return item

    runner = start_runner("m", slow, batches_of(runs))
    with pytest.raises(DeadlineExceeded):
        runner.submit(1, deadline).result(PATIENCE_S)
    assert runner.close(PATIENCE_S) and runs == []


def test_what_is_over_when_its_turn_comes_is_not_even_decoded() -> None:
    decoded, compute = list[int](), Held(0)

    def decode(item: int) -> int:
        decoded.append(item)
        return item

    runner = start_runner("m", decode, batches_of([], compute), max_batch=4)
    items = [runner.submit(0)]
    assert compute.entered.wait(PATIENCE_S)
    items += [runner.submit(1), runner.submit(2, time.monotonic()), runner.submit(3)]
    assert items[1].cancel()
    compute.go.set()
    assert runner.close(PATIENCE_S) and decoded == [0, 3] and value(items[3]) == 3


def test_what_is_computed_can_no_longer_be_cancelled() -> None:
    compute = Held()
    runner = start_runner("m", int, batches_of([], compute))
    item = runner.submit(1)
    assert compute.entered.wait(PATIENCE_S)
    assert not item.cancel()
    compute.go.set()
    assert value(item) == 1 and runner.close(PATIENCE_S)


def test_cancelled_items_give_their_places_in_the_queue_to_others() -> None:
    compute = Held(0)
    runner = start_runner("m", int, batches_of([], compute), queue_size=2)
    running = runner.submit(0)
    assert compute.entered.wait(PATIENCE_S)
    for future in [runner.submit(1), runner.submit(2)]:
        assert future.cancel()
    kept = [runner.submit(3), runner.submit(4)]
    compute.go.set()
    assert [value(future) for future in (running, *kept)] == [0, 3, 4]
    assert runner.close(PATIENCE_S) and runner.stats().failed == {"cancelled": 2}


def test_idle_lanes_each_take_a_fair_share_of_a_burst() -> None:
    runs, both_run = list[list[int]](), threading.Barrier(2)

    def run(batch: list[int]) -> Sequence[int]:
        runs.append(batch)
        both_run.wait(PATIENCE_S)
        return batch

    runner = start_runner("m", int, run, lanes=2, max_batch=8)
    with runner._changed:  # no lane wakes before the burst is complete
        items = [runner.submit(item) for item in range(6)]
    assert [value(future) for future in items] == list(range(6))
    assert runner.close(PATIENCE_S) and sorted(runs) == [[0, 1, 2], [3, 4, 5]]


def test_lanes_told_to_linger_do_not_split_a_full_batch_between_them() -> None:
    runs = list[list[int]]()
    runner = start_runner("m", int, batches_of(runs), lanes=3, max_batch=4, linger_ms=PATIENCE_S * 1000)
    assert [value(future) for future in [runner.submit(item) for item in range(4)]] == [0, 1, 2, 3]
    assert runs == [[0, 1, 2, 3]]
    waiting = runner.submit(9)
    assert runner.close(PATIENCE_S) and value(waiting) == 9  # closing ends the lingering


def test_a_lane_that_comes_back_after_close_gave_up_on_it_ends_in_silence(caplog: pytest.LogCaptureFixture) -> None:
    runs, decode, first = list[list[int]](), Held(1), Held(0)

    def run(batch: list[int]) -> Sequence[int]:
        runs.append(batch)
        return [first(item) for item in batch]

    runner = start_runner("m", decode, run, max_batch=4)
    items = [runner.submit(0)]
    assert first.entered.wait(PATIENCE_S)
    items += [runner.submit(1), runner.submit(2)]
    first.go.set()
    assert decode.entered.wait(PATIENCE_S)  # items 1 and 2 are one lane's, 2 not yet looked at
    assert not runner.close(0.05)
    for future in items[1:]:
        with pytest.raises(Unavailable):
            future.result(0)
    decode.go.set()
    assert runner.close(PATIENCE_S) and runs == [[0]]
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, MemoryError])
def test_no_exception_of_a_backend_ends_a_lane_or_leaves_a_future_pending(error: type[BaseException]) -> None:
    def run(batch: list[int]) -> Sequence[int]:
        if 0 in batch:
            raise error
        return batch

    runner = start_runner("m", int, run, max_batch=4)
    for _ in range(3):
        with pytest.raises(InferenceFailed):
            runner.submit(0).result(PATIENCE_S)
    assert value(runner.submit(5)) == 5
    assert runner.close(PATIENCE_S)


def test_an_idle_lane_holds_on_to_nothing() -> None:
    class Payload:
        pass

    runner: Runner[Payload, int, int] = start_runner("m", lambda payload: 1, same)
    payload, dropped = Payload(), threading.Event()
    weakref.finalize(payload, dropped.set)
    assert runner.submit(payload).result(PATIENCE_S).value == 1
    del payload
    assert dropped.wait(PATIENCE_S)  # while the lane waits for its next item
    assert runner.close(PATIENCE_S)


def test_close_and_cancel_at_the_same_time_leave_nothing_pending() -> None:
    for _ in range(50):
        compute = Held(0)
        runner = start_runner("m", int, batches_of([], compute), max_batch=2, queue_size=500)
        items = [runner.submit(item) for item in range(200)]
        canceller = threading.Thread(target=lambda: [future.cancel() for future in items])
        releaser = threading.Thread(target=compute.go.set)
        canceller.start()
        releaser.start()
        runner.close(0.0)
        canceller.join()
        releaser.join()
        assert runner.close(PATIENCE_S)
        assert all(future.done() for future in items)
