"""Pictures that cost far more than they are worth, sent again and again."""

import asyncio
import contextlib

PAUSE_S = 0.05
"""How long a client waits after an answer, or before it connects again, in seconds."""


async def send_pictures(host: str, port: int, *, body: bytes, path: str = "/predict", clients: int = 2) -> None:
    """Send one picture from so many clients until cancelled; each waits for its answer, whatever that is."""
    request = f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"

    async def send() -> None:
        while True:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                reader, writer = await asyncio.open_connection(host, port)
                try:
                    writer.write(request.encode() + body)
                    await reader.read()
                finally:
                    writer.transport.abort()
            await asyncio.sleep(PAUSE_S)

    async with asyncio.TaskGroup() as group:
        for _ in range(clients):
            group.create_task(send())
