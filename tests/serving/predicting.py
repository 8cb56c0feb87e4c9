"""What tests of the predictor share: a loaded model, deadlines, and an event loop."""

import asyncio
import time
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from runners.cores import CoreShare
from serving.cache import NO_CACHE, ResponseCache
from serving.loaded_model import LoadedModel
from serving.loading import PREDICTION
from serving.options import RunnerOptions
from serving.predictions import PredictionParameters

Result = TypeVar("Result")
PLAIN = PredictionParameters()
WITH_HEATMAP = PredictionParameters(with_heatmap=True)
OPTIONS = RunnerOptions()


def run(work: Coroutine[Any, Any, Result]) -> Result:
    return asyncio.run(asyncio.wait_for(work, 60))


def soon(seconds: float = 30.0) -> float:
    return time.monotonic() + seconds


@contextmanager
def loaded(stored: Any, options: RunnerOptions = OPTIONS, cache: ResponseCache = NO_CACHE) -> Iterator[LoadedModel]:
    """Load a model until the block ends."""
    model = LoadedModel(stored.card, stored, PREDICTION, cache=cache)
    model.load(options, CoreShare(2))
    assert model.state == "ready", model.detail
    yield model
    assert model.close(20)
