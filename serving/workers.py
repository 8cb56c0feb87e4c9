"""The worker processes of one service tell each other how they are, so that any of them answers for all."""

import asyncio
import contextlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

PATIENCE_S = 0.5
"""How long a worker waits for the others' news; of one that is slower the last will do."""


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
        self._heard = dict[Path, dict[str, Any]]()

    async def start(self) -> None:
        """Begin telling; OSError if the folder's path is too long for a socket."""
        part = self._own.with_suffix(".part")  # one that is not listened to yet would be taken for a dead worker's
        self._server = await asyncio.start_unix_server(self._tell, part)
        part.rename(self._own)

    async def stop(self) -> None:
        """Stop telling."""
        if self._server is not None:
            self._server.close()
            self._own.unlink(missing_ok=True)

    async def ask(self, patience_s: float = PATIENCE_S) -> list[dict[str, Any]]:
        """The news of every other worker; the last that was heard of one that does not answer in time."""
        try:
            others = [path for path in self._folder.glob("*.sock") if path != self._own]
        except OSError:  # no file descriptors just now
            return list(self._heard.values())
        await asyncio.gather(*(self._read(path, patience_s) for path in others))
        self._heard = {path: news for path, news in self._heard.items() if path in others and path.exists()}
        return list(self._heard.values())

    async def _tell(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            writer.write(json.dumps(self._news()).encode())
            await writer.drain()
            writer.close()

    async def _read(self, path: Path, patience_s: float) -> None:
        with contextlib.suppress(OSError, TimeoutError, ValueError):
            async with asyncio.timeout(patience_s):
                try:
                    reader, writer = await asyncio.open_unix_connection(path)
                except ConnectionRefusedError:  # its worker died
                    path.unlink(missing_ok=True)
                    return
                try:
                    self._heard[path] = json.loads(await reader.read())
                finally:
                    writer.close()
