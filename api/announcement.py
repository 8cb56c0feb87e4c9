"""The line of log which says that everything is ready, and where; or what keeps it from being so."""

import asyncio
import hashlib
import logging
import sys
import time
from collections.abc import Mapping
from contextlib import closing
from os import dup
from pathlib import Path
from socket import socket

from serving.gradcam.client import ExplainerClient
from serving.logs import FIELDS
from serving.repository import ModelRepository
from serving.startup import seconds_since_start
from settings import Settings

logger = logging.getLogger("vitrine")

LOOK_S, LOOK_RARELY_S = 0.25, 2.0
"""How often a worker looks whether everything is ready, and how often once it has said why it is not, in seconds."""
EXPLANATIONS_S = 60.0
"""How long the line waits for explanations once predictions are ready, in seconds."""


class Announcement:
    """Says once for all workers of a server that it is ready, or why it is not.

    Args:
        repository: the models.
        explainer: calls the Grad-CAM process; None where explanations are switched off.
        settings: what the operator set.
        version: Vitrine's own.
        folder: shared by the server's processes, in which the one that says something notes that it has been said.
    """

    def __init__(
        self,
        repository: ModelRepository,
        explainer: ExplainerClient | None,
        settings: Settings,
        version: str,
        folder: Path,
    ) -> None:
        self._repository, self._explainer, self._settings = repository, explainer, settings
        self._version, self._folder = version, folder

    async def make(self, addresses: Mapping[str, str]) -> None:
        """Look until the server is ready and that has been said.

        Args:
            addresses: where the server answers, by the name of what answers there.
        """
        pause_s, ready_since = LOOK_S, None
        while not self._repository.closing:
            await self._repository.refresh(max_age_s=LOOK_S)
            if self._repository.ready:
                ready_since = ready_since or time.monotonic()
                if self._explanations_settled() or time.monotonic() > ready_since + EXPLANATIONS_S:
                    if self._is_first("ready"):
                        self._tell_ready(addresses)
                    return
            elif reasons := self._reasons():
                if self._is_first(f"not-ready-{hashlib.sha256(reasons.encode()).hexdigest()[:16]}"):
                    logger.error("Vitrine is not ready: %s", reasons)
                pause_s = LOOK_RARELY_S
            await asyncio.sleep(pause_s)

    def _reasons(self) -> str:
        """Return what keeps the server from being ready, but for what it is at work on; empty for nothing more."""
        repository, default = self._repository, self._repository.models.get(self._repository.default)
        is_gone = default is not None and default.state in ("missing", "failed")
        of_default = [f"{default.name}: {default.detail}."] if default is not None and is_gone else []
        absences = [] if repository.candidates else repository.absences()  # one of these may be what is absent
        return " ".join([*repository.lock_problems, *of_default, *absences])

    def _explanations_settled(self) -> bool:
        if self._explainer is None:
            return True
        explained = [model.tag for model in self._repository.every if model.state == "ready" and model.has_gradient]
        states = [self._explainer.status.get(tag, {}).get("state", "loading") for tag in explained]
        return not self._explainer.unavailable_reason and not {"loading", "checking"} & set(states)

    def _is_first(self, what: str) -> bool:
        """Return whether no worker has said this yet."""
        try:
            with (self._folder / what).open("x"):
                return True
        except FileExistsError:
            return False
        except OSError:  # twice is better than never
            return True

    def _tell_ready(self, addresses: Mapping[str, str]) -> None:
        models = self._repository.models
        served = [model.tag for model in self._repository.every if model.state == "ready"]
        others = {name: f"{model.state}: {model.detail}" for name, model in models.items() if model.state != "ready"}
        explanations = "switched off" if self._explainer is None else self._explainer.unavailable_reason or "ready"
        seconds = round(seconds_since_start(), 1)
        for name, problem in {**self._repository.invalid, **self._repository.unreadable}.items():
            logger.error("%s is not served: %s", name, problem)
        logger.info(
            "Vitrine %s is ready after %s s, profile %s: %s; models %s; explanations %s%s",
            self._version,
            seconds,
            self._settings.profile,
            ", ".join(f"{name} {address}" for name, address in addresses.items()),
            ", ".join(f"{tag} (default)" if tag == models[self._repository.default].tag else tag for tag in served),
            explanations,
            f"; not served: {', '.join(sorted(others))}" if others else "",
            extra={
                FIELDS: {
                    "seconds": seconds,
                    "profile": self._settings.profile,
                    "addresses": dict(addresses),
                    "models": served,
                    "not_served": others,
                    "explanations": explanations,
                }
            },
        )


def http_address(settings: Settings) -> str:
    """Return the URL that this worker answers, of the socket that its supervisor gave it."""
    host, port = settings.host, settings.port
    if "--fd" in sys.argv:
        with closing(socket(fileno=dup(int(sys.argv[sys.argv.index("--fd") + 1])))) as listening:
            host, port = listening.getsockname()[:2]
    scheme = "https" if "--ssl-certfile" in sys.argv else "http"
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"
