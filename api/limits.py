"""What happens to clients that hold on to the server: the log and the metrics note it, and time is kept for it."""

import asyncio
import logging
import math
import time
from collections import Counter
from collections.abc import Callable

from runners.metrics import metrics

logger = logging.getLogger("vitrine.limits")

LOG_INTERVAL_S = 60.0
"""The log names a limit at most once in this time, in seconds; the metrics count every time."""
TICK_S = 0.25
"""The deadlines of connections and bodies are looked at this often, in seconds."""
LEAST_BYTES_PER_S = 1024
"""A client that sends a body, or takes an answer, more slowly is cut off."""


class ReachedLimits:
    """Notes which limits clients reach."""

    def __init__(self) -> None:
        self._unlogged = Counter[str]()
        self._logged_at = dict[str, float]()

    def note(self, limit: str, message: str) -> None:
        """Count that a limit was reached, and log the message unless that limit was logged in the last minute.

        Args:
            limit: the limit's name in the metrics.
            message: one sentence for the operator.
        """
        metrics().limits.labels(limit).inc()
        now = time.monotonic()
        if now < self._logged_at.get(limit, -math.inf) + LOG_INTERVAL_S:
            self._unlogged[limit] += 1
            return
        self._logged_at[limit] = now
        earlier = self._unlogged.pop(limit, 0)
        logger.warning("%s%s", message, f" {earlier:,} times more since this was logged last." if earlier else "")


def ticks(seconds: float) -> int:
    """Return how many times deadlines are looked at within so many seconds, at least once."""
    return max(1, math.ceil(seconds / TICK_S))


async def tick(*sweeps: Callable[[], None]) -> None:
    """Call every function again and again until cancelled.

    Deadlines are counted in these calls rather than in seconds, so that a process that stood still for a while does
    not take it for its clients' slowness.
    """
    while True:
        await asyncio.sleep(TICK_S)
        for sweep in sweeps:
            try:
                sweep()
            except Exception:
                logger.exception("the deadlines of clients could not be looked at")
