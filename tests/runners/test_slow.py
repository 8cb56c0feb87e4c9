"""An item that is slow to preprocess keeps no lane from the others, and is answered all the same."""

import threading
import time
import weakref
from concurrent.futures import Future

import pytest

from errors import DeadlineExceeded, InvalidImage, QueueFull
from runners.runner import Answer
from tests.live.server import wait_until
from tests.runners.steps import start_runner

PATIENCE_S = 30.0


def test_a_slow_item_holds_no_lane() -> None:
    released = threading.Event()

    def prepare_slow(item: int) -> int:
        assert released.wait(PATIENCE_S)
        return item * 10

    runner = start_runner(
        "slow", lambda item: item, list, lanes=1, is_slow=lambda item: item < 0, preprocess_slow=prepare_slow
    )
    slow = runner.submit(-1)
    quick = [runner.submit(item).result(PATIENCE_S).value for item in range(5)]
    assert quick == [0, 1, 2, 3, 4] and not slow.done()
    released.set()
    assert slow.result(PATIENCE_S).value == -10
    assert runner.close(PATIENCE_S)


def test_what_is_wrong_with_a_slow_item_is_its_own_answer() -> None:
    def refuse(item: int) -> int:
        raise InvalidImage("too slow")

    runner = start_runner("slow", lambda item: item, list, lanes=1, is_slow=lambda item: True, preprocess_slow=refuse)
    with pytest.raises(InvalidImage, match="too slow"):
        runner.submit(1).result(PATIENCE_S)
    assert runner.close(PATIENCE_S)


def test_a_batch_of_slow_items_waits_as_a_whole() -> None:
    released = threading.Event()

    def prepare_slow(item: int) -> int:
        assert released.wait(PATIENCE_S)
        return item

    runner = start_runner(
        "slow", lambda item: item, list, lanes=1, is_slow=lambda item: item < 0, preprocess_slow=prepare_slow
    )
    batch = [runner.submit(-item) for item in range(1, 41)]
    assert runner.submit(7).result(PATIENCE_S).value == 7  # the lane is past all of them
    released.set()
    assert [-future.result(PATIENCE_S).value for future in batch] == list(range(1, 41))
    assert runner.close(PATIENCE_S)


def test_as_many_slow_items_wait_as_the_queue_takes_and_the_others_are_not_refused() -> None:
    released, begun = threading.Event(), threading.Event()

    def prepare_slow(item: int) -> int:
        begun.set()
        assert released.wait(PATIENCE_S)
        return item

    runner = start_runner(
        "slow",
        lambda item: item,
        list,
        lanes=1,
        is_slow=lambda item: item < 0,
        preprocess_slow=prepare_slow,
        queue_size=3,
    )
    taken = list[Future[Answer[int]]]()
    for _ in range(3):
        taken.append(runner.submit(-1))
        assert runner.submit(7).result(PATIENCE_S).value == 7  # the lane is past the slow one
    assert begun.wait(PATIENCE_S)
    with pytest.raises(QueueFull, match="3 items waiting that are slow"):
        runner.submit(-1).result(PATIENCE_S)
    assert runner.submit(7).result(PATIENCE_S).value == 7
    released.set()
    assert [future.result(PATIENCE_S).value for future in taken] == [-1] * 3
    assert runner.close(PATIENCE_S)


def test_closing_waits_for_slow_items() -> None:
    released, begun = threading.Event(), threading.Event()

    def prepare_slow(item: int) -> int:
        begun.set()
        assert released.wait(PATIENCE_S)
        return item

    runner = start_runner(
        "slow", lambda item: item, list, lanes=1, is_slow=lambda _: True, preprocess_slow=prepare_slow
    )
    future = runner.submit(1)
    assert begun.wait(PATIENCE_S)
    closing = threading.Thread(target=runner.close, args=(PATIENCE_S,))
    closing.start()
    released.set()
    assert future.result(PATIENCE_S).value == 1
    closing.join()


def test_a_slow_item_that_is_late_before_its_turn_is_not_prepared() -> None:
    released, begun, prepared = threading.Event(), threading.Event(), list[int]()

    def prepare_slow(item: int) -> int:
        prepared.append(item)
        begun.set()
        assert released.wait(PATIENCE_S)
        return item

    runner = start_runner(
        "slow", lambda item: item, list, lanes=1, is_slow=lambda _: True, preprocess_slow=prepare_slow
    )
    first = runner.submit(1)
    assert begun.wait(PATIENCE_S)
    late = runner.submit(2, time.monotonic() + 0.01)
    time.sleep(0.02)
    released.set()
    assert first.result(PATIENCE_S).value == 1
    with pytest.raises(DeadlineExceeded):
        late.result(PATIENCE_S)
    assert prepared == [1]
    assert runner.close(PATIENCE_S)


def test_a_cancelled_slow_item_does_not_keep_the_next_one_from_its_turn() -> None:
    released, begun = threading.Event(), threading.Event()

    def prepare_slow(item: int) -> int:
        begun.set()
        assert released.wait(PATIENCE_S)
        return item

    runner = start_runner(
        "slow", lambda item: item, list, lanes=1, is_slow=lambda _: True, preprocess_slow=prepare_slow
    )
    first, second = runner.submit(1), runner.submit(2)
    assert begun.wait(PATIENCE_S) and first.cancel()
    released.set()
    assert second.result(PATIENCE_S).value == 2
    assert runner.close(PATIENCE_S)


def test_nobody_keeps_the_payload_of_a_slow_item_that_is_over() -> None:
    class Upload(list[int]):
        """A list that can be watched."""

    runner = start_runner("slow", len, list, lanes=1, is_slow=lambda _: True, preprocess_slow=len)
    watched = list[weakref.ref[Upload]]()

    def submit(numbers: list[int]) -> "Future[Answer[int]]":
        upload = Upload(numbers)
        watched.append(weakref.ref(upload))
        return runner.submit(upload)

    future = submit([1, 2, 3])
    assert future.result(PATIENCE_S).value == 3
    wait_until(lambda: watched[0]() is None)
    assert future.done()
    assert runner.close(PATIENCE_S)
