"""Quotas that servers count together in a real Redis, and each alone while it does not answer."""

import asyncio
import multiprocessing
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
import requests

from api.keys import add_key
from api.quotas import Quotas, WithoutRedis
from api.restrictions import Restrictions
from api.shared_counters import SharedCounters
from errors import Unavailable
from serving.shared_redis import SharedRedis
from tests.api.serving import serving
from tests.asynchronous import asynchronous
from tests.redis_server import RedisServer, needs_redis, running
from tests.tiny import plain, seal, tiny_package

pytestmark = needs_redis
LIMIT = 40


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[RedisServer]:
    with running(tmp_path) as started:
        yield started


@asynccontextmanager
async def quotas(server: RedisServer, file: Path, without_redis: WithoutRedis) -> AsyncIterator[Quotas]:
    """The quotas of one of several servers."""
    redis = SharedRedis(server.url, 5.0, 3600)
    counting = Quotas(SharedCounters(file), redis, without_redis)
    await redis.start()
    try:
        yield counting
    finally:
        await redis.stop()


async def taken(counting: Quotas, times: int, cost: int = 1) -> int:
    """Take so many times; return how often that was counted."""
    results = [await counting.take("ci", "items", LIMIT, cost, counting.timeout_s) for _ in range(times)]
    return sum(was_taken for was_taken, _ in results)


@asynchronous
async def test_two_servers_count_together_and_a_refusal_counts_nothing(
    redis_server: RedisServer, tmp_path: Path
) -> None:
    async with (
        quotas(redis_server, tmp_path / "a", "closed") as first,
        quotas(redis_server, tmp_path / "b", "closed") as second,
    ):
        counts = await asyncio.gather(*(taken(server, 10, 3) for server in (first, second) for _ in range(3)))
        assert sum(counts) == LIMIT // 3
        assert await taken(first, 5, 2) == 0 and await taken(second, 5) == 1  # 39 were counted, not 60
        was_taken, window = await first.take("ci", "items", LIMIT, 1, 5.0)
        assert not was_taken and window is not None and window.current == LIMIT and 60 < window.current_s <= 120


@asynchronous
async def test_without_redis_a_server_does_what_the_operator_chose(redis_server: RedisServer, tmp_path: Path) -> None:
    async with (
        quotas(redis_server, tmp_path / "a", "local") as local,
        quotas(redis_server, tmp_path / "b", "open") as opened,
        quotas(redis_server, tmp_path / "c", "closed") as closed,
    ):
        assert await taken(local, LIMIT) == LIMIT
        assert [await taken(counting, 5) for counting in (local, opened, closed)] == [0, 0, 0]
        redis_server.kill()
        assert await taken(local, 2 * LIMIT) == LIMIT  # anew, and by itself
        assert await taken(opened, 2 * LIMIT) == 2 * LIMIT
        for _ in range(2):
            with pytest.raises(Unavailable, match="Quotas cannot be counted just now"):
                await taken(closed, 1)


@asynchronous
async def test_the_wait_that_a_refusal_names_is_long_enough_in_redis_too(
    redis_server: RedisServer, tmp_path: Path
) -> None:
    async with quotas(redis_server, tmp_path / "a", "closed") as counting:
        assert await taken(counting, 1, LIMIT) == 1
        was_taken, window = await counting.take("ci", "items", LIMIT, 20, 5.0)
        assert not was_taken and window is not None
        seconds = window.seconds_until(20, LIMIT, 60)
        assert 85 <= seconds <= 91  # this window ends within 60, and 30 later half of it counts no more
        storage = counting._shared.storage  # Redis has no clock to move: its keys are made that much older
        client = storage.bridge.storage  # type: ignore[attr-defined]
        (name,) = await client.keys("*ci*")
        await client.pexpire(name, round((window.current_s - seconds) * 1000))
        assert (await counting.take("ci", "items", LIMIT, 20, 5.0))[0]


def serve(folder: Path, keys: Path, redis_url: str, pipe: Connection) -> None:
    """Run one server of the tiny model until the pipe says something."""
    stored = seal(tiny_package(folder / "tiny"))
    chosen = {"redis_url": redis_url, "redis_ms": 1000, "quotas_without_redis": "closed"}
    with serving(stored, api_keys_file=keys, **chosen) as running_server:
        pipe.send(running_server.url)
        pipe.recv()


def test_two_server_processes_let_through_as_many_requests_as_the_quota_says(
    redis_server: RedisServer, tmp_path: Path
) -> None:
    keys, context = tmp_path / "keys.toml", multiprocessing.get_context("spawn")
    header = {"x-api-key": add_key(keys, "ci", restrictions=Restrictions(requests_per_minute=LIMIT))}
    pipes, processes = list[Connection](), list[multiprocessing.context.SpawnProcess]()
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        own, other = context.Pipe()
        process = context.Process(target=serve, args=(tmp_path / name, keys, redis_server.url, other))
        process.start()
        pipes.append(own)
        processes.append(process)
    urls = [pipe.recv() for pipe in pipes]

    def send(number: int) -> int:
        url = urls[number % 2]
        return requests.post(f"{url}/predict", data=plain(200), headers=header, timeout=60).status_code

    try:
        statuses = [send(number) for number in range(2 * LIMIT)]
    finally:
        for pipe in pipes:
            pipe.send("end")
        for process in processes:
            process.join(60)
    assert statuses.count(200) == LIMIT and statuses.count(429) == LIMIT
    assert statuses[:LIMIT].count(200) == LIMIT
