"""One model of this process: its card, the state it is in, and its Runner once it is ready."""

import asyncio
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any, Literal

from errors import DeviceMissing, NoExplanation, StoreError, Unavailable
from explain.rise import RISE
from models.background import BACKGROUND, Background, read_background
from models.card import Card, ImageCard
from models.package import EARLY_EXIT_VARIANT, WEIGHTS, StoredModel, verify
from runners.awaiting import awaitable
from runners.cores import CoreShare
from runners.gathered import Gathered
from runners.runner import Answer, Runner
from runners.stats import RunnerStats, add_stats
from serving.cache import NO_CACHE, ResponseCache
from serving.loading import LoadedPipeline, Role
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
        self.card, self.stored = card, stored
        self.name = card.name
        self.version = stored.version if stored else None
        self.tag = stored.tag if stored else card.name
        self.not_explainable_reason = not_explainable_reason(card, stored)
        self.no_gradient_reason = no_gradient_reason(card, stored) if isinstance(card, ImageCard) else ""
        self.background: Background | None = None
        self.explained_one_by_one = asyncio.Lock()  # chunks of explanations, of which a batch should hold one
        self.state: State = "loading" if stored else "missing"
        self.detail = "waiting to be loaded" if stored else missing_reason
        self.device: str | None = None
        self.load_seconds: float | None = None
        self.queue_size = RunnerOptions().queue_size
        self.runtime = "onnx"
        self.has_early_exit = stored is not None and stored.variant == EARLY_EXIT_VARIANT
        self._role, self._cache = role, cache
        self._lifecycle = threading.Lock()
        self._loaded: LoadedPipeline | None = None
        self._runner: Runner[Any, Any, Any] | None = None
        self._gathered: Gathered[Any, Any, Any] | None = None
        self.stats_of_other_workers: Sequence[RunnerStats] = ()

    def check_ready(self) -> None:
        """Return if the model answers.

        Raises:
            Unavailable: it does not; the message says what it is doing, or what is wrong.
        """
        if self.state != "ready":
            raise self._unavailable()

    def check_explainable(self) -> None:
        """Return if the model has explanations, in whatever state it is.

        Raises:
            NoExplanation: it has none; the message says why.
        """
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

        Args:
            method: what was asked for.

        Raises:
            NoExplanation: it takes a gradient, and there is none; the message says why, and what to ask for instead.
        """
        if self.no_gradient_reason and method != RISE:
            raise NoExplanation(
                f"method={method!r} takes a gradient, and there is none: {self.no_gradient_reason}. method={RISE} "
                "does without."
            )

    def submit(self, payload: Any, deadline: float | None = None) -> "Future[Answer[Any]]":
        """Queue one payload, or return the answer that was given to the same picture before.

        Args:
            payload: what the model's pipeline preprocesses.
            deadline: a value of `time.monotonic()`.

        Raises:
            QueueFull: as many payloads wait as the queue takes.
            Unavailable: the model is not ready.
        """
        if self.state != "ready" or self._runner is None:
            raise self._unavailable()
        key = self._cache.key(self.tag, payload)
        if key is None:
            return self._runner.submit(payload, deadline)
        if (answer := self._cache.get(self.name, key)) is not None:
            answered = Future[Answer[Any]]()
            answered.set_result(answer)
            return answered
        future = self._runner.submit(payload, deadline)
        future.add_done_callback(lambda done: self._cache.keep_result(key, done))
        return future

    async def answer(self, payload: Any, deadline: float, caller: Caller | None = None) -> Answer[Any]:
        """Return the answer to one payload; what takes no longer than to be handed to a lane is computed at once.

        Args:
            payload: what the model's pipeline preprocesses.
            deadline: a value of `time.monotonic()`.
            caller: who waits; None where the transport itself cancels what nobody waits for.

        Raises:
            VitrineError: as `submit`, `wait_for`, and the pipeline's `preprocess`.
        """
        gathered = self._gathered
        if gathered is None or self.state != "ready" or self._cache.keeps(payload) or not gathered.takes(payload):
            return await wait_for(awaitable(self.submit(payload, deadline)), deadline, caller)
        answer = gathered.submit(payload, deadline)
        try:
            return await answer
        finally:
            del answer  # whose error leads back to this frame

    def stats(self) -> RunnerStats | None:
        """Return the counts of all workers as far as they are known here, or None before the Runner runs."""
        own = self.own_stats()
        return add_stats([own, *self.stats_of_other_workers]) if own else None

    def own_stats(self) -> RunnerStats | None:
        """Return the counts of this process alone."""
        if self._runner is None:
            return None
        return add_stats([self._runner.stats(), self._gathered.stats()]) if self._gathered else self._runner.stats()

    def load(self, options: RunnerOptions, share: CoreShare) -> None:
        """Verify the files, load the model and replay its goldens; ends in `ready` or `failed` and never raises."""
        if self.stored is None:
            return
        started = time.monotonic()
        self.queue_size = options.queue_size_for(self.card)
        try:
            self.detail = "checking its files"
            verify(self.stored)
            self.detail = self._role.loading_detail
            if not isinstance(self.card, ImageCard):
                self.background = read_background(self.stored.path, self.card.input)
            loaded = self._role.load(self.stored, options, share)
            if (runner := self._start_runner(loaded, share)) is None:
                return
            self._check(self.stored, loaded, runner, share)
            if loaded.begin_counting is not None:
                loaded.begin_counting()
        except Exception as error:
            self.fail(error)
            return
        self.load_seconds = round(time.monotonic() - started, 3)
        with self._lifecycle:
            if self.state == "checking":
                self.state, self.detail = "ready", ""
                self._role.logger.info(self._role.ready_message, self.tag, self.load_seconds, self.device)

    def close(self, timeout_s: float) -> bool:
        """Drain the Runner and release the model's memory; return False if something was stuck."""
        with self._lifecycle:
            if self.state not in ("missing", "failed"):
                self.state, self.detail = "draining", "the server is shutting down"
        if self._gathered is not None:
            self._gathered.close()
        drained = self._runner.close(timeout_s) if self._runner else True
        if drained and self._loaded is not None:
            self._loaded.release()
            self._loaded = None
        return drained

    def _start_runner(self, loaded: LoadedPipeline, share: CoreShare) -> Runner[Any, Any, Any] | None:
        """Start the Runner for the self-check; return None if the model was closed while it was being loaded."""
        with self._lifecycle:
            if self.state == "draining":
                loaded.release()
                return None
            self._loaded, self.runtime, self.device = loaded, loaded.runtime, loaded.device
            self._runner = Runner(
                loaded.runner_name, loaded.pipeline, loaded.plan, queue_size=self.queue_size, working=share
            )
            if loaded.is_quick is not None:
                self._gathered = Gathered(loaded.runner_name, loaded.pipeline, loaded.is_quick, share)
            self.state, self.detail = "checking", "replaying its goldens"
            return self._runner

    def _check(
        self, stored: StoredModel, loaded: LoadedPipeline, runner: Runner[Any, Any, Any], share: CoreShare
    ) -> None:
        check = SelfCheck(stored, loaded.golden_payload, loaded.computed_by, loaded.golden_tolerance)
        check.one_by_one(runner)
        if loaded.checks_batches:
            check.as_one_batch(loaded.pipeline, share)

    def _unavailable(self) -> Unavailable:
        message = self._role.unavailable_message.format(name=self.name, state=self.state, detail=self.detail)
        return Unavailable(message, self._role.failed_retry_after_s if self.state == "failed" else 1)

    def fail(self, error: Exception) -> None:
        """Answer nothing from now on, because of this error."""
        with self._lifecycle:
            if self.state == "draining":
                return
            is_explained = isinstance(error, StoreError | DeviceMissing)
            if is_explained:
                detail = str(error)
            else:
                where = f" on {self._loaded.computed_by}" if self._loaded else ""
                kind = type(error).__name__
                detail = f"{self.tag}{where} failed while {self.detail} ({kind}). The server's log says more."
            self.state, self.detail = "failed", detail
        self._role.logger.error("%s: %s", self.name, detail, exc_info=None if is_explained else error)
        self.close(1.0)  # nothing is in flight


def not_explainable_reason(card: Card, stored: StoredModel | None) -> str:
    """Return why a model has no explanations; empty if it has, as every model of pictures."""
    if isinstance(card, ImageCard) or stored is None or (stored.path / BACKGROUND).exists():
        return ""
    again = (
        "add it again with --examples FILE, and it keeps some"
        if card.architecture == "onnx"
        else (f"import it again with a {BACKGROUND} beside its card")
    )
    return f"{card.name} has no background, the usual rows that a row is compared with; {again}"


def no_gradient_reason(card: ImageCard, stored: StoredModel | None) -> str:
    """Return why no gradient explains a model of pictures; empty if one does."""
    if card.explain is None:
        unavailable = stored.explanations().get("unavailable") if stored else None
        return str(unavailable or f"the card of {card.name} names no layer to explain at")
    if stored and stored.explain_graph is None and not (stored.path / WEIGHTS).exists():
        return f"{card.name} came as an ONNX graph and has no explain graph yet; `vitrine models add` it again"
    return ""
