"""Answers that were given before, by the digest of what was asked; off unless an operator gives it memory."""

import hashlib
import sys
import threading
from collections.abc import Mapping
from concurrent.futures import Future
from typing import Any

import numpy as np
from cachetools import LRUCache

from runners.metrics import metrics
from runners.runner import Answer
from serving.shared_answers import SharedAnswers

MAX_PICTURE_BYTES = 2**18
"""The digest of a larger picture would hold up the event loop for more than 0.2 ms, so its answer is not kept."""
ENTRY_OVERHEAD_BYTES = 400
"""What an entry takes beside its value."""
ARRAY_OVERHEAD_BYTES = 128
"""What an array takes beside its data; `sys.getsizeof` counts the data of some arrays and not of others."""


class ResponseCache:
    """Keeps answers, never errors; the least recently used go first when the memory is spent.

    Args:
        max_bytes: the memory for all answers, as far as they can be counted; 0 keeps none.
        shared: the answers that other servers keep, too; None where each keeps its own.
    """

    def __init__(self, max_bytes: int, shared: SharedAnswers | None = None) -> None:
        self._max_bytes, self._shared = max_bytes, shared
        self._lock = threading.Lock()
        self._answers: LRUCache[bytes, Answer[Any]] = LRUCache(
            max_bytes, getsizeof=lambda answer: ENTRY_OVERHEAD_BYTES + size_of(answer.value)
        )

    @property
    def keeps_answers(self) -> bool:
        """Whether there is memory for any answer."""
        return self._max_bytes > 0

    def keeps(self, payload: object) -> bool:
        """Return whether the answers to such a payload are kept."""
        return bool(self._max_bytes) and isinstance(payload, bytes) and len(payload) <= MAX_PICTURE_BYTES

    def key(self, tag: str, payload: object, parameters: object = None) -> bytes | None:
        """Return the key of an answer, or None where it is not kept: the payload is no bytes, or too many.

        Args:
            tag: the model and its version; another version's answer is another one.
            payload: the encoded picture.
            parameters: what else the answer depends on; its `repr` must say all of it.
        """
        if not self.keeps(payload) or not isinstance(payload, bytes):
            return None
        digest = hashlib.sha256(f"{tag} {parameters!r} ".encode())
        digest.update(payload)
        return digest.digest()

    def get(self, tag: str, key: bytes | None) -> Answer[Any] | None:
        """Return the answer that is kept, which took no time; it is counted as a hit or a miss of the version."""
        if key is None:
            return None
        with self._lock:
            answer = self._answers.get(key)
        name, _, version = tag.partition(":")
        metrics().cache.labels(name, version, "miss" if answer is None else "hit").inc()
        return answer and answer._replace(queue_ms=0.0, decode_ms=0.0, infer_ms=0.0, cached=True)

    @property
    def is_shared(self) -> bool:
        """Whether other servers keep answers, too."""
        return self._shared is not None

    async def fetch(self, *keys: bytes | None) -> None:
        """Take the answers that other servers kept, so that `get` has them; those that are here are not asked for."""
        if self._shared is None:
            return
        with self._lock:
            missing = [key for key in dict.fromkeys(keys) if key is not None and key not in self._answers]
        for key, answer in (await self._shared.fetch(missing) if missing else {}).items():
            self._keep_here(key, answer)

    def keep(self, key: bytes, answer: Answer[Any]) -> None:
        """Keep an answer at the cost of the oldest ones; one that is larger than the whole cache is not kept."""
        kept = answer._replace(value=_without_views(answer.value))
        self._keep_here(key, kept)
        if self._shared is not None:
            self._shared.keep(key, kept)

    def _keep_here(self, key: bytes, kept: Answer[Any]) -> None:
        with self._lock:
            if key not in self._answers and self._answers.getsizeof(kept) <= self._max_bytes:
                self._answers[key] = kept

    def keep_result(self, key: bytes, done: "Future[Answer[Any]]") -> None:
        """Keep the result of a submission, if it is an answer."""
        if not done.cancelled() and done.exception() is None:
            self.keep(key, done.result())

    def kept(self, key: bytes | None, future: "Future[Answer[Any]]") -> "Future[Answer[Any]]":
        """Return a future whose answer will be kept, unless its key is None."""
        if key is not None:
            future.add_done_callback(lambda done: self.keep_result(key, done))
        return future


NO_CACHE = ResponseCache(0)


def answered(answer: Answer[Any]) -> "Future[Answer[Any]]":
    """Return a future of an answer that is there."""
    future = Future[Answer[Any]]()
    future.set_result(answer)
    return future


def _without_views(value: Any) -> Any:
    """Return a copy whose arrays are their own, because a row of a batch would keep the whole batch in memory."""
    if isinstance(value, np.ndarray):
        return value.copy()
    if not isinstance(value, tuple):
        return value
    parts = map(_without_views, value)
    return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)


def size_of(value: Any) -> int:
    """Return the bytes that a value of arrays, texts and numbers takes."""
    if isinstance(value, np.ndarray):
        return value.nbytes + ARRAY_OVERHEAD_BYTES
    if isinstance(value, Mapping):
        return sum(size_of(part) for part in value.values())
    if isinstance(value, tuple):
        return sum(map(size_of, value))
    return sys.getsizeof(value)
