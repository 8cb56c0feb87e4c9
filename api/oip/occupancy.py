"""How many connections gRPC has, for the log and the metrics: it refuses those beyond its limit without a word."""

import asyncio
import contextlib
import os
import socket
import stat

from api.limits import ReachedLimits

CHECK_S = 5.0
"""How often the connections are counted, in seconds; for 10,000 of them it takes a thread some tens of milliseconds."""


async def watch_occupancy(port: int, most: int, limits: ReachedLimits) -> None:
    """Note again and again, until cancelled, that a port has as many connections as it may have.

    Args:
        port: where this process listens.
        most: the most connections at a time.
        limits: notes it, under `grpc_connections`.
    """
    while True:
        await asyncio.sleep(CHECK_S)
        if await asyncio.to_thread(count_connections, port) >= most:
            limits.note(
                "grpc_connections",
                f"gRPC has {most:,} connections, the most that VITRINE_MAX_CONNECTIONS allows a process: new ones are "
                "refused, those that ask for health too, until others end.",
            )


def count_connections(port: int) -> int:
    """Return how many clients this process is connected to on a port of its own."""
    count = 0
    for name in os.listdir("/dev/fd"):
        with contextlib.suppress(OSError):  # it has been closed, or listens and has no peer
            descriptor = int(name)
            if stat.S_ISSOCK(os.fstat(descriptor).st_mode):
                with socket.socket(fileno=os.dup(descriptor)) as connection:
                    is_tcp = connection.family in (socket.AF_INET, socket.AF_INET6)
                    count += is_tcp and connection.getsockname()[1] == port and bool(connection.getpeername())
    return count
