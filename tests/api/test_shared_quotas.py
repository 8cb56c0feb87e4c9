"""Quotas that servers count together in a real Redis, and each alone while it does not answer."""

import asyncio
import multiprocessing
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
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
from tests.live.server import wait_until
from tests.redis_server import RedisServer, needs_redis, running
from tests.tiny import plain, seal, tiny_package

pytestmark = needs_redis
LIMIT = 40
PICTURE = plain(200)


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


CHOSEN = {"redis_ms": 1000, "quotas_without_redis": "closed", "cache_mb": 1, "cache_shared_seconds": 60}


def serve(folder: Path, keys: Path, redis_url: str, pipe: Connection) -> None:
    """Run one server of the tiny model until the pipe says something."""
    with serving(seal(folder), api_keys_file=keys, redis_url=redis_url, **CHOSEN) as running_server:
        pipe.send(running_server.url)
        pipe.recv()


@pytest.fixture
def urls(redis_server: RedisServer, tmp_path: Path) -> Iterator[list[str]]:
    """Two servers of the same model, with the same file of keys and the same Redis: this process and another."""
    folder, keys, context = (
        tiny_package(tmp_path / "tiny"),
        tmp_path / "keys.toml",
        multiprocessing.get_context("spawn"),
    )
    own, other = context.Pipe()
    process = context.Process(target=serve, args=(folder, keys, redis_server.url, other))
    process.start()
    try:
        with serving(seal(folder), api_keys_file=keys, redis_url=redis_server.url, **CHOSEN) as running_server:
            assert own.poll(120)
            yield [running_server.url, own.recv()]
    finally:
        own.send("end")
        process.join(60)
        assert process.exitcode == 0


@pytest.fixture
def keys(tmp_path: Path) -> dict[str, dict[str, str]]:
    """The headers of two keys, of which one is limited; no minute ends in a day, however slow the machine is."""
    limits = {"limited": Restrictions(bytes_per_day=LIMIT * len(PICTURE)), "free": Restrictions()}
    file = tmp_path / "keys.toml"
    return {name: {"x-api-key": add_key(file, name, restrictions=chosen)} for name, chosen in limits.items()}


def test_two_servers_let_through_as_many_requests_as_the_quota_says_and_share_answers(
    keys: dict[str, dict[str, str]], urls: list[str]
) -> None:
    def send(url: str, data: bytes, key: str) -> requests.Response:
        return requests.post(f"{url}/predict", data=data, headers=keys[key], timeout=60)

    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda place: send(urls[place % 2], PICTURE, "limited"), range(2 * LIMIT)))
    statuses = [answer.status_code for answer in answers]
    assert statuses.count(200) == LIMIT and statuses.count(429) == LIMIT

    computed = send(urls[0], plain(11), "free")
    assert computed.status_code == 200 and "Cache-Status" not in computed.headers
    taken_over = list[requests.Response]()

    def is_taken_over() -> bool:
        """Ask the second server, which computes it if the first has not written it yet; then another picture."""
        level = 12 + len(taken_over)
        assert send(urls[0], plain(level), "free").status_code == 200
        taken_over.append(send(urls[1], plain(level), "free"))
        return "Cache-Status" in taken_over[-1].headers

    wait_until(is_taken_over)
    level = 11 + len(taken_over)
    first, second = send(urls[0], plain(level), "free").json(), taken_over[-1].json()
    assert first["probabilities"] == second["probabilities"] and first["version"] == second["version"]
