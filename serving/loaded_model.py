"""One served model: from its files to a Runner that answers, and what an operator may set of it."""

import logging
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass, fields, replace
from math import ceil
from typing import Any, Literal

from backends.base import Backend
from backends.onnx import EarlyExitBackend, OnnxBackend
from errors import DeviceMissing, StoreError, Unavailable
from models.card import Card, ImageCard
from models.goldens import read_goldens
from models.package import WEIGHTS, StoredModel, verify
from postprocessing.interpret import called, difference
from preprocessing.rows import Row
from runners.plan import CoreShare, CpuPlan, cores
from runners.runner import Answer, Runner
from runners.stats import RunnerStats, added, metrics
from runners.tuned import tuned_plan
from serving.backend import device_of, new_backend
from serving.cache import NO_CACHE, ResponseCache
from serving.lanes import runner_of
from serving.pipeline import Inferred, InferredRows, Picture, Values, line_of

logger = logging.getLogger("vitrine.models")

State = Literal["missing", "loading", "checking", "ready", "failed", "draining"]


@dataclass(frozen=True)
class RunnerOptions:
    """What an operator sets for every Runner; what is None is left to what was tuned, else to the CPU plan.

    The cores and the queue are divided by `workers`, the processes that serve the same models.
    """

    queue_size: int = 256
    max_batch: int | None = None
    linger_ms: float | None = None
    device: str = "auto"
    workers: int = 1

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> "RunnerOptions":
        """Those of all settings that are a Runner's."""
        return cls(**{each.name: settings[each.name] for each in fields(cls)})

    def cores(self) -> int:
        """Cores of one worker."""
        return max(1, cores() // self.workers)

    def queue_of(self, card: Card) -> int:
        """Items that may wait in one worker; never fewer than one request may bring."""
        share = ceil(self.queue_size / self.workers)
        most = min(card.limits.max_items, self.queue_size) if isinstance(card, ImageCard) else 1
        return max(share, most)

    def over(self, layout: CpuPlan) -> CpuPlan:
        """A plan with what the operator set in its place."""
        said: dict[str, Any] = {"max_batch": self.max_batch, "linger_ms": self.linger_ms}
        return replace(layout, **{name: value for name, value in said.items() if value is not None})


class ServedModel:
    """One model: its card, what state it is in, and its Runner once it is ready."""

    def __init__(
        self, card: Card, stored: StoredModel | None, missing: str = "", cache: ResponseCache = NO_CACHE
    ) -> None:
        self.card, self.stored, self._cache, self._line = card, stored, cache, line_of(card)
        self.state: State = "loading" if stored else "missing"
        self.detail = "waiting to be loaded" if stored else missing
        self.device: str | None = None
        self.load_seconds: float | None = None
        self._backend: Backend | None = None
        self._runner: Runner[Any, Any, Any] | None = None
        self._queue_size = RunnerOptions().queue_size
        self._elsewhere: Sequence[RunnerStats] = ()

    @property
    def name(self) -> str:
        """The card's name."""
        return self.card.name

    @property
    def tag(self) -> str:
        """`name:version`; the name alone while there is no version."""
        return self.stored.tag if self.stored else self.name

    @property
    def version(self) -> str | None:
        """The stored version; None while there is none."""
        return self.stored.version if self.stored else None

    @property
    def queue_size(self) -> int:
        """How many items may wait; more than that in one request could never be taken."""
        return self._queue_size

    @property
    def runtime(self) -> str:
        """What computes it: `onnx` or `torch`; what would, where nothing does yet."""
        return "onnx" if self._backend is None or isinstance(self._backend, OnnxBackend) else "torch"

    @property
    def exits(self) -> bool:
        """Whether it may answer by an early exit."""
        return isinstance(self._backend, EarlyExitBackend)

    @property
    def unexplained(self) -> str:
        """Why this model has no explanations; empty if it has."""
        if not isinstance(self.card, ImageCard):
            return f"{self.name} is a model of rows, which have no picture to draw on{self._instead}"
        if self.card.explain is None:
            return f"the card of {self.name} names no layer to explain at"
        if self.stored and self.stored.explain_graph is None and not (self.stored.path / WEIGHTS).exists():
            return f"{self.name} came as an ONNX file without weights, and a gradient needs them"
        return ""

    @property
    def _instead(self) -> str:
        detector = self.card.task == "anomaly-detection"
        return "; `contributions` in its answer say how much each feature counted" if detector else ""

    def check_ready(self) -> None:
        """Raise Unavailable unless the model answers; the message says what it is doing, or what is wrong."""
        if self.state != "ready":
            raise Unavailable(f"{self.name} is {self.state}: {self.detail}", 5 if self.state == "failed" else 1)

    def submit(self, picture: Picture, deadline: float | None = None) -> "Future[Answer[Inferred]]":
        """Queue one picture; see `Runner.submit`, and `check_ready` for what else it raises."""
        runner, key = self._ready_runner(), self._cache.key(self.tag, picture)
        if (found := self._cache.get(self.name, key)) is not None:
            answered = Future[Answer[Inferred]]()
            answered.set_result(found)
            return answered
        future = runner.submit(picture, deadline)
        if key is not None:
            future.add_done_callback(lambda done: self._cache.keep_result(key, done))
        return future

    def submit_rows(
        self, rows: Sequence[Row] | Values, deadline: float | None = None
    ) -> "Future[Answer[InferredRows]]":
        """Queue the rows of one request; see `submit`."""
        return self._ready_runner().submit(rows, deadline)

    def _ready_runner(self) -> Runner[Any, Any, Any]:
        self.check_ready()
        if self._runner is None:
            raise RuntimeError("a model that is ready has a Runner")
        return self._runner

    def stats(self) -> RunnerStats | None:
        """The Runner's counts, and those of other workers as `ServedModels.refresh` found them; None before it runs."""
        return added([self._runner.stats(), *self._elsewhere]) if self._runner else None

    def own_stats(self) -> RunnerStats | None:
        """The counts of this process alone."""
        return self._runner.stats() if self._runner else None

    def hear(self, elsewhere: Sequence[RunnerStats]) -> None:
        """Take note of the counts of other workers."""
        self._elsewhere = elsewhere

    def load(self, options: RunnerOptions, share: CoreShare) -> None:
        """Verify the files, load the backend, replay the goldens; ends in `ready` or `failed`, never raises."""
        if self.stored is None:
            return
        started, on = time.monotonic(), options.device
        self._queue_size = options.queue_of(self.card)
        try:
            self.detail = "checking its files"
            verify(self.stored)
            self.detail = "loading the graph"
            device = device_of(self.stored, options.device)
            on = "OnnxBackend" if device == "cpu" else f"TorchBackend ({device})"
            tuned = tuned_plan(self.stored, device, share.available)
            self._backend, layout = new_backend(self.stored, device, share, lambda plan: options.over(tuned or plan))
            self._runner = runner_of(self.name, self._line, self._run, layout, self._queue_size, share)
            self.state, self.detail, self.device = "checking", "replaying its goldens", self._backend.device
            self._replay(share)
        except Exception as error:
            said = isinstance(error, StoreError | DeviceMissing)
            what = f"{self.stored.tag} on {on} failed while {self.detail} ({type(error).__name__})."
            self.state, self.detail = "failed", str(error) if said else f"{what} The server's log says more."
            logger.error("%s: %s", self.name, self.detail, exc_info=not said)
            self.close(1.0)  # nothing is in flight
            return
        self.load_seconds = round(time.monotonic() - started, 3)
        if self.state == "checking":
            self.state, self.detail = "ready", ""
            logger.info("%s is ready after %.1f s", self.stored.tag, self.load_seconds)

    def close(self, timeout_s: float) -> bool:
        """Drain the Runner and release the backend; False if something was stuck."""
        if self.state not in ("missing", "failed"):
            self.state, self.detail = "draining", "the server is shutting down"
        drained = self._runner.close(timeout_s) if self._runner else True
        if drained and self._backend is not None:
            self._backend.close()
            self._backend = None
        return drained

    def _run(self, items: Sequence[Any]) -> list[Any]:
        if self._backend is None:
            raise RuntimeError("the backend is not loaded")
        results = self._line.run(self._backend, items)
        if self.exits and self.state == "ready":
            for by, count in Counter(each.answered_by for each in results).items():
                metrics().early_exit.labels(self.name, by).inc(count)
        return results

    def _replay(self, share: CoreShare) -> None:
        """Run the goldens as a client's requests, then as one batch in a crowd, and compare probabilities.

        So both what a lone lane runs on and what every lane of a crowd does have been tried.
        """
        if self.stored is None or self._runner is None:
            raise RuntimeError("nothing is loaded")
        goldens, tolerance = read_goldens(self.stored.path)
        line, payloads = self._line, [self._line.golden(golden.data) for golden in goldens]
        # One after the other: together they could share a batch, or be more than the queue takes.
        with self._runner.uncounted():
            alone = [line.outputs(self._runner.submit(payload).result().value) for payload in payloads]
        with ExitStack() as crowd:
            for _ in range(share.available):
                crowd.enter_context(share)
            together = [line.outputs(each) for each in self._run([line.admit(payload) for payload in payloads])]
        for how, rows in (("alone", alone), ("in a batch", together)):
            for golden, row in zip(goldens, rows, strict=True):
                away = float(difference(row, golden.logits, self.card).max())
                if not away <= tolerance:
                    raise StoreError(
                        f"{self.stored.tag} on {type(self._backend).__name__} ({self.device}): golden {golden.name}, "
                        f"{how}, is {away:.2e} away from its reference (tolerance {tolerance:g}). "
                        f"Do not use it: `vitrine models verify {self.name}`, then import it again."
                    )
                if called(row, self.card) != called(golden.logits, self.card):
                    raise StoreError(
                        f"{self.stored.tag} on {type(self._backend).__name__} ({self.device}): golden {golden.name}, "
                        f"{how}, is called another label than by its reference. Import it again on this machine."
                    )
