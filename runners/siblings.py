"""The worker processes of one service tell each other how they are, so that any of them answers for all."""

import asyncio
import contextlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

PATIENCE_S = 0.5
"""How long a worker waits for the others' news; one that is slower is left out."""


class Siblings:
    """This worker's socket in the folder they share, and calls to those of the others.

    Args:
        folder: made by the supervisor, for the workers of one service alone.
        news: what this worker tells; JSON objects.
    """

    def __init__(self, folder: Path, news: Callable[[], dict[str, Any]]) -> None:
        self._folder, self._news = folder, news
        self._own = folder / f"{os.getpid()}.sock"
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Begin telling."""
        self._server = await asyncio.start_unix_server(self._tell, self._own)

    async def stop(self) -> None:
        """Stop telling."""
        if self._server is not None:
            self._server.close()
            self._own.unlink(missing_ok=True)

    async def ask(self) -> list[dict[str, Any]]:
        """The news of every other worker that answers in time."""
        others = [path for path in self._folder.glob("*.sock") if path != self._own]
        answers = await asyncio.gather(*(self._read(path) for path in others))
        return [answer for answer in answers if answer is not None]

    async def _tell(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            writer.write(json.dumps(self._news()).encode())
            await writer.drain()
            writer.close()

    async def _read(self, path: Path) -> dict[str, Any] | None:
        with contextlib.suppress(OSError, TimeoutError, ValueError):
            async with asyncio.timeout(PATIENCE_S):
                try:
                    reader, writer = await asyncio.open_unix_connection(path)
                except ConnectionRefusedError:  # its worker died
                    path.unlink(missing_ok=True)
                    return None
                try:
                    news: dict[str, Any] = json.loads(await reader.read())
                    return news
                finally:
                    writer.close()
        return None
