"""A backend that hangs, gives NaN or raises: the next request is answered all the same."""

import asyncio
import json
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from starlette.requests import Request

from api.metadata import MetadataRoutes
from errors import DeadlineExceeded, InferenceFailed, Unavailable
from serving.gradcam.client import ExplainerClient
from serving.loaded_model import LoadedModel
from serving.options import RunnerOptions
from serving.repository import MOST_STUCK, ModelRepository
from tests.live.server import wait_until
from tests.tiny import logits_of_plain, plain, seal, tiny_package


class Hanging:
    """The `infer` of a pipeline, which does not come back once `next_hangs` is set, until `released` is."""

    def __init__(self, infer: Callable[[Sequence[Any]], Sequence[Any]]) -> None:
        self._infer = infer
        self.next_hangs, self.entered, self.released = threading.Event(), threading.Event(), threading.Event()

    def __call__(self, batch: Sequence[Any]) -> Sequence[Any]:
        if self.next_hangs.is_set():
            self.next_hangs.clear()
            self.entered.set()
            assert self.released.wait(60)
        return self._infer(batch)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[ModelRepository]:
    repository = ModelRepository([seal(tiny_package(tmp_path))], RunnerOptions(timeout_ms=200), default="tiny")
    repository.start()
    repository.wait_loaded(60)
    yield repository
    repository.close(10)


@pytest.fixture
def hanging(served: ModelRepository) -> Iterator[Hanging]:
    loaded = served.get()._loaded
    assert loaded is not None
    infer = Hanging(loaded.pipeline.infer)
    loaded.pipeline.infer = infer  # type: ignore[method-assign]
    yield infer
    infer.released.set()


def hang(model: LoadedModel, infer: Hanging) -> None:
    """Send a request that hangs, and return once it does."""
    infer.entered.clear()
    infer.next_hangs.set()
    model.submit(plain(13), time.monotonic() + 0.5)
    assert infer.entered.wait(60)


def assert_answers(model: LoadedModel) -> None:
    answer = model.submit(plain(100), time.monotonic() + 60).result(60)
    assert np.allclose(answer.value.logits, logits_of_plain(100), atol=1e-5)


def health(served: ModelRepository, explainer: ExplainerClient | None = None) -> dict[str, Any]:
    response = asyncio.run(MetadataRoutes(served, explainer, {}, "0").health(Request({"type": "http"})))
    body: dict[str, Any] = json.loads(bytes(response.body))
    return body


def test_lanes_take_over_from_one_that_hangs_and_health_says_so_until_it_returns(
    served: ModelRepository, hanging: Hanging
) -> None:
    model = served.get()
    assert_answers(model)
    served.replace_stuck_lanes()
    assert not model.stuck_reason
    hang(model, hanging)
    waits = model.submit(plain(1), time.monotonic() + 0.5)
    wait_until(lambda: model.replace_stuck_lanes() == 1)
    assert_answers(model)
    assert model.replace_stuck_lanes() == 1 and model.state == "ready" and served.ready
    degraded = health(served)
    assert degraded["status"] == "degraded" and "tiny:" in degraded["detail"] and "hung" in degraded["detail"]
    hanging.released.set()
    wait_until(lambda: not model.stuck_reason)
    assert health(served)["status"] == "healthy"
    assert isinstance(waits.exception(60), DeadlineExceeded | Unavailable | None)  # it does not wait for ever
    stats = model.stats()
    assert stats is not None and stats.succeeded >= 2


def test_a_lane_that_hangs_in_the_grad_cam_process_is_in_health_too(served: ModelRepository, hanging: Hanging) -> None:
    explainer = ExplainerClient(1000)
    model = served.get()
    explainer.status = {model.tag: {"state": model.state, "detail": model.stuck_reason}}
    assert health(served, explainer)["status"] == "healthy"
    hang(model, hanging)
    wait_until(lambda: model.replace_stuck_lanes() == 1)
    explainer.status = {model.tag: {"state": model.state, "detail": model.stuck_reason}}
    hanging.released.set()
    wait_until(lambda: not model.stuck_reason)
    degraded = health(served, explainer)
    assert degraded["status"] == "degraded" and f"explanations of {model.tag}: a lane" in degraded["detail"]


def test_a_model_that_hangs_again_and_again_ends_the_process(served: ModelRepository, hanging: Hanging) -> None:
    model, signals = served.get(), list[int]()
    before = signal.signal(signal.SIGTERM, lambda number, frame: signals.append(number))
    try:
        for times in range(1, MOST_STUCK + 2):
            assert not signals
            hang(model, hanging)
            while model.lanes is None or model.lanes.times_replaced < times:
                served.replace_stuck_lanes()
                time.sleep(0.02)
        assert signals[0] == signal.SIGTERM
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize("fault", ["raises", "gives NaN"])
def test_a_backend_that_raises_or_gives_nan_fails_that_request_alone(served: ModelRepository, fault: str) -> None:
    model = served.get()
    loaded = model._loaded
    assert loaded is not None
    backend = loaded.pipeline._images._backend  # type: ignore[attr-defined]
    run, faults = backend.run, [fault]

    def faulty(batch: Any) -> Any:
        if not faults:
            return run(batch)
        if faults.pop() == "raises":
            raise RuntimeError("the backend's fault")
        outputs = run(batch)
        return outputs._replace(logits=outputs.logits * np.nan)

    backend.run = faulty
    with pytest.raises(InferenceFailed):
        model.submit(plain(7)).result(60)
    assert_answers(model)
    assert model.state == "ready"
