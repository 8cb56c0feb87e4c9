"""A real Redis that dies, stands still and comes back: what is asked of it meanwhile, counted rather than timed."""

import asyncio
import gc
import logging
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from redis import Redis

from errors import RedisGone
from serving.shared_redis import MOST_LATE, SharedRedis
from tests.asynchronous import asynchronous
from tests.redis_server import RedisServer, needs_redis, running

pytestmark = needs_redis
PATIENT_S, PAUSE_S = 5.0, 0.05
"""A time-out that no healthy Redis reaches, however slow the machine is; and a short pause."""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with running(tmp_path) as started:
        yield started


@asynccontextmanager
async def connected(url: str, timeout_s: float = PATIENT_S, pause_s: float = PAUSE_S) -> AsyncIterator[SharedRedis]:
    redis = SharedRedis(url, timeout_s, pause_s)
    await redis.start()
    try:
        yield redis
    finally:
        await redis.stop()


async def asked(redis: SharedRedis, times: int) -> int:
    """Ask so many times, one after the other; return how often there was an answer."""
    answers = 0
    for _ in range(times):
        try:
            await redis.ask(lambda: redis.client.incr("asked"))
        except RedisGone:
            continue
        answers += 1
    return answers


async def available(redis: SharedRedis) -> None:
    """Return once it is asked again."""
    async with asyncio.timeout(60):
        while not redis.is_available:
            await asyncio.sleep(0.01)


@asynchronous
async def test_a_redis_that_was_killed_is_asked_once_and_then_left_alone_until_it_is_back(server: RedisServer) -> None:
    async with connected(server.url, pause_s=3600) as redis:
        assert await asked(redis, 20) == 20
        server.kill()
        assert await asked(redis, 1000) == 0
        assert (redis.failures, redis.trials, redis.is_available) == (1, 1, False)
    async with connected(server.url) as redis:  # which is not there when the server starts
        assert await asked(redis, 1000) == 0 and not redis.is_available
        server.start()
        await available(redis)
        assert await asked(redis, 20) == 20


@asynchronous
async def test_a_redis_that_stands_still_costs_one_time_out_however_many_ask(server: RedisServer) -> None:
    async with connected(server.url, timeout_s=0.3, pause_s=3600) as redis:
        server.stop()
        results = await asyncio.gather(*(asked(redis, 1) for _ in range(50)))  # all of them wait at the same time
        assert sum(results) == 0 and 1 <= redis.failures <= 50
        failures = redis.failures
        assert await asked(redis, 1000) == 0 and redis.failures == failures
        server.resume()


@asynchronous
async def test_an_answer_that_is_late_costs_one_time_out_and_no_connection(server: RedisServer) -> None:
    async with connected(server.url) as redis:
        connections = (await redis.client.info("stats"))["total_connections_received"]
        for late in range(MOST_LATE - 1):
            redis.timeout_s = 0.05
            server.stop()
            assert await asked(redis, 1) == 0 and redis.failures == late + 1
            server.resume()
            redis.timeout_s = PATIENT_S
        assert redis.is_available and await asked(redis, 1) == 1
        assert await redis.client.get("asked") == str(MOST_LATE).encode()  # the late ones were done all the same
        assert (await redis.client.info("stats"))["total_connections_received"] == connections
        assert redis.trials == 1


@asynchronous
async def test_while_it_stands_still_it_is_tried_again_and_again_and_taken_back_when_it_goes_on(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.shared_redis.CONNECT_S", 0.2)
    async with connected(server.url, timeout_s=0.3) as redis:
        server.stop()
        assert await asked(redis, MOST_LATE) == 0 and not redis.is_available
        trials = redis.trials
        async with asyncio.timeout(60):
            while redis.trials < trials + 3:
                await asyncio.sleep(0.01)
        assert not redis.is_available and await asked(redis, 100) == 0
        server.resume()
        await available(redis)
        redis.timeout_s = PATIENT_S
        assert await asked(redis, 20) == 20


@asynchronous
async def test_an_answer_that_came_while_the_loop_was_held_up_is_taken(server: RedisServer) -> None:
    async with connected(server.url) as redis:
        redis.timeout_s = 0.05

        async def hold_up() -> None:
            """Run on the event loop until Redis has done what it was asked, and then past the time-out."""
            for _ in range(5):
                await asyncio.sleep(0)
            with Redis.from_url(server.url) as other:
                deadline = time.monotonic() + 30
                while other.get("asked") is None and time.monotonic() < deadline:
                    pass
            time.sleep(2 * redis.timeout_s)

        answers, _ = await asyncio.gather(asked(redis, 1), hold_up())
        assert answers == 1 and redis.failures == 0


@asynchronous
async def test_who_gives_up_asking_leaves_nothing_behind(server: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    async with connected(server.url) as redis:
        server.stop()
        asking = asyncio.create_task(asked(redis, 1))
        await asyncio.sleep(0.01)
        asking.cancel()  # as gRPC does with a call whose client has gone
        await asyncio.wait((asking,))
        server.kill()
        while redis._under_way:
            await asyncio.sleep(0.01)
        gc.collect()
        assert asking.cancelled() and redis.failures == 0 and "never retrieved" not in caplog.text


@asynchronous
async def test_more_requests_than_connections_are_all_answered(server: RedisServer) -> None:
    async with connected(server.url) as redis:
        assert sum(await asyncio.gather(*(asked(redis, 3) for _ in range(200)))) == 600
        assert await redis.client.get("asked") == b"600" and redis.failures == 0


@asynchronous
async def test_a_redis_that_refuses_is_gone_and_the_log_never_has_the_password(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with running(tmp_path, "right-5ecret") as server:
        wrong = server.url.replace("right-5ecret", "wrong-5ecret")
        async with connected(wrong, pause_s=3600) as redis:
            assert not redis.is_available and await asked(redis, 10) == 0
        async with connected(server.url) as redis:
            assert await asked(redis, 10) == 10
            await redis.client.config_set("maxmemory", "1")  # it refuses to write, and answers PING
            assert await asked(redis, 100) == 0
            while redis.trials < 3:
                await asyncio.sleep(0.01)
            assert not redis.is_available
            assert "5ecret" not in repr(redis) + str(redis.__dict__.get("_where"))
    assert f"Redis at 127.0.0.1:{server.port} does not do what it should" in caplog.text
    assert "5ecret" not in caplog.text
