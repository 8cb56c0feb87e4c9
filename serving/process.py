"""What the prediction process owns, whatever the transport: the models, and the calls to the Grad-CAM process."""

import asyncio
from collections.abc import Sequence
from typing import Any

from errors import CardError
from models import registry
from models.card import Card
from models.package import StoredModel
from preprocessing.sandbox.process import DecodingProcess
from runners.memory import map_large_blocks
from serving.cache import ResponseCache
from serving.gradcam.client import BentoMLCalls, ExplainerClient
from serving.loading import PREDICTION, preparing_slow
from serving.options import RunnerOptions
from serving.predictor import Predictor
from serving.repository import ModelRepository
from serving.shutdown import end_within
from serving.startup import workers_folder
from settings import Settings


class PredictionProcess:
    """The models of one worker, from its start to its end.

    Args:
        settings: what the operator set.
        stored: the versions to serve.
    """

    def __init__(self, settings: Settings, stored: Sequence[StoredModel]) -> None:
        self._decoding = DecodingProcess()
        cache = ResponseCache(settings.cache_mb * 2**20 // settings.workers)
        self.repository = ModelRepository(
            stored,
            RunnerOptions.from_settings(settings.model_dump()),
            missing=missing_models(dict(settings.chosen_models)),
            default=settings.default_model,
            cache=cache,
            role=preparing_slow(PREDICTION, self._decoding.prepare),
        )
        self._explainer = ExplainerClient(settings.explain_timeout_ms, cache) if settings.explain else None
        self.predictor = Predictor(settings.timeout_ms, self._explainer, settings.top_k)
        self._settings = settings
        self._watching: asyncio.Task[None] | None = None

    async def start(self, gradcam: Any) -> None:
        """Begin to load in the background, and see to it that a drain ends.

        Args:
            gradcam: BentoML's client of the Grad-CAM process, asynchronous.
        """
        end_within(self._settings.drain_seconds, self.repository)
        map_large_blocks()
        self._decoding.start()
        self.repository.start()
        if self._settings.workers > 1:
            await self.repository.join(workers_folder())
        if self._explainer is not None:
            process = BentoMLCalls(gradcam, as_json=bool(self._settings.explain_url))
            watch = self._explainer.watch(process, lambda: self.repository.closing)
            self._watching = asyncio.create_task(watch)

    async def stop(self) -> None:
        """Drain; requests have been answered by now, so this is quick unless something is stuck."""
        if self._watching is not None:
            self._watching.cancel()
        await self.repository.leave()
        await asyncio.to_thread(self.repository.close, self._settings.drain_seconds)
        self._decoding.close()


def missing_models(chosen: dict[str, str]) -> dict[str, tuple[Card, str]]:
    """Return the bundled models that could be served if they were installed, with what to do about it.

    Args:
        chosen: the beginning of a version by the name of each model that is to be served; empty for all models.
    """
    missing = dict[str, tuple[Card, str]]()
    for name, card in registry.bundled_cards().items():
        if isinstance(card, CardError) or (chosen and name not in chosen):
            continue
        if version := chosen.get(name):
            missing[name] = card, f"VITRINE_MODELS asks for version {version}, which is not installed"
        else:
            missing[name] = card, f"not installed; install it with `{registry.import_command(name)}`"
    return missing
