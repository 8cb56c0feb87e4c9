"""Answers that two servers keep for each other in a real Redis, and what is made of damaged ones."""

import asyncio
import hashlib
import json
import struct
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runners.runner import Answer
from serving.cache import ResponseCache
from serving.gradcam.wire import ExplainedPicture, Explanation, Sampling
from serving.pipeline import ImageOutputs
from serving.shared_answers import MAX_ANSWER_BYTES, SharedAnswers, answer_from_bytes, answer_to_bytes
from serving.shared_redis import SharedRedis
from tests.asynchronous import asynchronous
from tests.redis_server import RedisServer, needs_redis, running

KEY, OTHER = b"k" * 32, b"o" * 32
LOGITS = np.array([np.float32(1) / np.float32(3), -7.25e-30, 1e30], np.float32)
PREDICTED = Answer[Any](ImageOutputs(LOGITS, 12.5, "early_exit"), 1.0, 2.0, 3.0, 4)
EXPLANATIONS = (
    Explanation(1, b"\x89PNG\0\xff", np.array([[0.1, 0.2, 0.3], [0.4, 0.5, 1e-38]], np.float32), (640, 480)),
    Explanation(0, None, np.zeros((1, 1), np.float32), (1, 1), Sampling(4000, 0.125)),
)
EXPLAINED = Answer[Any](ExplainedPicture(LOGITS, None, EXPLANATIONS), 1.0, 2.0, 3.0, 1)


def is_same(left: Any, right: Any) -> bool:
    """Whether two values are equal to the last bit, and of the same types."""
    if isinstance(left, np.ndarray):
        return (left.dtype, left.shape, left.tobytes()) == (right.dtype, right.shape, right.tobytes())
    if isinstance(left, tuple):
        return type(left) is type(right) and len(left) == len(right) and all(map(is_same, left, right))
    return type(left) is type(right) and bool(left == right)


@pytest.mark.parametrize("answer", [PREDICTED, EXPLAINED], ids=["predicted", "explained"])
def test_an_answer_is_the_same_after_it_was_written_and_read(answer: Answer[Any]) -> None:
    read = answer_from_bytes(KEY, answer_to_bytes(KEY, answer))
    assert read is not None and is_same(read.value, answer.value)


def test_a_value_that_is_cut_off_changed_or_anothers_is_no_answer() -> None:
    whole = answer_to_bytes(KEY, EXPLAINED)
    assert all(answer_from_bytes(KEY, whole[:length]) is None for length in range(len(whole)))
    for place in range(len(whole)):
        changed = bytearray(whole)
        changed[place] ^= 1
        assert answer_from_bytes(KEY, bytes(changed)) is None
    assert answer_from_bytes(OTHER, whole) is None
    assert answer_from_bytes(KEY, whole + b"\0") is None
    assert answer_from_bytes(KEY, b"") is None


def forged(packed: Any, lengths: list[int], blobs: bytes = b"") -> bytes:
    """A value whose digest is right."""
    header = json.dumps([packed, lengths]).encode()
    body = struct.pack(">I", len(header)) + header + blobs
    return hashlib.sha256(KEY + body).digest() + body


@pytest.mark.parametrize(
    "value",
    [
        forged({"type": "Popen", "of": ["sh"]}, []),
        forged({"type": "Sampling", "of": [1, 2.0]}, []),
        forged({"type": "ImageOutputs", "of": [1]}, []),
        forged({"type": "ImageOutputs", "of": [{"array": [2], "at": 0}, None, None]}, [4], b"\0" * 4),
        forged({"type": "ImageOutputs", "of": [{"array": [1], "at": 0}, None, None]}, [4], b"\0\0\xc0\x7f"),
        forged({"type": "ImageOutputs", "of": [{"array": [1], "at": 1}, None, None]}, [4], b"\0" * 4),
        forged({"type": "ImageOutputs", "of": [{"array": [1], "at": 0}, None, None]}, [4], b"\0" * 8),
        forged("[" * 5, []),
        forged([], []),
        forged({"type": "tuple", "of": []}, []),
        forged({"type": "ImageOutputs", "of": [{"array": [2**20], "at": 0}, 0, None]}, [2**22], b"\0" * 2**22),
    ],
)
def test_a_forged_value_that_is_no_answer_of_ours_is_none(value: bytes) -> None:
    assert answer_from_bytes(KEY, value) is None


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with running(tmp_path) as started:
        yield started


@asynccontextmanager
async def cache(server: RedisServer, seconds: int = 60) -> AsyncIterator[tuple[ResponseCache, SharedRedis]]:
    """The response cache of one of several servers."""
    redis = SharedRedis(server.url, 5.0, 3600)
    await redis.start()
    shared = SharedAnswers(redis, seconds)
    shared.start()
    try:
        yield ResponseCache(2**20, shared), redis
    finally:
        shared.stop()
        await redis.stop()


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(60):
        while not await condition():
            await asyncio.sleep(0.005)


@needs_redis
@asynchronous
async def test_what_one_server_computed_another_takes_from_redis_and_asks_for_once(server: RedisServer) -> None:
    async with cache(server) as (first, redis), cache(server) as (second, other):
        key = first.key("m:1", b"picture")
        assert key is not None and second.key("m:1", b"picture") == key
        await second.fetch(key)
        assert second.get("m", key) is None
        await asyncio.to_thread(first.keep, key, PREDICTED)  # as a lane does
        await until(lambda: redis.client.exists(b"vitrine-answer:1:" + key.hex().encode()))
        assert 0 < await redis.client.ttl(b"vitrine-answer:1:" + key.hex().encode()) <= 60
        await second.fetch(key, None, second.key("m:2", b"picture"))
        answer = second.get("m", key)
        assert answer is not None and answer.cached and is_same(answer.value, PREDICTED.value)
        assert second.get("m", second.key("m:2", b"picture")) is None  # another version's answer is another one
        commands = (await other.client.info("commandstats"))["cmdstat_mget"]["calls"]
        await second.fetch(key)  # it is here now
        assert (await other.client.info("commandstats"))["cmdstat_mget"]["calls"] == commands


@needs_redis
@asynchronous
async def test_a_poisoned_value_is_passed_over_and_a_long_answer_is_not_written(server: RedisServer) -> None:
    async with cache(server) as (own, redis):
        await redis.client.set(b"vitrine-answer:1:" + KEY.hex().encode(), answer_to_bytes(OTHER, PREDICTED))
        await redis.client.lpush(b"vitrine-answer:1:" + OTHER.hex().encode(), "a list")
        await own.fetch(KEY, OTHER)
        assert own.get("m", KEY) is None and own.get("m", OTHER) is None and redis.failures == 0
        long = PREDICTED._replace(value=ImageOutputs(np.zeros(MAX_ANSWER_BYTES // 4, np.float32), None))
        own.keep(b"long", long)
        own.keep(b"short", PREDICTED)
        await until(lambda: redis.client.exists(b"vitrine-answer:1:" + b"short".hex().encode()))
        assert not await redis.client.exists(b"vitrine-answer:1:" + b"long".hex().encode())


@needs_redis
@asynchronous
async def test_without_redis_the_cache_is_the_servers_own(server: RedisServer) -> None:
    async with cache(server) as (own, redis):
        server.kill()
        for number in range(100):
            await own.fetch(bytes([number]) * 32)
            own.keep(bytes([number]) * 32, PREDICTED)
        assert redis.failures == 1
        assert own.get("m", bytes(32)) is not None
