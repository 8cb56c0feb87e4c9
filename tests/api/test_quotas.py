"""How quotas are counted: against the library's own storage, a simulation, and several processes at once."""

import asyncio
import math
import multiprocessing
import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from limits.aio.storage import MemoryStorage

from api.quotas import Quotas, Window
from api.shared_counters import COUNTERS, SharedCounters
from errors import Unavailable
from tests.asynchronous import asynchronous

WORKERS, ATTEMPTS, LIMIT = 3, 500, 1000


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Stop the system's clock; a call moves it."""
    now = [1_800_000_000.0]
    monkeypatch.setattr(time, "time", lambda: now[0])

    def move(seconds: float) -> None:
        now[0] += seconds

    return move


@asynchronous
async def test_the_shared_counters_decide_as_the_librarys_own_do(
    tmp_path: Path, clock: Callable[[float], None]
) -> None:
    shared, own, chosen = SharedCounters(tmp_path / "counters"), MemoryStorage(), random.Random(7)
    decisions = []
    for _ in range(3000):
        clock(chosen.expovariate(1 / 4))
        key, limit, cost = chosen.choice([("a", 20, 1), ("a", 20, 7), ("b", 5, 1), ("c", 10**12, 10**11)])
        decisions.append(await shared.acquire_sliding_window_entry(key, limit, 60, cost))
        assert decisions[-1] == await own.acquire_sliding_window_entry(key, limit, 60, cost)
        seen, expected = await shared.get_sliding_window(key, 60), await own.get_sliding_window(key, 60)
        assert seen == pytest.approx(expected, abs=1e-3)
    assert 500 < sum(decisions) < 2500  # both were decided often
    shared.close()


def hit(path: Path, results: "multiprocessing.Queue[int]") -> None:
    """Take as much as there is, as a worker would."""

    async def take() -> int:
        counters = SharedCounters(path)
        return sum([await counters.acquire_sliding_window_entry("key", LIMIT, 86_400) for _ in range(ATTEMPTS)])

    results.put(asyncio.run(take()))


def test_several_processes_take_no_more_than_the_limit_together(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    results: multiprocessing.Queue[int] = context.Queue()
    processes = [context.Process(target=hit, args=(tmp_path / "counters", results)) for _ in range(WORKERS)]
    for process in processes:
        process.start()
    taken = [results.get(timeout=60) for _ in processes]
    for process in processes:
        process.join(60)
    assert sum(taken) == LIMIT < WORKERS * ATTEMPTS


@asynchronous
async def test_a_counter_that_counts_nothing_any_more_makes_room(
    tmp_path: Path, clock: Callable[[float], None]
) -> None:
    counters = SharedCounters(tmp_path / "counters")
    for number in range(COUNTERS):
        assert await counters.acquire_sliding_window_entry(str(number), 1, 60)
    with pytest.raises(Unavailable, match="Too many quotas"):
        await counters.acquire_sliding_window_entry("new", 1, 60)
    assert not await counters.acquire_sliding_window_entry("7", 1, 60)
    clock(121)
    assert await counters.acquire_sliding_window_entry("new", 1, 60)
    assert not await counters.acquire_sliding_window_entry("new", 1, 60)
    assert await counters.acquire_sliding_window_entry("7", 1, 60)


def test_the_time_after_which_a_request_is_taken_is_the_shortest_and_holds() -> None:
    chosen, refused = random.Random(3), 0
    for _ in range(20_000):
        limit, rest_s = chosen.randint(1, 50), chosen.uniform(0.001, 60)
        cost, previous, current = (chosen.randint(low, limit) for low in (1, 0, 0))

        def is_taken(after_s: float) -> bool:
            """Follow both windows to that time."""
            if after_s < rest_s:
                share, counted, new = (rest_s - after_s) / 60, previous, current
            else:
                share, counted, new = max(0.0, 1 - (after_s - rest_s) / 60), current, 0
            return math.floor(counted * share) + new + cost <= limit

        if is_taken(0):
            continue
        refused += 1
        window = Window(previous, rest_s if previous else 0.0, current, rest_s + 60)
        seconds = window.seconds_until(cost, limit, 60)
        assert is_taken(seconds)
        assert seconds == 1 or not is_taken(seconds - 1.02)
    assert refused > 2000


@asynchronous
async def test_keys_and_quotas_are_counted_apart_and_a_refusal_counts_nothing(tmp_path: Path) -> None:
    quotas = Quotas(SharedCounters(tmp_path / "counters"))
    for key in ("a", "b"):
        for quota in ("requests", "items", "bytes"):
            assert (await quotas.take(key, quota, 10, 8, 0.0))[0]
            taken, window = await quotas.take(key, quota, 10, 3, 0.0)
            assert not taken and window is not None and window.current == 8
            assert (await quotas.take(key, quota, 10, 2, 0.0))[0]
