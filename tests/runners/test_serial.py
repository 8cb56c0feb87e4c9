"""The thread of long Python work: one piece at a time, in which order, how long it rests, and whom it refuses."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from errors import QueueFull
from runners.serial import LONGEST_REST_S, SHARE, SerialExecutor, SerialJob

PATIENCE_S = 30.0


class Clock:
    """A clock that only sleeping and pieces of work move."""

    def __init__(self) -> None:
        self.now, self.slept = 100.0, list[float]()

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds

    def piece(self, seconds: float, result: Any = None) -> Callable[[], Any]:
        def work() -> Any:
            self.now += seconds
            return result

        return work


@pytest.fixture
def clock() -> Clock:
    return Clock()


def executor(clock: Clock, limit_s: float = 2.0, cores: int = 1, *, others_work: bool = False) -> SerialExecutor:
    return SerialExecutor(limit_s, cores, lambda: others_work, clock, clock.sleep)


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    event = threading.Event()
    yield event
    event.set()


async def queued(job: SerialJob, piece: Callable[[], Any]) -> "asyncio.Task[Any]":
    """Return the task of a piece once it waits for the thread."""
    task = asyncio.create_task(job.run(piece))
    await asyncio.sleep(0)
    return task


def test_what_has_begun_is_finished_before_others_begin_and_never_two_run_at_once(
    clock: Clock, gate: threading.Event
) -> None:
    order, at_work, most_at_work, entered = list[str](), 0, 0, threading.Event()

    def piece(name: str) -> Callable[[], None]:
        def work() -> None:
            nonlocal at_work, most_at_work
            at_work += 1
            most_at_work = max(most_at_work, at_work)
            if name == "first":
                entered.set()
                assert gate.wait(PATIENCE_S)
            clock.now += 0.001
            order.append(name)
            at_work -= 1

        return work

    async def main() -> None:
        serial = executor(clock)
        begun = serial.job(1)
        await begun.run(piece("read 0"))
        running = await queued(serial.job(1), piece("first"))
        assert entered.wait(PATIENCE_S)
        others = [await queued(serial.job(1), piece(f"read {number}")) for number in (1, 2)]
        last = await queued(begun, piece("write 0"))
        gate.set()
        await asyncio.gather(running, *others, last)
        serial.close()

    asyncio.run(main())
    assert order == ["read 0", "first", "write 0", "read 1", "read 2"] and most_at_work == 1


@pytest.mark.parametrize("cores", [1, 2, 4, 5, 16])
def test_while_others_work_it_takes_no_more_than_its_share_of_the_cores(clock: Clock, cores: int) -> None:
    serial, began = executor(clock, cores=cores, others_work=True), clock.now

    async def main() -> None:
        for _ in range(100):
            with serial.job(1000) as job:
                await job.run(clock.piece(0.002))
                await job.run(clock.piece(0.004))

    asyncio.run(main())
    serial.close()
    share = 0.6 / (cores * (clock.now - began))
    assert share == pytest.approx(min(SHARE, 1 / cores), rel=0.02)


def test_alone_it_does_not_rest_and_a_rest_ends_with_the_work_of_the_others(clock: Clock) -> None:
    busy_until = 100.05
    serial = SerialExecutor(2.0, 1, lambda: clock.now < busy_until, clock, clock.sleep)

    async def main() -> None:
        nonlocal busy_until
        job = serial.job(1)
        await job.run(clock.piece(0.04))  # after which it would rest for 0.16 s
        await job.run(clock.piece(0.04))
        assert sum(clock.slept) == pytest.approx(0.01)  # they were done after 0.05 s
        clock.slept = []
        await job.run(clock.piece(0.04))
        assert not clock.slept
        busy_until = 1000.0
        await job.run(clock.piece(60.0))
        await job.run(clock.piece(0.0))
        assert sum(clock.slept) == pytest.approx(0.16 + LONGEST_REST_S)  # after 0.04 s, and after a minute

    asyncio.run(main())
    serial.close()


def test_who_would_wait_too_long_is_refused_by_what_was_measured_rests_included(
    clock: Clock, gate: threading.Event
) -> None:
    async def main() -> None:
        serial = executor(clock, limit_s=2.0, others_work=True)
        for _ in range(100):  # 0.1 s of work and 0.4 s of rest for 1,000 bytes
            with serial.job(1000) as job:
                await job.run(clock.piece(0.1))
        jobs = [serial.job(1000) for _ in range(4)]
        assert serial.seconds() == pytest.approx(2.0, rel=0.05)
        jobs.append(serial.job(1000))  # two seconds are ahead of it, or a little less
        with pytest.raises(QueueFull, match="seconds of work waiting, and this server takes 2") as refused:
            serial.job(1000)
        assert refused.value.retry_after_s >= 1
        with pytest.raises(QueueFull):
            serial.check_room()
        with jobs.pop():
            pass
        serial.job(1000)  # whoever leaves makes room
        serial.close()

    asyncio.run(main())


def test_what_has_begun_is_finished_although_the_executor_was_closed(clock: Clock) -> None:
    async def main() -> None:
        serial = executor(clock)
        job = serial.job(1)
        assert await job.run(clock.piece(0.001, "read")) == "read"
        serial.close()
        await asyncio.sleep(0.05)
        assert await asyncio.wait_for(job.run(clock.piece(0.001, "written")), PATIENCE_S) == "written"

    asyncio.run(main())


def test_an_error_is_the_pieces_own_and_one_that_was_cancelled_is_not_run(clock: Clock, gate: threading.Event) -> None:
    async def main() -> None:
        serial, ran = executor(clock), list[int]()
        job = serial.job(1)
        with pytest.raises(ZeroDivisionError):
            await job.run(lambda: 1 // 0)
        running = await queued(job, lambda: gate.wait(PATIENCE_S))
        waiting = await queued(serial.job(1), lambda: ran.append(1))
        waiting.cancel()
        await asyncio.sleep(0)
        gate.set()
        assert await running
        assert await job.run(lambda: 7) == 7 and not ran
        serial.close()

    asyncio.run(main())
