"""What the prediction process owns, whatever the transport: the models, and the calls to the Grad-CAM process."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from errors import CardError
from models import registry
from models.asked_models import AskedModels
from models.card import Card
from models.followed import FollowedFolders
from models.package import StoredModel
from preprocessing.sandbox.process import DecodingProcess
from runners.memory import map_large_blocks
from runners.metrics import write_all
from serving.cache import ResponseCache
from serving.follower import Follower
from serving.gradcam.client import BentoMLCalls, ExplainerClient
from serving.heartbeat import Heartbeat
from serving.loaded_model import LoadedModel, State
from serving.loading import PREDICTION, preparing_slow
from serving.options import RunnerOptions
from serving.predictor import Predictor
from serving.repository import ModelRepository
from serving.run_state import RunState, last_served
from serving.shared_answers import SharedAnswers
from serving.shutdown import end_within
from serving.startup import run_folder
from settings import Settings

if TYPE_CHECKING:
    from serving.shared_redis import SharedRedis


class PredictionProcess:
    """The models of one worker, from its start to its end.

    Args:
        settings: what the operator set.
        stored: the versions to serve.
        followed: where others come from while the server runs; None where nothing changes.
        redis: where servers keep answers for each other.
    """

    def __init__(
        self,
        settings: Settings,
        stored: Sequence[StoredModel],
        followed: FollowedFolders | None = None,
        redis: "SharedRedis | None" = None,
    ) -> None:
        followed = followed or FollowedFolders((), frozenset(model.card.name for model in stored))
        state = self._state = RunState(run_folder())
        self._decoding = DecodingProcess()
        bundled = registry.bundled_cards()
        cache_bytes = settings.cache_mb * 2**20 // settings.workers
        shared = redis is not None and cache_bytes and settings.cache_shared_seconds
        self._shared = SharedAnswers(redis, settings.cache_shared_seconds) if redis is not None and shared else None
        cache = ResponseCache(cache_bytes, self._shared)
        explainer = self._explainer = ExplainerClient(settings.explain_timeout_ms, cache) if settings.explain else None
        self.repository = ModelRepository(
            last_served(stored, followed, state),
            RunnerOptions.from_settings(settings.model_dump()),
            missing=missing_models(dict(settings.chosen_models), bundled),
            asked=AskedModels(settings.chosen_models, followed.known | bundled.keys()),
            invalid={name: str(card) for name, card in bundled.items() if isinstance(card, CardError)},
            default=settings.default_model,
            cache=cache,
            role=preparing_slow(PREDICTION, self._decoding.prepare),
            works_beside=explainer.is_at_work if explainer is not None else lambda: False,
        )
        if explainer is not None:
            self.repository.open_breakers = explainer.open_breakers
        self.predictor = Predictor(settings.timeout_ms, explainer, settings.top_k)
        self._settings = settings
        self.follower = Follower(
            self.repository,
            followed,
            state,
            self._state_in_gradcam,
            retire_after_s=settings.body_seconds + settings.timeout_ms / 1000,
        )
        self._tasks = list[asyncio.Task[None]]()

    async def start(self, gradcam: Any) -> None:
        """Begin to load in the background, and see to it that a drain ends.

        Args:
            gradcam: BentoML's client of the Grad-CAM process, asynchronous.
        """
        end_within(self._settings.drain_seconds, self.repository)
        Heartbeat(self._state.folder, [self.repository.replace_stuck_lanes, write_all]).start()
        map_large_blocks()
        self._decoding.start()
        if self._shared is not None:
            self._shared.start()
        self.repository.start()
        if self._settings.workers > 1:
            await self.repository.join(self._state.folder)
        self._tasks.append(asyncio.create_task(self.follower.run()))
        if self._explainer is not None:
            process = BentoMLCalls(gradcam, as_json=bool(self._settings.explain_url))
            watch = self._explainer.watch(process, lambda: self.repository.closing, self._explained_tags)
            self._tasks.append(asyncio.create_task(watch))

    async def stop(self) -> None:
        """Drain; requests have been answered by now, so this is quick unless something is stuck."""
        for task in self._tasks:
            task.cancel()
        if self._shared is not None:
            self._shared.stop()
        await self.repository.leave()
        await asyncio.to_thread(self.repository.close, self._settings.drain_seconds)
        write_all()
        self._decoding.close()

    def _explained_tags(self) -> list[str]:
        """Return the versions that the Grad-CAM process is to have, those on their way in and out included.

        One that failed is not among them: it is released there, so that it is read anew once it is tried again here.
        """
        models = [*self.repository.every, *self.repository.candidates.values(), *self.repository.retired]
        return [model.tag for model in models if model.stored and model.state != "failed" and model.has_gradient]

    def _state_in_gradcam(self, model: LoadedModel) -> State:
        """Return the state of a version in the Grad-CAM process; `missing` where it will never be there."""
        if self._explainer is None or self._explainer.unavailable_reason or not model.has_gradient:
            return "missing"
        state: State = self._explainer.status.get(model.tag, {"state": "loading"})["state"]
        return state


def missing_models(chosen: Mapping[str, str], bundled: Mapping[str, Card | CardError]) -> dict[str, tuple[Card, str]]:
    """Return the bundled models that could be served if they were installed, with what to do about it.

    Args:
        chosen: the beginning of a version by the name of each model that is to be served; empty for all models.
        bundled: the bundled models' cards by name.
    """
    missing = dict[str, tuple[Card, str]]()
    for name, card in bundled.items():
        if isinstance(card, CardError) or (chosen and name not in chosen):
            continue
        if version := chosen.get(name):
            missing[name] = card, f"VITRINE_MODELS asks for version {version}, which is not installed"
        else:
            missing[name] = card, f"not installed; install it with `{registry.import_command(name)}`"
    return missing
