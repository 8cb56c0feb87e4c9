"""One chunk of what an explanation has a model compute, behind the predictions that clients wait for."""

import asyncio
import time
from typing import Any

from errors import QueueFull
from runners.awaiting import awaitable
from runners.runner import Answer
from serving.loaded_model import LoadedModel

RETRY_S = 0.2
"""How long a chunk waits before it asks a full queue for room again, in seconds."""


async def evaluate(model: LoadedModel, payload: Any, deadline: float) -> Answer[Any]:
    """Have a model compute one chunk; while its queue is full, wait for room, since earlier chunks would be lost.

    Args:
        model: the model.
        payload: the chunk, as the model's pipeline takes it.
        deadline: a value of `time.monotonic()`.

    Raises:
        QueueFull: there was no room before the deadline.
        VitrineError: the Runner's own, as of `LoadedModel.submit`.
    """
    while True:
        try:
            return await awaitable(model.submit(payload, deadline))
        except QueueFull:
            if time.monotonic() + RETRY_S >= deadline:
                raise
        await asyncio.sleep(RETRY_S)
