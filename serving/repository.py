"""The models that are served: loaded in the background, checked against their goldens, then answering."""

import asyncio
import gc
import logging
import math
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cv2

from errors import NotFound
from models.card import Card
from models.package import StoredModel
from runners.plan import CoreShare
from runners.stats import stats_from
from serving.cache import NO_CACHE, ResponseCache
from serving.loaded_model import RunnerOptions, ServedModel
from serving.workers import Siblings

logger = logging.getLogger("vitrine.models")

REPLACEMENT_S = 120.0
"""Longest that a worker in place of a dead one keeps from taking requests."""
PATIENT_S = 5.0
"""How long a worker that starts waits for the others' news."""


class ServedModels:
    """Every model of this process.

    Args:
        stored: the versions to serve; the first of a name is the one that the name alone means.
        missing: cards of bundled models that are not installed, each with why it is not there, and what to do.
        default: name of the model behind the routes that name none.
        options: for every Runner.
        cache: answers that were given before.
    """

    def __init__(
        self,
        stored: Iterable[StoredModel],
        missing: Mapping[str, tuple[Card, str]],
        default: str,
        options: RunnerOptions,
        cache: ResponseCache = NO_CACHE,
    ) -> None:
        self.default, self._options = default, options
        self.models = dict[str, ServedModel]()
        self.versions = dict[str, dict[str, ServedModel]]()
        for each in stored:
            model = ServedModel(each.card, each, cache=cache)
            self.models.setdefault(model.name, model)
            self.versions.setdefault(model.name, {})[each.version] = model
        for name, (card, why) in missing.items():
            self.models.setdefault(name, ServedModel(card, None, why))
        self._loader = threading.Thread(target=self._load, name="load-models", daemon=True)
        self._closing = False
        self._siblings: Siblings | None = None
        self._others_ready = True
        self._asking, self._heard_at = asyncio.Lock(), -math.inf
        self.started_at = time.monotonic()

    def start(self) -> None:
        """Begin loading, the default model first; returns at once."""
        self._loader.start()

    async def join(self, folder: Path) -> None:
        """Be one of several workers. One that comes in place of a dead one takes no requests until it is loaded."""
        self._siblings = Siblings(folder, self._news)
        if any(news["ready"] for news in await self._siblings.ask(PATIENT_S)):
            await asyncio.to_thread(self._loader.join, REPLACEMENT_S)
        try:
            await self._siblings.start()
        except OSError as error:
            logger.error("this worker tells the others nothing: %s", error)

    async def leave(self) -> None:
        """Be heard no more by the other workers."""
        if self._siblings is not None:
            await self._siblings.stop()

    async def refresh(self, at_most_s: float = 0.0) -> None:
        """Ask the other workers, where there are any, how they are; `ready` and `stats` then speak for all.

        What was heard less than `at_most_s` ago will do.
        """
        if self._siblings is None:
            return
        wanted = time.monotonic() - at_most_s
        async with self._asking:
            # Another asked a moment ago, maybe while this waited. That one was not ready then says nothing of now: a
            # client that one worker told so would be told otherwise by the next.
            if self._heard_at > wanted and self._others_ready:
                return
            asked_at = time.monotonic()
            heard = await self._siblings.ask()
            self._heard_at = asked_at
        self._others_ready = all(news["ready"] for news in heard if not news["closing"])
        for model in self.every:
            model.hear([stats_from(news["stats"][model.tag]) for news in heard if model.tag in news["stats"]])

    def _news(self) -> dict[str, Any]:
        counted = {model.tag: model.own_stats() for model in self.every}
        return {
            "ready": self._ready,
            "closing": self._closing,
            "stats": {tag: asdict(stats) for tag, stats in counted.items() if stats},
        }

    def get(self, name: str | None = None, version: str | None = None) -> ServedModel:
        """A model by name, the default one without; of several versions by its beginning.

        Raises:
            NotFound: no such model or version; the message lists the known.
        """
        wanted = name or self.default
        if wanted not in self.models:
            known = ", ".join(sorted(self.models)) or "none"
            raise NotFound(f"There is no model {wanted!r:.80} here. Known models: {known}.")
        if version is None:
            return self.models[wanted]
        loaded = self.versions.get(wanted, {})
        matching = [model for each, model in loaded.items() if version and each.startswith(version)]
        if len(matching) != 1:
            how = "means several versions" if matching else "is not served here"
            raise NotFound(f"{wanted}:{version:.80} {how}. Versions that are: {', '.join(loaded) or 'none'}.")
        return matching[0]

    @property
    def every(self) -> list[ServedModel]:
        """Every version of every model, the default one first, and those that are missing."""
        loaded = [model for versions in self.versions.values() for model in versions.values()]
        absent = [model for model in self.models.values() if model.stored is None]
        default = self.models.get(self.default)
        return sorted([*loaded, *absent], key=lambda model: model is not default)

    @property
    def ready(self) -> bool:
        """Whether the default model answers and no other is still on its way, in every worker that takes requests."""
        return self._ready and self._others_ready

    @property
    def _ready(self) -> bool:
        settled = all(model.state in ("ready", "failed", "missing") for model in self.every)
        default = self.models.get(self.default)
        return settled and default is not None and default.state == "ready" and not self._closing

    @property
    def closing(self) -> bool:
        """Whether `close` has begun."""
        return self._closing

    def drain(self) -> None:
        """Refuse new work from now on; what is in flight goes on."""
        self._closing = True

    def close(self, timeout_s: float) -> bool:
        """Drain every model within one deadline; False if something was stuck."""
        self._closing = True
        deadline = time.monotonic() + timeout_s
        if self._loader.is_alive():
            self._loader.join(timeout_s)
        gc.unfreeze()
        # A list: every model is closed, also after one that was stuck.
        return all([model.close(max(0.0, deadline - time.monotonic())) for model in self.every])  # noqa: C419

    def _load(self) -> None:
        cv2.setNumThreads(1)  # lanes are the parallelism
        share = CoreShare(self._options.cores())
        for model in self.every:
            if not self._closing:
                model.load(self._options, share)
        gc.collect()
        gc.freeze()  # what is there now stays: a full collection took 60 ms with it, and no request should wait so long
