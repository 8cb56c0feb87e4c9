"""Models that come and go while the server runs: each is loaded and checked beside what is served, then swapped in."""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from errors import NotFound, StoreError, Unavailable
from models.followed import Fingerprint, FollowedFolders, files_fingerprint
from models.package import StoredModel
from serving.loaded_model import LoadedModel, State
from serving.repository import ModelRepository
from serving.run_state import RunState

logger = logging.getLogger("vitrine.models")

INTERVAL_S, PENDING_INTERVAL_S = 0.5, 0.05
"""How often the lock files are looked at, and how often whether a new version may come into service, in seconds."""
LOAD_S, UNLOAD_S = 300.0, 20.0
"""How long a client that loads a model, or takes it out of service, is kept waiting at most, in seconds."""
CLOSE_S = 30.0
"""How long the last requests on a version may take to end once it is closed, in seconds."""
UNLOADED = "a client took it out of service; POST /v2/repository/models/{name}/load brings it back"


class Follower:
    """Keeps what one worker serves as the lock files say, but for what clients took out of service.

    A new version is loaded and repeats its goldens while the old one serves. It takes its place once it is ready in
    every worker and in the Grad-CAM process, so that all change at once. If it fails in one of them, the old version
    goes on in all, and the failed one stays among the candidates, which say why, until its files or the lock change.

    Args:
        repository: the models of this worker.
        folders: whose locks say what is to be served.
        state: what the processes of the server remember together.
        explained: returns the state of a version in the Grad-CAM process; `missing` where nobody waits for it.
        retire_after_s: the longest that a request may hold on to a version before it submits to it, in seconds.
    """

    def __init__(
        self,
        repository: ModelRepository,
        folders: FollowedFolders,
        state: RunState,
        explained: Callable[[LoadedModel], State] = lambda model: "missing",
        retire_after_s: float = 0.0,
    ) -> None:
        self._repository, self._folders, self._state = repository, folders, state
        self._explained, self._retire_after_s = explained, retire_after_s
        self._fixed = {
            name: [model.stored for model in models.values() if model.stored]
            for name, models in repository.versions.items()
            if name in folders.fixed
        }
        self._locks: object = None
        self._files = dict[Path, Fingerprint]()
        self._has_planned = False
        self._unloaded, self._served = set[str](), dict[str, list[str]]()
        self._pending = dict[str, list[LoadedModel]]()
        self._leaving = list[tuple[float, LoadedModel]]()
        self._closing = set[asyncio.Task[bool]]()
        self._looking = asyncio.Lock()

    async def run(self) -> None:
        """Follow the locks until the server drains."""
        while not self._repository.loaded:
            await asyncio.sleep(PENDING_INTERVAL_S)
        while not self._repository.closing:
            try:
                await self.look()
            except Exception:
                self._locks = None  # what was noted may not have been acted upon
                logger.exception("the models could not be looked at; what is served goes on")
            await asyncio.sleep(PENDING_INTERVAL_S if self._pending else INTERVAL_S)

    async def look(self) -> None:
        """Take note of what has changed, and bring into service what is ready everywhere."""
        async with self._looking:
            has_changed, is_first = await self._note_changes(), not self._has_planned
            is_unread = self._repository.unreadable or self._repository.lock_problems
            if has_changed or is_first or is_unread:
                models, unloaded = await asyncio.to_thread(
                    lambda: (self._folders.read(self._state.served()), self._state.unloaded())
                )
                self._repository.lock_problems = self._folders.lock_problems
                self._plan(models, set(unloaded), retry=has_changed and not is_first)
                self._has_planned = True
            for name in list(self._pending):
                await self._settle(name)
            self._close_retired()
            served = {name: list(models) for name, models in self._repository.ready_versions.items()}
            if served != self._served:
                self._served = served
                await asyncio.to_thread(self._state.remember_served, served)

    async def load(self, name: str) -> None:
        """Serve a model in the version that the lock names, in every process, also one that was taken out of service.

        Raises:
            NotFound: there is no such model.
            Unavailable: it failed its self-check, or was not ready in time; the message says which.
        """
        self._state.set_unloaded(name, unloaded=False)
        deadline = time.monotonic() + LOAD_S
        noted_at = time.monotonic() + 4 * INTERVAL_S  # by then every worker has begun to try anew what failed there
        while time.monotonic() < deadline:
            await self.look()
            model = self._repository.models.get(name)
            if name in self._repository.unreadable:
                raise Unavailable(f"{name} was not loaded: {self._repository.unreadable[name]}", 5)
            if name not in self._pending:
                if model is None:
                    known = ", ".join(sorted(self._repository.models)) or "none"
                    raise NotFound(f"There is no model {name!r:.80} to load. Known models: {known}.")
                problems = [failed for failed in self._failed() if failed.name == name]
                if problems or model.state == "missing":
                    raise Unavailable(f"{name} was not loaded: {(problems or [model])[0].detail}", 5)
                all_news = await self._repository.news_of_others()
                states = {model.state, *(self._state_elsewhere(news, model.tag) for news in all_news)}
                if states == {"ready"} and all(model.tag in news["served"] for news in all_news):
                    return
                if "failed" in states and time.monotonic() > noted_at:
                    raise Unavailable(f"{name} was not loaded: it failed in another worker; its log says why.", 5)
            await asyncio.sleep(PENDING_INTERVAL_S)
        raise Unavailable(f"{name} was not ready within {LOAD_S:g} s; GET /health says what it is doing.", 5)

    async def unload(self, name: str) -> None:
        """Take a model out of service in every process until it is loaded again; requests that are on it end well.

        Raises:
            NotFound: there is no such model.
            Unavailable: a worker did not take note in time.
        """
        if name not in self._repository.models:
            known = ", ".join(sorted(self._repository.models)) or "none"
            raise NotFound(f"There is no model {name!r:.80} to unload. Known models: {known}.")
        self._state.set_unloaded(name, unloaded=True)
        deadline = time.monotonic() + UNLOAD_S
        while time.monotonic() < deadline:
            await self.look()
            served = [tag for news in await self._repository.news_of_others() for tag in news["served"]]
            if name not in self._repository.versions and not any(tag.partition(":")[0] == name for tag in served):
                return
            await asyncio.sleep(PENDING_INTERVAL_S)
        raise Unavailable(f"A worker has not taken {name} out of service within {UNLOAD_S:g} s.", 5)

    async def _note_changes(self) -> bool:
        """Return whether a lock, what clients unloaded, or a file of a version that failed has changed since."""
        failed = [model.stored.path for model in self._failed() if model.stored]
        locks, files = await asyncio.to_thread(
            lambda: (
                (self._folders.fingerprint(), self._state.fingerprint()),
                {path: files_fingerprint(path) for path in failed},
            )
        )
        other_files = any(self._files.get(path, files[path]) != files[path] for path in failed)
        has_changed = other_files or locks != self._locks
        self._locks = locks
        self._files |= files
        return has_changed

    def _plan(self, models: Mapping[str, StoredModel | StoreError], unloaded: set[str], *, retry: bool) -> None:
        """Begin what leads from what is served to what is to be; `retry` what failed, since its files have changed."""
        before = self._repository.unreadable
        self._repository.unreadable = {
            name: str(model) for name, model in models.items() if isinstance(model, StoreError)
        }
        for name in sorted({*models, *self._repository.models, *self._pending}):
            if name in unloaded:
                self._take_out(name, UNLOADED.format(name=name), is_new=name not in self._unloaded)
            elif isinstance(model := models.get(name), StoreError):
                if before.get(name) != str(model):
                    logger.error("%s What is served goes on.", model)
            elif stored := self._fixed.get(name) or ([model] if model else []):
                self._begin(name, stored, retry=retry)
            else:
                self._take_out(name, "", is_new=name in self._unloaded)
        self._unloaded, self._repository.withdrawn = unloaded, frozenset(unloaded)

    def _take_out(self, name: str, reason: str, *, is_new: bool) -> None:
        """Serve no version of a model any more, because of `reason`, or because it is gone."""
        self._give_up(name)
        if is_new or name in self._repository.versions:
            self._retire(self._repository.put(name, [], reason))
            logger.info("%s is out of service", name)

    def _begin(self, name: str, stored: Sequence[StoredModel], *, retry: bool) -> None:
        """Begin to load the versions that are to be served, unless they are served or under way."""
        serving, versions = self._repository.versions.get(name, {}), [version.version for version in stored]
        has_failed = any(model.state == "failed" for model in serving.values())
        if list(serving) == versions and not (has_failed and retry):
            self._give_up(name)
            return
        pending = self._pending.get(name, [])
        gives_up = retry and any(model.state == "failed" for model in pending)
        if [model.version for model in pending] == versions and not gives_up:
            self._note_attempts(stored)
            return
        candidates = [self._repository.candidates.get(version.tag) for version in stored]
        if any(model is not None and model.state == "failed" for model in candidates) and not retry:
            return
        self._give_up(name)
        self._pending[name] = []
        for version in stored:
            model = serving.get(version.version)
            if model is None or model.state == "failed":
                model = self._repository.model_of(version)
                self._files[version.path] = files_fingerprint(version.path)  # before they are read
                self._repository.candidates[model.tag] = model
                # A thread of its own, which holds up no end of the process.
                threading.Thread(target=self._repository.load, args=(model,), daemon=True).start()
            self._pending[name].append(model)
        self._note_attempts(stored)

    def _note_attempts(self, stored: Sequence[StoredModel]) -> None:
        """Note which locks and files the versions were read by, so that no earlier failure elsewhere counts."""
        for version in stored:
            self._repository.attempts[version.tag] = repr((self._locks, self._files.get(version.path)))

    def _state_elsewhere(self, news: Mapping[str, Any], tag: str) -> State:
        """Return the state of a version in another worker; one that failed there by other files is to be tried yet."""
        state: State = news["states"].get(tag, "loading")
        is_earlier = news["attempts"].get(tag) != self._repository.attempts.get(tag)
        return "loading" if state == "failed" and is_earlier else state

    async def _settle(self, name: str) -> None:
        """Swap in the versions of a model that are ready everywhere; give them up where one has failed."""
        models = self._pending[name]
        states = {model.state for model in models}
        if states == {"ready"}:
            all_news = await self._repository.news_of_others()
            for model in models:
                if model.tag in self._repository.candidates:
                    states |= {self._state_elsewhere(news, model.tag) for news in all_news}
                    explained = self._explained(model)
                    states.add("ready" if explained == "missing" else explained)
                    if "failed" in states:
                        await asyncio.to_thread(model.fail, StoreError(f"{model.tag} failed in another process"))
        if "failed" in states:
            self._reject(name)
        elif states == {"ready"}:
            self._accept(name)

    def _accept(self, name: str) -> None:
        models = self._pending.pop(name)
        for model in models:
            self._repository.candidates.pop(model.tag, None)
        retired = self._repository.put(name, models)
        self._retire(retired)
        tags, former = ([model.tag for model in some] for some in (models, retired))
        logger.info("%s in service%s", ", ".join(tags), f" in place of {', '.join(former)}" if former else "")

    def _reject(self, name: str) -> None:
        """Leave what is served as it is; where nothing is, the versions that failed say so in its place."""
        models = self._pending.pop(name)
        if name in self._repository.versions and any(
            model.state == "ready" for model in self._repository.versions[name].values()
        ):
            logger.error("%s goes on being served as it was", name)
            return
        for model in models:
            self._repository.candidates.pop(model.tag, None)
        self._repository.put(name, models)

    def _give_up(self, name: str) -> None:
        """Forget the candidates of a model, whether they are still loading or have failed."""
        self._pending.pop(name, None)
        for model in [model for model in self._repository.candidates.values() if model.name == name]:
            del self._repository.candidates[model.tag]
            self._close(model)

    def _retire(self, models: Sequence[LoadedModel]) -> None:
        """Close these once no request can come to them any more."""
        self._repository.retired += models
        self._leaving += [(time.monotonic() + self._retire_after_s, model) for model in models]

    def _close_retired(self) -> None:
        now, leaving = time.monotonic(), self._leaving
        self._leaving = [(at, model) for at, model in leaving if at > now]
        for at, model in leaving:
            if at <= now:
                self._repository.retired.remove(model)
                self._close(model)

    def _close(self, model: LoadedModel) -> None:
        closing = asyncio.create_task(asyncio.to_thread(model.close, CLOSE_S))
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)

    def _failed(self) -> list[LoadedModel]:
        """Return the versions that have failed, served or not."""
        models = [*self._repository.every, *self._repository.candidates.values()]
        return [model for model in models if model.state == "failed"]
