"""Answers that were given before, by what was asked: off unless an operator gives it memory."""

import hashlib
import sys
import threading
from collections import OrderedDict
from collections.abc import Mapping
from concurrent.futures import Future
from typing import Any

import numpy as np

from runners.runner import Answer
from runners.stats import metrics

LARGEST = 2**18
"""Bytes of a picture up to which its digest is taken, on the event loop: 0.2 ms. Larger are not kept."""
OVERHEAD = 400
"""Bytes that an entry takes beside its value."""


class ResponseCache:
    """The least recently used go first when the memory is spent. Only answers are kept, never errors.

    Args:
        max_bytes: memory for all answers, as far as they can be counted; 0 keeps none.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes, self._bytes = max_bytes, 0
        self._lock = threading.Lock()
        self._kept: OrderedDict[bytes, tuple[Answer[Any], int]] = OrderedDict()

    def key(self, tag: str, data: object, asked: object = None) -> bytes | None:
        """What an answer is kept under; None for what is not kept: no bytes, or too many.

        Args:
            tag: the model and its version; another version's answer is another.
            data: the encoded picture.
            asked: what else the answer depends on; its `repr` must say all of it.
        """
        if not self._max_bytes or not isinstance(data, bytes) or len(data) > LARGEST:
            return None
        digest = hashlib.sha256(f"{tag} {asked!r} ".encode())
        digest.update(data)
        return digest.digest()

    def get(self, model: str, key: bytes | None) -> Answer[Any] | None:
        """The answer that is kept, which took no time; counted as a hit or a miss of that model."""
        if key is None:
            return None
        with self._lock:
            found, _ = self._kept.get(key, (None, 0))
            if found is not None:
                self._kept.move_to_end(key)
        metrics().cache.labels(model, "miss" if found is None else "hit").inc()
        return found and found._replace(queue_ms=0.0, decode_ms=0.0, infer_ms=0.0, cached=True)

    def keep(self, key: bytes, answer: Answer[Any]) -> None:
        """Keep an answer, at the cost of the oldest; one that is larger than the whole cache is not kept."""
        size = OVERHEAD + size_of(answer.value)
        with self._lock:
            if size > self._max_bytes or key in self._kept:
                return
            self._kept[key] = (answer._replace(value=_own(answer.value)), size)
            self._bytes += size
            while self._bytes > self._max_bytes:
                _, (_, freed) = self._kept.popitem(last=False)
                self._bytes -= freed

    def keep_result(self, key: bytes, done: "Future[Answer[Any]]") -> None:
        """Keep what came of a submission, if it was an answer."""
        if not done.cancelled() and done.exception() is None:
            self.keep(key, done.result())


NO_CACHE = ResponseCache(0)


def _own(value: Any) -> Any:
    """The same without what it was part of: a row of a batch would keep the batch."""
    parts = {name: each.copy() for name, each in value._asdict().items() if isinstance(each, np.ndarray)}
    return value._replace(**parts)


def size_of(value: Any) -> int:
    """Bytes that a value of arrays, texts and numbers takes."""
    if isinstance(value, np.ndarray):
        return value.nbytes + sys.getsizeof(value)
    if isinstance(value, Mapping):
        return sum(size_of(each) for each in value.values())
    if isinstance(value, tuple):
        return sum(map(size_of, value))
    return sys.getsizeof(value)
