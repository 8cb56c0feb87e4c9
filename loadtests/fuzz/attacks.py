"""The hostile clients of `make fuzz`, two of each kind; another kind is another line of `KINDS`."""

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from multiprocessing.synchronize import Event
from typing import Any

import numpy as np

from loadtests.attackers.endless_headers import send_headers_without_end
from loadtests.attackers.pictures import send_pictures
from loadtests.attackers.silent_connections import stay_silent
from loadtests.attackers.slow_uploads import upload_slowly
from loadtests.fuzz import hostile
from loadtests.fuzz.files import as_png, encode

CLIENTS = 2
Attack = Callable[..., Coroutine[Any, Any, None]]
"""Attacks `host` and `port` with so many `clients` until it is cancelled."""


def _sending(make: Callable[[], bytes], path: str = "/predict") -> Callable[[], Attack]:
    """Return what makes the attack of sending one picture; the picture is made when the attack begins."""
    return lambda: partial(send_pictures, body=make(), path=path)


def _flat(side: int) -> "np.ndarray[Any, np.dtype[np.uint8]]":
    return np.full((side, side, 3), 120, np.uint8)


KINDS: dict[str, Callable[[], Attack]] = {
    "uploads of a byte at a time": lambda: upload_slowly,
    "headers without an end": lambda: send_headers_without_end,
    "silent connections": lambda: stay_silent,
    "JPEG of 49 megapixels in 7,000 scans": _sending(lambda: hostile.jpeg_of_scans(7000, 7000, 7000)),
    "JPEG of 49 megapixels in 90 scans": _sending(lambda: hostile.jpeg_of_scans(7000, 7000, 89)),
    "BMP of 15 million runs": _sending(hostile.slow_bmp),
    "PNG of 2.5 million texts": _sending(lambda: hostile.png_of_texts(2_500_000)),
    "PNG whose profile inflates to 1 GB": _sending(lambda: hostile.png_of_profile(10**9)),
    "GIF of 5 million comment blocks": _sending(lambda: hostile.gif_of_comments(5_000_000)),
    "TIFF of one tile of 32768 x 32768": _sending(lambda: hostile.tiff_of_tile(100, 100, 32768)),
    "PNG of 49 megapixels": _sending(lambda: as_png(_flat(7000))),
    "lossless WebP of 49 megapixels": _sending(lambda: encode(_flat(7000), "WEBP", lossless=True, method=0)),
    "PNG of 16 megapixels to /explain": _sending(lambda: as_png(_flat(4000)), "/explain"),
    "noise of 7 megapixels to /explain": _sending(
        lambda: encode(np.random.default_rng(0).integers(0, 256, (2700, 2700, 3)).astype(np.uint8), "JPEG"), "/explain"
    ),
}
"""By what it does: makes the attack, in the process that attacks."""


def run_attacks(port: int, ready: Event) -> None:
    """Attack a server on this machine with `CLIENTS` of each kind for ever; sets `ready` once all attacks are made."""

    async def attack_with_all() -> None:
        attacks = [make() for make in KINDS.values()]
        ready.set()
        await asyncio.gather(*(attack("127.0.0.1", port, clients=CLIENTS) for attack in attacks))

    asyncio.run(attack_with_all())
