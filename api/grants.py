"""What the key of the request under way may do, and how much of its quotas is left; for HTTP and gRPC alike."""

import contextvars
import math
import time
from typing import TYPE_CHECKING

from starlette.types import Message, Receive

from api.restrictions import WINDOW_S, Action, Quota, Restrictions
from errors import InvalidInput, QuotaReached, TooLarge
from runners.metrics import metrics

if TYPE_CHECKING:
    from api.quotas import Quotas  # whose library takes a tenth of a second to import

MOST_LABELS = 100
"""So many keys have series of their own in the metrics; refusals of further ones are counted under `others`."""
_UNITS = {"requests": "", "items": "", "bytes": ';qu="content-bytes"'}
_labels = set[str]()


class Grant:
    """One request of a key that is restricted.

    Args:
        key_name: whose key it is.
        restrictions: its scope and its quotas.
        quotas: counts.
    """

    def __init__(self, key_name: str, restrictions: Restrictions, quotas: "Quotas") -> None:
        self._key_name, self._restrictions, self._quotas = key_name, restrictions, quotas
        self._limits: dict[Quota, int | None] = {
            "requests": restrictions.requests_per_minute,
            "items": restrictions.items_per_minute,
            "bytes": restrictions.bytes_per_day,
        }
        self._left = dict[Quota, tuple[int, int]]()
        """What is left of a quota that was charged, and for how many seconds."""
        self._waiting_s = quotas.timeout_s

    def check_scope(self, model: str, action: Action | None = None) -> None:
        """Return if the key may do this; NotAllowed says what it may."""
        self._restrictions.check_scope(self._key_name, model, action)

    async def charge_request(self, size: int = 0) -> None:
        """Charge one request, and as many bytes as its body is known to have.

        Raises:
            QuotaReached: a quota is used up.
            TooLarge: the body has more bytes than the key may send in a day.
            Unavailable: Redis does not answer, and the operator lets no request pass then.
        """
        self._waiting_s = self._quotas.timeout_s
        await self._charge("requests", 1)
        await self._charge("bytes", size)

    async def charge_bytes(self, size: int) -> None:
        """Charge bytes of the request's body; errors are those of `charge_request`."""
        await self._charge("bytes", size)

    async def charge_items(self, count: int) -> None:
        """Charge the pictures or rows of the request, before any is decoded; errors are those of `charge_request`."""
        await self._charge("items", count)

    def metered(self, receive: Receive) -> Receive:
        """Return ASGI's `receive` for a body of unknown length, which charges the bytes as they come."""

        async def receive_metered() -> Message:
            message = await receive()
            await self._charge("bytes", len(message.get("body", b"")))
            return message

        return receive_metered if self._limits["bytes"] is not None else receive

    def headers(self) -> list[tuple[bytes, bytes]]:
        """Return the `RateLimit` fields of the answer: the quotas that the key has, and what is left of those charged.

        Source: draft-ietf-httpapi-ratelimit-headers-10.
        """
        policies = [
            f'"{quota}";q={limit};w={WINDOW_S[quota]}{_UNITS[quota]}'
            for quota, limit in self._limits.items()
            if limit is not None
        ]
        fields = [(b"ratelimit-policy", ", ".join(policies).encode())] if policies else []
        left = [f'"{quota}";r={count};t={seconds}' for quota, (count, seconds) in self._left.items()]
        return [*fields, (b"ratelimit", ", ".join(left).encode())] if left else fields

    async def _charge(self, quota: Quota, cost: int) -> None:
        limit = self._limits[quota]
        if limit is None or not cost:
            return
        if cost > limit:
            raise _never(quota, limit, cost)
        began = time.monotonic()
        taken, window = await self._quotas.take(self._key_name, quota, limit, cost, max(0.0, self._waiting_s))
        self._waiting_s -= time.monotonic() - began
        if window is None:
            return
        seconds = WINDOW_S[quota]
        left = max(0, limit - window.used(seconds))
        if taken:
            self._left[quota] = left, math.ceil(window.current_s - seconds)
            return
        retry_after_s = window.seconds_until(cost, limit, seconds)
        self._left[quota] = left, retry_after_s
        metrics().quota_refusals.labels(_label(self._key_name), quota).inc()
        per = "day" if quota == "bytes" else "minute"
        raise QuotaReached(
            f"The key {self._key_name!r} may send {limit:,} {quota} a {per}; {left:,} are left, this takes {cost:,}. "
            f"Send it again in {retry_after_s:,} seconds.",
            retry_after_s,
            quota,
        )


GRANT: contextvars.ContextVar[Grant | None] = contextvars.ContextVar("grant", default=None)
"""That of the request or call which the current task answers; None for a key that is not restricted, and for none."""


def check_scope(model: str, action: Action | None = None) -> None:
    """Return if the key of the request under way may do this with a model.

    Raises:
        NotAllowed: the key may not; the message says what it may.
    """
    if (grant := GRANT.get()) is not None:
        grant.check_scope(model, action)


async def charge_items(count: int) -> None:
    """Charge the pictures or rows of the request under way to its key, as `Grant.charge_items`."""
    if (grant := GRANT.get()) is not None:
        await grant.charge_items(count)


async def charge_bytes(size: int) -> None:
    """Charge the bytes of the call under way, whose message has come, to its key, as `Grant.charge_bytes`."""
    if (grant := GRANT.get()) is not None:
        await grant.charge_bytes(size)


def _label(key_name: str) -> str:
    """Return the name of a key as a metric's label."""
    if len(_labels) < MOST_LABELS:
        _labels.add(key_name)
    return key_name if key_name in _labels else "others"


def _never(quota: Quota, limit: int, cost: int) -> InvalidInput:
    """Return the error of a request that would be refused however long its client waited."""
    if quota == "bytes":
        return TooLarge(f"The body has {cost:,} bytes; this key may send {limit:,} a day. Send less at a time.")
    return InvalidInput(
        f"There are {cost:,} pictures or rows; this key may send {limit:,} a minute. Send fewer at a time."
    )
