"""The Grad-CAM process inside the test's own process, behind the real client and over the real wire format."""

import asyncio
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any
from unittest.mock import patch

from models.package import StoredModel
from serving.cache import NO_CACHE, ResponseCache
from serving.gradcam import client
from serving.gradcam.client import ExplainerClient
from serving.gradcam.process import ExplanationProcess
from serving.gradcam.wire import ExplanationRequest
from serving.options import RunnerOptions


class LocalGradCam:
    """Calls an `ExplanationProcess` directly, where a server calls it through BentoML.

    Attributes:
        process: the models that are explained.
        calls: the number of calls to `explain`.
        failure: raised by every call in place of an answer; None for answers.
    """

    def __init__(self, stored: Sequence[StoredModel]) -> None:
        self.process = ExplanationProcess(stored, RunnerOptions())
        self.calls = 0
        self.failure: Exception | None = None

    async def explain(
        self, tag: str, requests: Sequence[ExplanationRequest], seconds: float, call: str, client: str
    ) -> dict[str, Any]:
        self.calls += 1
        if self.failure is not None:
            raise self.failure
        return await self.process.explain(tag, [asdict(request) for request in requests], seconds, call, client)

    async def cancel(self, call: str) -> None:
        self.process.cancel(call)

    async def status(self, tags: Sequence[str] | None) -> dict[str, Any]:
        return self.process.status(tags)


def tell_state(explainer: ExplainerClient, process: LocalGradCam) -> None:
    """Let the client ask the process for its state once, as it does twice a second in a server."""
    asked = iter((False, True))
    with patch.object(client, "HEARTBEAT_S", 0.0):
        asyncio.run(explainer.watch(process, lambda: next(asked)))


@contextmanager
def local_gradcam(
    *stored: StoredModel, timeout_ms: float = 30_000, cache: ResponseCache = NO_CACHE
) -> Iterator[tuple[ExplainerClient, LocalGradCam]]:
    """Load models for explanations until the block ends; gives the client, which knows their state, and the process."""
    process, explainer = LocalGradCam(stored), ExplainerClient(timeout_ms, cache)
    with patch.object(os, "nice"):  # the tests go on at their own priority
        process.process.start()
    deadline = time.monotonic() + 60
    while not process.process.settled():
        assert time.monotonic() < deadline, process.process.status()
        time.sleep(0.005)
    tell_state(explainer, process)
    try:
        yield explainer, process
    finally:
        asyncio.run(process.process.stop(20))
