"""Answers that servers keep for each other in Redis: how they are written, and what is made of those that are read."""

import asyncio
import contextlib
import hashlib
import json
import logging
import math
import struct
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from errors import RedisGone
from runners.metrics import metrics
from runners.runner import Answer
from serving.gradcam.wire import ExplainedPicture, Explanation, Sampling
from serving.pipeline import ImageOutputs

if TYPE_CHECKING:
    from serving.shared_redis import SharedRedis

logger = logging.getLogger("vitrine.redis")

PREFIX = b"vitrine-answer:1:"
"""What the names of answers in Redis begin with; the number is that of the format, and of what the answers mean."""
MAX_ANSWER_BYTES = 2**20
"""A longer answer is neither written nor read."""
MOST_WAITING = 256
"""So many answers may wait to be written; those that come while Redis is slow are not kept there."""
TYPES = {kind.__name__: kind for kind in (ImageOutputs, ExplainedPicture, Explanation, Sampling)}
"""What answers consist of, beside numbers, texts, bytes, arrays and tuples of these."""
_LENGTH = struct.Struct(">I")


class SharedAnswers:
    """The answers in Redis, for the response cache of one worker, which stays in front.

    Args:
        redis: asked for answers; while it does not answer, there are none.
        seconds: how long it keeps one.
    """

    def __init__(self, redis: "SharedRedis", seconds: int) -> None:
        self._redis, self._seconds = redis, seconds
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiting = asyncio.Queue[tuple[bytes, Answer[Any]]](MOST_WAITING)
        self._writing: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to write what is kept; to be called on the event loop that reads, too."""
        self._loop = asyncio.get_running_loop()
        self._writing = asyncio.create_task(self._write())

    def stop(self) -> None:
        """Write nothing more."""
        if self._writing is not None:
            self._writing.cancel()

    async def fetch(self, keys: Sequence[bytes]) -> dict[bytes, Answer[Any]]:
        """Return the answers that there are, by their keys; none while Redis does not answer.

        Args:
            keys: digests of what was asked, the model's version included.
        """
        names = [PREFIX + key.hex().encode() for key in keys]
        try:
            values = await self._redis.ask(lambda: self._redis.client.mget(names))
        except RedisGone:
            return {}
        answers = dict[bytes, Answer[Any]]()
        for key, value in zip(keys, values, strict=True):
            answer = answer_from_bytes(key, value) if isinstance(value, bytes) else None
            outcome = "miss" if value is None else "hit" if answer is not None else "refused"
            metrics().shared_answers.labels(outcome).inc()
            if answer is not None:
                answers[key] = answer
        return answers

    def keep(self, key: bytes, answer: Answer[Any]) -> None:
        """Have an answer written soon, from whichever thread; nobody waits for that."""
        if self._loop is not None and self._redis.is_available:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(self._put, key, answer)

    def _put(self, key: bytes, answer: Answer[Any]) -> None:
        with contextlib.suppress(asyncio.QueueFull):
            self._waiting.put_nowait((key, answer))

    async def _write(self) -> None:
        while True:
            key, answer = await self._waiting.get()
            try:
                value = answer_to_bytes(key, answer)
                if len(value) <= MAX_ANSWER_BYTES:
                    name = PREFIX + key.hex().encode()
                    await self._redis.ask(partial(self._redis.client.set, name, value, ex=self._seconds))
            except RedisGone:
                continue
            except Exception:  # others are still to be written
                logger.exception("an answer could not be written to Redis")


def answer_to_bytes(key: bytes, answer: Answer[Any]) -> bytes:
    """Return an answer as Redis keeps it: a digest, the length of the JSON, the JSON, and the bytes that it names.

    The digest is of the key and all that follows, so that an answer under another key is none.
    """
    blobs = list[bytes]()
    header = json.dumps([_packed(answer.value, blobs), list(map(len, blobs))]).encode()
    body = _LENGTH.pack(len(header)) + header + b"".join(blobs)
    return hashlib.sha256(key + body).digest() + body


def answer_from_bytes(key: bytes, data: bytes) -> Answer[Any] | None:
    """Return the answer that `answer_to_bytes` wrote under this key; None for anything else."""
    digest, body = data[:32], data[32:]
    if len(data) > MAX_ANSWER_BYTES or hashlib.sha256(key + body).digest() != digest:
        return None
    try:
        (length,), start = _LENGTH.unpack_from(body), _LENGTH.size
        packed, lengths = json.loads(body[start : start + length])
        blobs, start = list[bytes](), start + length
        for size in lengths:
            blobs.append(body[start : start + size])
            start += size
        value = _unpacked(packed, blobs)
    except (ValueError, TypeError, KeyError, IndexError, struct.error, RecursionError):
        return None
    is_answer = start == len(body) and isinstance(value, ImageOutputs | ExplainedPicture)
    return Answer(value, 0.0, 0.0, 0.0, 1) if is_answer else None


def _packed(value: Any, blobs: list[bytes]) -> Any:
    """Return JSON for a value, whose bytes and arrays are appended to `blobs`."""
    if isinstance(value, np.ndarray):
        if value.dtype != np.float32:
            raise TypeError(f"An array of an answer is float32, not {value.dtype}.")
        blobs.append(value.astype("<f4").tobytes())
        return {"array": list(value.shape), "at": len(blobs) - 1}
    if isinstance(value, bytes):
        blobs.append(value)
        return {"at": len(blobs) - 1}
    if isinstance(value, tuple):
        return {"type": type(value).__name__, "of": [_packed(part, blobs) for part in value]}
    return value


def _unpacked(packed: Any, blobs: Sequence[bytes]) -> Any:
    """Return the value that `_packed` made JSON of.

    Raises:
        ValueError: an array holds what is no number, or has another size than its shape.
        KeyError, TypeError, IndexError: it is something else.
    """
    if not isinstance(packed, dict):
        if isinstance(packed, float) and not math.isfinite(packed):
            raise ValueError("An answer has no such number.")
        return packed
    if "type" in packed:
        parts = tuple(_unpacked(part, blobs) for part in packed["of"])
        return parts if packed["type"] == "tuple" else TYPES[packed["type"]](*parts)
    blob = blobs[packed["at"]]
    if "array" not in packed:
        return blob
    array = np.frombuffer(blob, "<f4").astype(np.float32).reshape(packed["array"])
    if not np.isfinite(array).all():
        raise ValueError("An answer has no such number.")
    return array
