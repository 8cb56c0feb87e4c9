"""The worker processes of one service tell each other their state, so that any of them answers for all."""

import asyncio
import contextlib
import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

logger = logging.getLogger("vitrine.models")

NEWS_TIMEOUT_S = 0.5
"""How long a worker waits for the others' news, in seconds; of one that is slower the last news will do."""


class Workers:
    """This worker's socket in the folder that all workers share, and calls to the sockets of the others.

    Args:
        folder: made by the supervisor, for the workers of one service alone.
        news: returns what this worker tells, as a JSON object.
        name: the name of this worker's socket; by default its process id.
    """

    def __init__(self, folder: Path, news: Callable[[], dict[str, Any]], name: str = "") -> None:
        self._folder, self._news = folder, news
        self._own_path = folder / f"{name or os.getpid()}.sock"
        self._server: asyncio.Server | None = None
        self._last_news = dict[Path, dict[str, Any]]()

    async def start(self) -> None:
        """Begin to tell the others; where the folder's path is too long for a socket, the log says so."""
        # A socket that nobody listens to yet would be taken for a dead worker's, so it gets its name only then.
        unnamed = self._own_path.with_suffix(".part")
        try:
            self._server = await asyncio.start_unix_server(self._tell, unnamed)
            unnamed.rename(self._own_path)
        except OSError as error:
            logger.error("this worker tells the others nothing: %s", error)

    async def stop(self) -> None:
        """Tell nothing from now on."""
        if self._server is not None:
            self._server.close()
            self._own_path.unlink(missing_ok=True)

    async def ask(self, timeout_s: float = NEWS_TIMEOUT_S) -> list[dict[str, Any]]:
        """Return the news of every other worker; of one that does not answer in time, the last that is known."""
        try:
            others = [path for path in self._folder.glob("*.sock") if path != self._own_path]
        except OSError:  # the process has no file descriptors left just now
            return list(self._last_news.values())
        await asyncio.gather(*(self._read(path, timeout_s) for path in others))
        self._last_news = {path: news for path, news in self._last_news.items() if path in others and path.exists()}
        return list(self._last_news.values())

    async def _tell(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            writer.write(json.dumps(self._news()).encode())
            await writer.drain()
            writer.close()

    async def _read(self, path: Path, timeout_s: float) -> None:
        with contextlib.suppress(OSError, TimeoutError, ValueError):
            async with asyncio.timeout(timeout_s):
                try:
                    reader, writer = await asyncio.open_unix_connection(path)
                except ConnectionRefusedError:  # its worker died
                    path.unlink(missing_ok=True)
                    return
                try:
                    self._last_news[path] = json.loads(await reader.read())
                finally:
                    writer.close()
