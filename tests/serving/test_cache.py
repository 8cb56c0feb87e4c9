"""The response cache: what it keeps, for how long, and under what."""

from concurrent.futures import Future
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from prometheus_client import REGISTRY

from errors import InvalidImage
from runners.runner import Answer
from serving.cache import ENTRY_OVERHEAD_BYTES, MAX_PICTURE_BYTES, NO_CACHE, ResponseCache, size_of
from serving.gradcam.wire import ExplanationRequest
from serving.pipeline import ImageOutputs

ASK = ExplanationRequest(b"", (), "gradcam", "overlay", 0.5, at_input_size=True)


def answer(number: float) -> Answer[Any]:
    """An answer whose logits are two numbers."""
    return Answer(ImageOutputs(np.array([number, -number], np.float32), None), 1.0, 2.0, 3.0, 1)


def key(data: bytes) -> bytes:
    cache_key = ResponseCache(2**20).key("m:1", data)
    assert cache_key is not None
    return cache_key


def test_a_hit_is_what_was_kept_marked_and_without_its_times() -> None:
    cache = ResponseCache(2**20)
    assert cache.get("counted:1", key(b"a")) is None
    cache.keep(key(b"a"), answer(4.0))
    hit = cache.get("counted:1", key(b"a"))
    assert hit is not None and hit.cached and not answer(4.0).cached
    assert hit.value.logits.tolist() == [4.0, -4.0]
    assert (hit.queue_ms, hit.decode_ms, hit.infer_ms) == (0.0, 0.0, 0.0)
    counted = [
        REGISTRY.get_sample_value(
            "vitrine_cache_requests_total", {"model": "counted", "version": "1", "outcome": outcome}
        )
        for outcome in ("hit", "miss")
    ]
    assert counted == [1.0, 1.0]


def test_whatever_an_answer_depends_on_is_another_key() -> None:
    parameters = [
        None,
        ASK,
        replace(ASK, targets=(1,)),
        replace(ASK, targets=(1, 0)),
        replace(ASK, top=2),
        replace(ASK, method="layercam"),
        replace(ASK, output="map"),
        replace(ASK, alpha=0.25),
        replace(ASK, at_input_size=False),
        replace(ASK, threshold=0.5),
    ]
    cache = ResponseCache(2**20)
    keys = {cache.key(tag, data, chosen) for tag in ("m:1", "m:2") for data in (b"a", b"b") for chosen in parameters}
    assert len(keys) == 2 * 2 * len(parameters)
    assert cache.key("m:1", b"\0" * MAX_PICTURE_BYTES) is not None
    assert cache.key("m:1", b"\0" * (MAX_PICTURE_BYTES + 1)) is None
    assert NO_CACHE.key("m:1", b"a") is None


def test_the_least_recently_used_go_first_when_the_memory_is_spent() -> None:
    entry = ENTRY_OVERHEAD_BYTES + size_of(answer(0.0).value)
    cache = ResponseCache(3 * entry)
    for name in (b"a", b"b", b"c"):
        cache.keep(key(name), answer(1.0))
    assert cache.get("m:1", key(b"a")) is not None  # now b is the oldest
    cache.keep(key(b"d"), answer(1.0))
    kept = [name for name in (b"a", b"b", b"c", b"d") if cache.get("m:1", key(name)) is not None]
    assert kept == [b"a", b"c", b"d"]
    cache.keep(key(b"huge"), answer(1.0)._replace(value=ImageOutputs(np.zeros(10_000, np.float32), None)))
    assert cache.get("m:1", key(b"huge")) is None and cache.get("m:1", key(b"a")) is not None


@pytest.mark.parametrize("how", ["error", "cancelled"])
def test_what_is_no_answer_is_not_kept(how: str) -> None:
    cache, done = ResponseCache(2**20), Future[Answer[Any]]()
    if how == "error":
        done.set_exception(InvalidImage("damaged"))
    else:
        done.cancel()
    cache.keep_result(key(b"a"), done)
    assert cache.get("m:1", key(b"a")) is None


def test_a_row_of_a_large_batch_is_kept_without_its_batch_and_fits_where_its_own_size_does() -> None:
    batch = np.zeros((4, 10_000), np.float32)
    kept = answer(1.0)._replace(value=ImageOutputs(batch[1], None))
    cache = ResponseCache(batch[1].nbytes + 2 * ENTRY_OVERHEAD_BYTES)
    cache.keep(key(b"row"), kept)
    cached = cache.get("m:1", key(b"row"))
    assert cached is not None and cached.value.logits.base is None
    cache = ResponseCache(batch[1].nbytes)
    cache.keep(key(b"row"), kept)
    assert cache.get("m:1", key(b"row")) is None
