"""Counting what API keys use of their quotas, for the workers of one server or for all servers that share a Redis.

The counters are sliding windows: what was counted in the window before weighs by the share of it that lies within the
last minute, or day. So the memory is the same however much an item or a byte counts, a window never has more than the
quota, and there is no double burst where two windows meet.
"""

import math
from typing import TYPE_CHECKING, Literal, NamedTuple

from limits import RateLimitItem, RateLimitItemPerDay, RateLimitItemPerMinute
from limits.aio.storage import MemoryStorage, RedisStorage
from limits.aio.strategies import SlidingWindowCounterRateLimiter

from api.restrictions import Quota
from api.shared_counters import SharedCounters
from errors import RedisGone, Unavailable
from runners.metrics import metrics
from serving.startup import run_folder
from settings import Settings

if TYPE_CHECKING:
    from serving.shared_redis import SharedRedis

WithoutRedis = Literal["local", "open", "closed"]
PER: dict[Quota, type[RateLimitItem]] = {
    "requests": RateLimitItemPerMinute,
    "items": RateLimitItemPerMinute,
    "bytes": RateLimitItemPerDay,
}
MARGIN_S = 0.01
"""The clocks of two replicas, and of Redis, round to milliseconds."""
PREFIX = "vitrine-quota"
"""What the names of the counters in Redis begin with."""


class Window(NamedTuple):
    """What is counted of a quota.

    Attributes:
        previous: what was counted in the window before.
        previous_s: how long that counts, in seconds: until this window ends.
        current: what was counted in this window.
        current_s: how long that counts, in seconds: until the next window ends.
    """

    previous: int
    previous_s: float
    current: int
    current_s: float

    def used(self, window_s: int) -> int:
        """Return how much of the quota is used now, by the length of a window in seconds."""
        return math.floor(self.previous * self.previous_s / window_s) + self.current

    def seconds_until(self, cost: int, limit: int, window_s: int) -> int:
        """Return after how many whole seconds a cost that is refused now will be taken, if nothing else is counted.

        Args:
            cost: 1 to `limit`.
            limit: the quota.
            window_s: the length of a window, in seconds.
        """
        rest_s, room = self.current_s - window_s, limit - cost - self.current
        if room >= 0:  # as soon as enough of the window before is no longer counted
            seconds = self.previous_s - (room + 1) * window_s / max(1, self.previous)
        else:  # as soon as this window has ended, and enough of it is no longer counted
            seconds = rest_s + max(0.0, window_s - (limit - cost + 1) * window_s / self.current)
        return max(1, math.floor(seconds + MARGIN_S) + 1)


class Quotas:
    """Counts for all keys of one worker.

    Args:
        counters: those of this server.
        redis: those that several servers share; None where this one counts alone.
        without_redis: what happens while Redis does not answer: this server counts alone, requests pass, or none does.
    """

    def __init__(
        self, counters: MemoryStorage, redis: "SharedRedis | None" = None, without_redis: WithoutRedis = "local"
    ) -> None:
        self._own, self._redis, self._without_redis = SlidingWindowCounterRateLimiter(counters), redis, without_redis
        if redis is not None:
            storage = RedisStorage(
                "async+redis://",
                implementation="redispy",
                key_prefix=PREFIX,
                connection_pool=redis.pool,  # type: ignore[arg-type]
            )
            self._shared = SlidingWindowCounterRateLimiter(storage)
            redis.warm_with(lambda: _take(self._shared, RateLimitItemPerMinute(1), "", "warming", 1))

    @classmethod
    def of_settings(cls, settings: Settings, redis: "SharedRedis | None") -> "Quotas":
        """Return the quotas of one worker as the operator set them."""
        return cls(SharedCounters(run_folder() / "quotas"), redis, settings.quotas_without_redis)

    @property
    def timeout_s(self) -> float:
        """The longest that one request waits for Redis, in seconds."""
        return self._redis.timeout_s if self._redis is not None else 0.0

    async def take(
        self, key_name: str, quota: Quota, limit: int, cost: int, timeout_s: float
    ) -> tuple[bool, Window | None]:
        """Count all of a cost, or nothing where that would exceed the quota.

        Args:
            key_name: whose quota it is.
            quota: which one.
            limit: the most in a window.
            cost: how much is used of it.
            timeout_s: the longest to wait for Redis, in seconds.

        Returns:
            Whether it was counted, and what is counted now; None where requests pass while Redis does not answer.

        Raises:
            Unavailable: none passes while Redis does not answer.
        """
        item = PER[quota](limit)
        if self._redis is not None:
            try:
                return await self._redis.ask(lambda: _take(self._shared, item, key_name, quota, cost), timeout_s)
            except RedisGone:
                metrics().without_redis.labels(self._without_redis).inc()
                if self._without_redis == "open":
                    return True, None
                if self._without_redis == "closed":
                    raise Unavailable("Quotas cannot be counted just now. Send the request again later.") from None
        return await _take(self._own, item, key_name, quota, cost)


async def _take(
    limiter: SlidingWindowCounterRateLimiter, item: RateLimitItem, key_name: str, quota: str, cost: int
) -> tuple[bool, Window]:
    """Count all of a cost or nothing, in one step that no other process can come between; then look at the counters."""
    taken = await limiter.hit(item, key_name, quota, cost=cost)
    storage: MemoryStorage | RedisStorage = limiter.storage  # type: ignore[assignment]
    return taken, Window(*await storage.get_sliding_window(item.key_for(key_name, quota), item.get_expiry()))
