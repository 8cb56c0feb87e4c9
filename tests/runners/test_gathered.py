"""Items that are run on the event loop: together with those of the same turn, and each at its own risk."""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from errors import DeadlineExceeded, InferenceFailed, InvalidInput, Unavailable
from runners.gathered import MOST_AT_ONCE, Gathered
from tests.runners.steps import Steps


def preprocess(payload: int) -> int:
    if payload < 0:
        raise InvalidInput("no number below 0")
    return payload


class Squares:
    """Squares numbers and keeps the batches that it was given; a batch with 13 in it fails."""

    def __init__(self) -> None:
        self.batches = list[list[int]]()

    def __call__(self, batch: Sequence[int]) -> list[int]:
        self.batches.append([*batch])
        if 13 in batch:
            raise ZeroDivisionError
        return [number * number for number in batch]


def gathered(infer: Callable[[Sequence[int]], Sequence[int]], **steps: Any) -> Gathered[int, int, int]:
    return Gathered("gathered", Steps(preprocess, infer, **steps), lambda payload: payload < 1000)


async def settled(asked: Gathered[int, int, int], *payloads: int) -> list[Any]:
    """Ask for all at once, and return each value, or the error in its place."""

    async def ask(payload: int) -> int:
        assert asked.takes(payload)
        return (await asked.submit(payload, time.monotonic() + 60)).value

    return await asyncio.gather(*map(ask, payloads), return_exceptions=True)


def test_the_items_of_one_turn_are_one_batch() -> None:
    infer = Squares()
    asked = gathered(infer)
    assert asyncio.run(settled(asked, 2, 3, 4)) == [4, 9, 16]
    assert infer.batches == [[2, 3, 4]]
    stats = asked.stats()
    assert (stats.succeeded, stats.executions, stats.inferences, stats.mean_batch) == (3, 1, 3, 3.0)
    assert (stats.waiting, stats.running, stats.failed) == (0, 0, {})
    assert stats.waited_seconds == pytest.approx(3 * stats.infer_seconds, abs=1e-5)


def test_more_than_a_run_takes_are_run_in_their_order_and_the_loop_gets_its_turn_between() -> None:
    turns = list[int]()
    infer = Squares()
    asked = gathered(infer)

    async def work() -> list[Any]:
        async def watch() -> None:
            while len(turns) < 100:
                turns.append(len(infer.batches))
                await asyncio.sleep(0)

        watching = asyncio.create_task(watch())
        answers = await settled(asked, *range(14, 14 + 2 * MOST_AT_ONCE + 1))
        await watching
        return answers

    numbers = range(14, 14 + 2 * MOST_AT_ONCE + 1)
    assert asyncio.run(work()) == [number * number for number in numbers]
    assert [number for batch in infer.batches for number in batch] == [*numbers]
    assert [len(batch) for batch in infer.batches] == [MOST_AT_ONCE, MOST_AT_ONCE, 1]
    assert {1, 2} <= set(turns)


def test_only_the_culprit_of_a_batch_that_fails_fails() -> None:
    asked = gathered(Squares())
    *right, failed = asyncio.run(settled(asked, 2, 3, 13))
    assert right == [4, 9] and isinstance(failed, InferenceFailed)
    assert asked.stats().failed == {"InferenceFailed": 1} and asked.stats().succeeded == 2


def test_an_item_that_cannot_be_preprocessed_costs_the_others_nothing() -> None:
    infer = Squares()
    asked = gathered(infer)
    first, wrong, last = asyncio.run(settled(asked, 2, -1, 4))
    assert (first, last) == (4, 16) and isinstance(wrong, InvalidInput)
    assert infer.batches == [[2, 4]] and asked.stats().failed == {"InvalidInput": 1}


def test_a_bug_in_preprocessing_is_no_bug_of_the_loop() -> None:
    asked = Gathered("gathered", Steps(lambda payload: 1 // payload, Squares()), lambda payload: True)
    wrong, right = asyncio.run(settled(asked, 0, 1))
    assert isinstance(wrong, InferenceFailed) and right == 1


def test_a_wrong_number_of_results_fails_the_items_and_is_no_answer_of_another() -> None:
    asked = gathered(lambda batch: [1])
    assert asyncio.run(settled(asked, 2)) == [1]
    assert asyncio.run(settled(asked, 2, 3)) == [1, 1]  # each of which was run alone
    asked = gathered(lambda batch: [])
    assert [type(error) for error in asyncio.run(settled(asked, 2, 3))] == [InferenceFailed] * 2


def test_what_is_late_or_cancelled_is_not_computed() -> None:
    infer = Squares()
    asked = gathered(infer)

    async def work() -> None:
        assert asked.takes(1)
        late, cancelled, right = asked.submit(2, time.monotonic() - 1), asked.submit(3), asked.submit(4)
        cancelled.cancel()
        assert (await right).value == 16
        with pytest.raises(DeadlineExceeded):
            await late

    asyncio.run(work())
    assert infer.batches == [[4]]
    assert asked.stats().failed == {"DeadlineExceeded": 1, "cancelled": 1}


def test_an_item_in_which_nothing_is_right_is_answered_and_counted_as_invalid() -> None:
    asked = gathered(Squares(), count_inferences=lambda prepared: prepared % 2)
    assert asyncio.run(settled(asked, 2, 3)) == [4, 9]
    assert (asked.stats().inferences, asked.stats().succeeded, asked.stats().failed) == (1, 1, {"InvalidInput": 1})


def test_what_is_not_quick_or_comes_from_another_loop_is_left_to_the_runner() -> None:
    asked = gathered(Squares())

    async def takes(payload: int) -> bool:
        return asked.takes(payload)

    async def beside() -> tuple[bool, bool]:
        return asked.takes(1), await asyncio.to_thread(lambda: asyncio.run(takes(1)))

    assert asyncio.run(takes(1)) and not asyncio.run(takes(1000))
    assert asyncio.run(beside()) == (True, False)


def test_a_closed_one_refuses_and_fails_what_waits() -> None:
    infer = Squares()
    asked = gathered(infer)

    async def work() -> None:
        assert asked.takes(1)
        waiting = asked.submit(2)
        asked.close()
        with pytest.raises(Unavailable):
            asked.submit(3)
        with pytest.raises(Unavailable):
            await waiting

    asyncio.run(work())
    assert infer.batches == [] and asked.stats().failed == {"Unavailable": 1}


def test_a_turn_that_fails_outside_its_backend_leaves_nobody_waiting() -> None:
    asked = gathered(Squares(), count_inferences=lambda prepared: 1 // (prepared - 3))
    answers = asyncio.run(asyncio.wait_for(settled(asked, 2, 3), 60))
    assert [type(answer) for answer in answers] == [InferenceFailed, InferenceFailed]
    assert asked.stats().failed == {"InferenceFailed": 2}
