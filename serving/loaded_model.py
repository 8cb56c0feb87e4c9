"""One model of this process: its card, the state it is in, and its Runner once it is ready."""

import asyncio
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any, Literal

from errors import DeviceMissing, NoExplanation, StoreError, Unavailable
from explain.rise import RISE
from models.background import Background, read_background
from models.card import Card, ImageCard
from models.package import EARLY_EXIT_VARIANT, StoredModel, verify
from runners.awaiting import awaitable
from runners.cores import CoreShare
from runners.gathered import Gathered
from runners.runner import Answer, Runner
from runners.serial import SerialExecutor
from runners.stats import RunnerStats, Series, add_stats
from serving.cache import NO_CACHE, ResponseCache, answered
from serving.explainable import no_gradient_reason, not_explainable_reason
from serving.gauges import model_gauges
from serving.loading import LoadedPipeline, Role
from serving.model_lanes import ModelLanes
from serving.model_meters import ModelMeters
from serving.options import RunnerOptions
from serving.self_check import SelfCheck
from serving.waiting import Caller, wait_for

State = Literal["missing", "loading", "checking", "ready", "failed", "draining"]


class LoadedModel:
    """One version of one model, or a card without any version.

    Args:
        card: the model's card.
        stored: the stored version; None while there is none.
        role: what this process does with the model.
        missing_reason: why there is no version, and what to do about it.
        cache: answers that were given before.
    """

    def __init__(
        self,
        card: Card,
        stored: StoredModel | None,
        role: Role,
        *,
        missing_reason: str = "",
        cache: ResponseCache = NO_CACHE,
    ) -> None:
        self.card, self.stored, self.name = card, stored, card.name
        self.version = stored.version if stored else None
        self.tag = stored.tag if stored else card.name
        self.not_explainable_reason = not_explainable_reason(card, stored)
        self.no_gradient_reason = no_gradient_reason(card, stored) if isinstance(card, ImageCard) else ""
        self.meters = ModelMeters(card, self.version or "")
        self.background: Background | None = None
        self.explained_one_by_one = asyncio.Lock()  # chunks of explanations, of which a batch should hold one
        self.state: State = "loading" if stored else "missing"
        self.detail = "waiting to be loaded" if stored else missing_reason
        self.device: str | None = None
        self.load_seconds: float | None = None
        self.runtime = "onnx"
        self.has_early_exit = stored is not None and stored.variant == EARLY_EXIT_VARIANT
        self._role, self._cache, self._lifecycle = role, cache, threading.Lock()
        self._loaded: LoadedPipeline | None = None
        self.lanes: ModelLanes | None = None
        self.stats_of_other_workers: Sequence[RunnerStats] = ()

    def check_ready(self) -> None:
        """Return if the model answers, else raise Unavailable with what it is doing, or what is wrong."""
        if self.state != "ready":
            raise self._unavailable()

    def check_explainable(self) -> None:
        """Return if the model has explanations, in whatever state it is, else raise NoExplanation with the reason."""
        if self.not_explainable_reason:
            raise NoExplanation(f"There is no explanation: {self.not_explainable_reason}.")

    @property
    def has_gradient(self) -> bool:
        """Whether a gradient explains the model, in the Grad-CAM process; RISE explains any model of pictures."""
        return isinstance(self.card, ImageCard) and not self.no_gradient_reason

    @property
    def map_method(self) -> str:
        """The method that explains pictures where a request names none; empty for a model of rows."""
        if not isinstance(self.card, ImageCard):
            return ""
        return self.card.explain.method if self.card.explain and self.has_gradient else RISE

    def check_method(self, method: str) -> None:
        """Return if a method explains the model's pictures.

        Raises:
            NoExplanation: it takes a gradient, and there is none; the message says why, and what to ask for instead.
        """
        if self.no_gradient_reason and method != RISE:
            raise NoExplanation(
                f"method={method!r} takes a gradient, and there is none: {self.no_gradient_reason}. method={RISE} "
                "does without."
            )

    @property
    def large_json(self) -> SerialExecutor:
        """What reads and writes large JSON of this model's requests; raises Unavailable while it is not ready."""
        return self._ready_lanes().large_json

    def check_room(self, *, for_lanes: bool = True) -> None:
        """Return if a payload that came now might be queued, be computed at once, or be answered from the cache.

        Args:
            for_lanes: whether it is for the lanes whatever it is; not so what `answer` is asked for.

        Raises:
            QueueFull: so much waits that none would be.
            Unavailable: the model is not ready.
        """
        runner = self._ready_runner()
        may_be_gathered = not for_lanes and self.lanes is not None and self.lanes.gathered is not None
        if not self._cache.keeps_answers and not may_be_gathered:
            runner.check_room()

    def submit(
        self, payload: Any, deadline: float | None = None, *, is_admitted: bool = False
    ) -> "Future[Answer[Any]]":
        """Queue one payload, or return the answer that was given to the same picture before.

        Args:
            payload: what the model's pipeline preprocesses.
            deadline: a value of `time.monotonic()`.
            is_admitted: whether it is a part of something that was begun, which is queued however much waits.

        Raises:
            QueueFull: the payload would wait too long, or be late.
            Unavailable: the model is not ready.
        """
        runner, key = self._ready_runner(), self._key(payload)
        if key is None:
            return runner.submit(payload, deadline, is_admitted=is_admitted)
        if (answer := self._cache.get(self.tag, key)) is not None:
            return answered(answer)
        return self._cache.kept(key, runner.submit(payload, deadline, is_admitted=is_admitted))

    def submit_all(self, payloads: Sequence[Any], deadline: float | None = None) -> "list[Future[Answer[Any]]]":
        """Queue the payloads of one request, but for those answered before: all or none; arguments as of `submit`."""
        runner = self._ready_runner()
        keys = [self._key(payload) for payload in payloads]
        cached = [self._cache.get(self.tag, key) if key is not None else None for key in keys]
        others = [payload for payload, answer in zip(payloads, cached, strict=True) if answer is None]
        queued = iter(runner.submit_all(others, deadline) if others else ())
        return [
            self._cache.kept(key, next(queued)) if answer is None else answered(answer)
            for key, answer in zip(keys, cached, strict=True)
        ]

    async def answer(self, payload: Any, deadline: float, caller: Caller | None = None) -> Answer[Any]:
        """Return the answer to one payload; what takes no longer than to be handed to a lane is computed at once.

        Args:
            payload: what the model's pipeline preprocesses.
            deadline: a value of `time.monotonic()`.
            caller: who waits; None where the transport itself cancels what nobody waits for.

        Raises:
            VitrineError: as `submit`, `wait_for`, and the pipeline's `preprocess`.
        """
        if (gathered := self.gathered_for(payload)) is None:
            await self.fetch([payload])
            return await wait_for(awaitable(self.submit(payload, deadline)), deadline, caller)
        return await gathered.submit(payload, deadline)

    def gathered_for(self, payload: Any) -> Gathered[Any, Any, Any] | None:
        """Return what computes a payload on the event loop that asks; None where a lane does, or nothing can."""
        gathered = self.lanes.gathered if self.lanes else None
        if gathered is None or self.state != "ready" or self._cache.keeps(payload) or not gathered.takes(payload):
            return None
        return gathered

    async def fetch(self, payloads: Sequence[Any]) -> None:
        """Take the answers to these payloads that other servers kept."""
        if self._cache.is_shared:
            await self._cache.fetch(*map(self._key, payloads))

    def stats(self) -> RunnerStats | None:
        """Return the counts of all workers as far as they are known here, or None before the Runner runs."""
        return add_stats([own, *self.stats_of_other_workers]) if (own := self.own_stats()) else None

    def gauges(self) -> dict[str, float]:
        """Return what is the case just now in this process, as `model_gauges` does."""
        return model_gauges(self.state == "ready", self.meters.passed_check, self.lanes)

    def own_stats(self) -> RunnerStats | None:
        """Return the counts of this process alone."""
        return self.lanes.stats() if self.lanes else None

    def load(self, options: RunnerOptions, share: CoreShare) -> None:
        """Verify the files, load the model and replay its goldens; ends in `ready` or `failed` and never raises."""
        if self.stored is None:
            return
        started = time.monotonic()
        try:
            self.detail = "checking its files"
            verify(self.stored)
            self.detail = self._role.loading_detail
            if not isinstance(self.card, ImageCard):
                self.background = read_background(self.stored.path, self.card.input)
            loaded = self._role.load(self.stored, options, share)
            if (lanes := self._start_lanes(loaded, options, share)) is None:
                return
            self._check(self.stored, loaded, lanes.runner, share)
            if loaded.begin_counting is not None:
                loaded.begin_counting()
        except Exception as error:
            self.fail(error)
            return
        self.load_seconds = round(time.monotonic() - started, 3)
        with self._lifecycle:
            if self.state == "checking":
                self.state, self.detail = "ready", ""
                self._role.logger.info(f"{self._role.ready_message}; {lanes}", self.tag, self.load_seconds, self.device)

    @property
    def stuck_reason(self) -> str:
        """What hangs in the model's backend; empty if nothing does."""
        stuck_s = self.lanes.stuck_s() if self.lanes else 0.0
        return f"{self.tag}: a lane has hung in its backend for {stuck_s:.0f} s; another took over" if stuck_s else ""

    def replace_stuck_lanes(self) -> int:
        """Start new lanes if one hangs, with the same backend; return how often that has happened."""
        with self._lifecycle:
            if self.lanes is None:
                return 0
            if self.state == "ready" and self.lanes.replace_if_stuck():
                self._role.logger.error("%s", self.stuck_reason)
            return self.lanes.times_replaced

    def close(self, timeout_s: float) -> bool:
        """Drain the Runner and release the model's memory; return False if something was stuck."""
        with self._lifecycle:
            if self.state not in ("missing", "failed"):
                self.state, self.detail = "draining", "the server is shutting down"
        drained = self.lanes.close(timeout_s) if self.lanes else True
        self.meters.write()
        if drained and self._loaded is not None:
            self._loaded.release()
            self._loaded = None
        return drained

    def _start_lanes(self, loaded: LoadedPipeline, options: RunnerOptions, share: CoreShare) -> ModelLanes | None:
        """Start the lanes for the self-check; return None if the model was closed while it was being loaded."""
        with self._lifecycle:
            if self.state == "draining":
                loaded.release()
                return None
            self._loaded, self.runtime, self.device = loaded, loaded.runtime, loaded.device
            self.lanes = ModelLanes(loaded, options, share, Series(self.name, self.version or "", self._role.runner))
            self.state, self.detail = "checking", "replaying its goldens"
            return self.lanes

    def _ready_lanes(self) -> ModelLanes:
        if self.state != "ready" or self.lanes is None:
            raise self._unavailable()
        return self.lanes

    def _key(self, payload: Any) -> bytes | None:
        return self._cache.key(self.tag, payload, (self.runtime, self.device))  # which compute other last digits

    def _ready_runner(self) -> Runner[Any, Any, Any]:
        return self._ready_lanes().runner

    def _check(
        self, stored: StoredModel, loaded: LoadedPipeline, runner: Runner[Any, Any, Any], share: CoreShare
    ) -> None:
        check = SelfCheck(stored, loaded.golden_payload, loaded.computed_by, loaded.golden_tolerance)
        check.one_by_one(runner)
        if loaded.checks_batches and (seconds := check.in_batches(loaded.pipeline, loaded.plan, share)):
            runner.measured(check.payloads, seconds)
        self.meters.passed_check = True

    def _unavailable(self) -> Unavailable:
        message = self._role.unavailable_message.format(name=self.name, state=self.state, detail=self.detail)
        return Unavailable(message, self._role.failed_retry_after_s if self.state == "failed" else 1)

    def fail(self, error: Exception) -> None:
        """Answer nothing from now on, because of this error."""
        with self._lifecycle:
            if self.state == "draining":
                return
            is_explained = isinstance(error, StoreError | DeviceMissing)
            if self.state == "checking":
                self.meters.passed_check = False
            where, kind = f" on {self._loaded.computed_by}" if self._loaded else "", type(error).__name__
            detail = f"{self.tag}{where} failed while {self.detail} ({kind}). The server's log says more."
            self.state, self.detail = "failed", str(error) if is_explained else detail
        self._role.logger.error("%s: %s", self.name, self.detail, exc_info=None if is_explained else error)
        self.close(1.0)  # nothing is in flight
