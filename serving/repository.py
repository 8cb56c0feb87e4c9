"""The models of one process: loaded in the background, checked against their goldens, then answering."""

import asyncio
import gc
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cv2

from errors import NotFound
from models.asked_models import AskedModels
from models.card import Card
from models.package import StoredModel
from runners.cores import CoreShare
from runners.memory import trim_memory
from runners.metrics import write_all
from runners.stats import stats_from_json
from serving.cache import NO_CACHE, ResponseCache
from serving.loaded_model import LoadedModel
from serving.loading import PREDICTION, Role
from serving.options import RunnerOptions
from serving.workers import Workers

ASKED_FOR_NONE = AskedModels()
REPLACEMENT_S = 120.0
"""The longest time that a worker in place of a dead one keeps from taking requests, in seconds."""
MOST_STUCK = 3
"""How often the lanes of one model are replaced, because one hangs, before the process is."""
FIRST_NEWS_TIMEOUT_S = 5.0
"""How long a worker that starts waits for the others' news, in seconds."""


class ModelRepository:
    """Every version of every model that this process serves.

    Attributes:
        default: the name of the model that is meant where none is named.
        models: what each name alone means.
        versions: every version that is served, by name and version.
        candidates: the versions that are to take the place of others once they are ready, or have failed, by tag.
        attempts: which files each candidate was read from, by tag; any text that is the same in all workers.
        retired: the versions whose place others have taken, while requests may still be on them.
        unreadable: why the version of a model that is to be served cannot be read, by the model's name.
        invalid: what is wrong with the card of a bundled model, by the model's name.
        withdrawn: the names of the models that clients took out of service.
        lock_problems: which lock files cannot be read just now, and what to do about it.
        open_breakers: returns the versions whose explanations are not asked for just now, by tag.
        generation: how often the cards of what is served have changed.

    Args:
        stored: the versions; the first one of a name is the one that the name alone means.
        options: what the operator set for every Runner.
        role: what this process does with its models.
        missing: the card of each bundled model that is not installed, with the reason and what to do about it.
        default: the name of the model that is meant where none is named.
        cache: answers that were given before.
        asked: which models have to be served before the process is ready.
        invalid: what is wrong with the card of a bundled model, by the model's name.
        works_beside: returns whether another process explains for this one just now.
    """

    def __init__(
        self,
        stored: Iterable[StoredModel],
        options: RunnerOptions,
        *,
        role: Role = PREDICTION,
        missing: Mapping[str, tuple[Card, str]] | None = None,
        default: str = "",
        cache: ResponseCache = NO_CACHE,
        asked: AskedModels = ASKED_FOR_NONE,
        invalid: Mapping[str, str] | None = None,
        works_beside: Callable[[], bool] = lambda: False,
    ) -> None:
        self._asked, self.invalid, self.withdrawn = asked, dict(invalid or {}), frozenset[str]()
        self.default, self._options, self._role, self._cache = default, options, role, cache
        self._missing = missing or {}
        self.models = dict[str, LoadedModel]()
        self.versions = dict[str, dict[str, LoadedModel]]()
        for version in stored:
            model = self.model_of(version)
            self.models.setdefault(model.name, model)
            self.versions.setdefault(model.name, {})[version.version] = model
        for name, (card, reason) in self._missing.items():
            self.models.setdefault(name, LoadedModel(card, None, role, missing_reason=reason))
        self.candidates, self.retired = dict[str, LoadedModel](), list[LoadedModel]()
        self.attempts = dict[str, str]()
        self.generation, self.unreadable, self.lock_problems = 0, dict[str, str](), list[str]()
        self._share, self._loading = CoreShare(options.cores(), works_beside), threading.Lock()
        self._loader = threading.Thread(target=self._load, name="load-models", daemon=True)
        self._closing, self._others_ready = False, True
        self._workers: Workers | None = None
        self.open_breakers: Callable[[], list[str]] = list
        self._refreshing, self._refreshed_at = asyncio.Lock(), -math.inf
        self.started_at = time.monotonic()

    def model_of(self, stored: StoredModel) -> LoadedModel:
        """Return a version, not loaded yet, which is not served."""
        return LoadedModel(stored.card, stored, self._role, cache=self._cache)

    def load(self, model: LoadedModel) -> None:
        """Load a version that may come into service; as `LoadedModel.load`, one at a time."""
        with self._loading:
            model.load(self._options, self._share)
        trim_memory()

    def put(self, name: str, models: Sequence[LoadedModel], absent_reason: str = "") -> list[LoadedModel]:
        """Serve these versions of a model from now on, the first one for the name alone, and no others.

        Args:
            name: the model.
            models: the versions; none takes the model out of service.
            absent_reason: why there is none, and what to do about it; empty where the model is gone altogether.

        Returns:
            The versions that were served before and are no longer; requests may still be on them.
        """
        before, former = self.models.get(name), self.versions.pop(name, {})
        if models:
            self.models[name] = models[0]
            self.versions[name] = {model.version or "": model for model in models}
        elif name in self._missing and not absent_reason:
            card, reason = self._missing[name]
            self.models[name] = LoadedModel(card, None, self._role, missing_reason=reason)
        elif before is not None and absent_reason:
            self.models[name] = LoadedModel(before.card, None, self._role, missing_reason=absent_reason)
        else:
            self.models.pop(name, None)
        if before is None or name not in self.models or before.card != self.models[name].card:
            self.generation += 1
        return [model for model in former.values() if model not in models]

    def start(self) -> None:
        """Begin loading, the default model first; returns at once."""
        self._loader.start()

    @property
    def loaded(self) -> bool:
        """Whether every model that was served at the start is ready or has failed."""
        return self._loader.ident is not None and not self._loader.is_alive()

    def wait_loaded(self, timeout_s: float) -> None:
        """Return once every model is ready or has failed, or after `timeout_s`."""
        self._loader.join(timeout_s)

    async def join(self, folder: Path) -> None:
        """Become one of several workers, which meet in `folder`.

        One that comes in place of a dead one takes no requests until it is loaded.
        """
        self._workers = Workers(folder, self.news)
        if any(news["ready"] for news in await self._workers.ask(FIRST_NEWS_TIMEOUT_S)):
            await asyncio.to_thread(self.wait_loaded, REPLACEMENT_S)
        await self._workers.start()

    async def leave(self) -> None:
        """Tell the other workers nothing from now on."""
        if self._workers is not None:
            await self._workers.stop()

    async def news_of_others(self) -> list[dict[str, Any]]:
        """Return what each other worker that takes requests tells: among others its `states` and `served` by tag."""
        all_news = await self._workers.ask() if self._workers is not None else []
        return [news for news in all_news if not news["closing"]]

    async def refresh(self, max_age_s: float = 0.0) -> None:
        """Ask the other workers, where there are any, for their news, so that `ready` and `stats` speak for all.

        News that are not older than `max_age_s` will do.
        """
        if self._workers is None:
            return
        oldest = time.monotonic() - max_age_s
        async with self._refreshing:
            # Another request may have asked while this one waited. If some worker was not ready then, that says nothing
            # of now: the client of one worker would be told otherwise by the next.
            if self._refreshed_at > oldest and self._others_ready:
                return
            asked_at = time.monotonic()
            all_news = await self._workers.ask()
            self._refreshed_at = asked_at
        self._others_ready = all(news["ready"] for news in all_news if not news["closing"])
        for model in self.every:
            tags = [news["stats"].get(model.tag) for news in all_news]
            model.stats_of_other_workers = [stats_from_json(stats) for stats in tags if stats]

    def get(self, name: str | None = None, version: str | None = None) -> LoadedModel:
        """Return a model by its name, the default one without; of several versions by the beginning of one.

        Raises:
            NotFound: there is no such model or version; the message lists the known ones.
        """
        name = name or self.default
        if name not in self.models:
            known = ", ".join(sorted(self.models)) or "none"
            raise NotFound(f"There is no model {name!r:.80} here. Known models: {known}.")
        if version is None:
            return self.models[name]
        versions = self.versions.get(name, {})
        matching = [model for digits, model in versions.items() if version and digits.startswith(version)]
        if len(matching) != 1:
            problem = "means several versions" if matching else "is not served here"
            raise NotFound(f"{name}:{version:.80} {problem}. Versions that are: {', '.join(versions) or 'none'}.")
        return matching[0]

    @property
    def every(self) -> list[LoadedModel]:
        """Every version of every model, the default model first, and the models that are missing."""
        loaded = [model for versions in self.versions.values() for model in versions.values()]
        missing = [model for model in self.models.values() if model.stored is None]
        default = self.models.get(self.default)
        return sorted([*loaded, *missing], key=lambda model: model is not default)

    @property
    def ready_versions(self) -> dict[str, list[str]]:
        """The versions that are served and answer, by the name of their model."""
        return {
            name: [version for version, model in models.items() if model.state == "ready"]
            for name, models in self.versions.items()
        }

    @property
    def ready(self) -> bool:
        """Whether the default model answers and no other is still loading, in every worker that takes requests."""
        return self._ready and self._others_ready

    @property
    def _ready(self) -> bool:
        settled = all(model.state in ("ready", "failed", "missing") for model in self.every)
        default = self.models.get(self.default)
        is_default_ready = default is not None and default.state == "ready"
        return settled and is_default_ready and not self.absences() and not self._closing

    def absences(self) -> list[str]:
        """Return a sentence for each model that has to be served and is not there; the default model comes first."""
        reasons = {name: f"It is {model.detail}." for name, model in self.models.items() if model.state == "missing"}
        reasons |= {name: f"Its card is not valid: {problem}" for name, problem in self.invalid.items()}
        reasons |= self.unreadable
        default = [] if self.default in self.models else [self._asked.default_absence(self.default)]
        return [*default, *self._asked.absences(self.versions, reasons, self.withdrawn)]

    @property
    def closing(self) -> bool:
        """Whether this process drains or closes."""
        return self._closing

    def replace_stuck_lanes(self) -> None:
        """Start new lanes where one hangs in its backend; end the process where that happens again and again."""
        for model in [*self.every, *self.retired]:
            if model.replace_stuck_lanes() > MOST_STUCK and not self._closing:
                self._role.logger.error("%s hangs again and again: ending this process for a new one", model.tag)
                os.kill(os.getpid(), signal.SIGTERM)

    def drain(self) -> None:
        """Refuse new work from now on; what is in flight goes on."""
        self._closing = True

    def close(self, timeout_s: float) -> bool:
        """Drain every model within one deadline; return False if something was stuck."""
        self._closing = True
        deadline = time.monotonic() + timeout_s
        if self._loader.is_alive():
            self._loader.join(timeout_s)
        gc.unfreeze()
        # The list makes sure that every model is closed, also after one that was stuck.
        models = [*self.every, *self.candidates.values(), *self.retired]
        return all([model.close(max(0.0, deadline - time.monotonic())) for model in models])  # noqa: C419

    def _load(self) -> None:
        cv2.setNumThreads(1)  # lanes are the parallelism
        for model in self.every:
            if not self._closing:
                with self._loading:
                    model.load(self._options, self._share)
        gc.collect()
        gc.freeze()  # a full collection of what is there now took 60 ms, and no request should wait so long
        trim_memory()  # the self-check of kidney-stone left 85 MiB with the threads of each process

    def news(self) -> dict[str, Any]:
        """Return what this worker tells the others, as JSON objects, once its metrics are written."""
        write_all()
        stats = {model.tag: model.own_stats() for model in self.every}
        states = {model.tag: model.state for model in [*self.every, *self.candidates.values()]}
        return {
            "served": [model.tag for model in self.every if model.stored],
            "states": states,
            "attempts": {tag: self.attempts.get(tag) for tag in self.candidates},
            "ready": self._ready,
            "closing": self._closing,
            "stats": {tag: asdict(counts) for tag, counts in stats.items() if counts},
            "gauges": {model.tag: model.gauges() for model in self.every if model.stored},
            "open_breakers": self.open_breakers(),
        }
