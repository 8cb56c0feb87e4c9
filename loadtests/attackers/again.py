"""What the attackers share: clients that come back whenever the server gets rid of them."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

Client = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
"""What one client does with its connection; it may return, or fail with an OSError, whenever it likes."""
PAUSE_S = 0.1
"""How long a client waits before it connects again, in seconds."""


async def connect_again_and_again(host: str, port: int, clients: int, client: Client) -> None:
    """Run so many clients at a time until this coroutine is cancelled; each connects again when it is cut off."""
    async with asyncio.TaskGroup() as group:
        for _ in range(clients):
            group.create_task(_one(host, port, client))


async def _one(host: str, port: int, client: Client) -> None:
    while True:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            reader, writer = await asyncio.open_connection(host, port)
            try:
                await client(reader, writer)
            finally:
                writer.transport.abort()
        await asyncio.sleep(PAUSE_S)
