"""The models that are served: loaded in the background, checked against their goldens, then answering."""

import logging
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Literal, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from backends.base import Backend
from backends.onnx import OnnxBackend
from errors import NotFound, StoreError, Unavailable
from models.card import ModelCard
from models.goldens import read_goldens
from models.interpret import softmax
from models.package import WEIGHTS, StoredModel, verify
from preprocessing.decode import decode
from preprocessing.transform import Transformed, transform
from runners.cpu_plan import CpuPlan, cores, plan
from runners.runner import Answer, Runner
from runners.stats import RunnerStats

logger = logging.getLogger("vitrine.models")

State = Literal["missing", "loading", "checking", "ready", "failed", "draining"]


class Inferred(NamedTuple):
    """One item's logits, shape (K,) float32, and the sharpness of its picture where the card asks for it."""

    logits: npt.NDArray[np.float32]
    sharpness: float | None


@dataclass(frozen=True)
class RunnerOptions:
    """What an operator sets for every Runner; `max_batch` None leaves it to the CPU plan."""

    queue_size: int = 256
    max_batch: int | None = None
    linger_ms: float = 0.0


class ServedModel:
    """One model: its card, what state it is in, and its Runner once it is ready."""

    def __init__(self, card: ModelCard, stored: StoredModel | None, missing: str = "") -> None:
        self.card, self.stored = card, stored
        self.state: State = "loading" if stored else "missing"
        self.detail = "waiting to be loaded" if stored else missing
        self.device: str | None = None
        self.load_seconds: float | None = None
        self._backend: Backend | None = None
        self._runner: Runner[bytes, Transformed, Inferred] | None = None

    @property
    def name(self) -> str:
        """The card's name."""
        return self.card.name

    @property
    def version(self) -> str | None:
        """The stored version; None while there is none."""
        return self.stored.version if self.stored else None

    @property
    def unexplained(self) -> str:
        """Why this model has no explanations; empty if it has."""
        if self.card.explain is None:
            return f"the card of {self.name} names no layer to explain at"
        if self.stored and self.stored.explain_graph is None and not (self.stored.path / WEIGHTS).exists():
            return f"{self.name} came as an ONNX file without weights, and a gradient needs them"
        return ""

    def check_ready(self) -> None:
        """Raise Unavailable unless the model answers; the message says what it is doing, or what is wrong."""
        if self.state != "ready":
            raise Unavailable(f"{self.name} is {self.state}: {self.detail}", 5 if self.state == "failed" else 1)

    def submit(self, data: bytes, deadline: float | None = None) -> "Future[Answer[Inferred]]":
        """Queue one encoded picture; see `Runner.submit`, and `check_ready` for what else it raises."""
        self.check_ready()
        if self._runner is None:
            raise RuntimeError("a model that is ready has a Runner")
        return self._runner.submit(data, deadline)

    def stats(self) -> RunnerStats | None:
        """The Runner's counts; None before it runs."""
        return self._runner.stats() if self._runner else None

    def load(self, options: RunnerOptions, available: int) -> None:
        """Verify the files, load the backend, replay the goldens; ends in `ready` or `failed`, never raises."""
        if self.stored is None:
            return
        started = time.monotonic()
        try:
            self.detail = "checking its files"
            verify(self.stored)
            self.detail = "loading the graph"
            layout = plan(self.card, available, options.max_batch)
            self._backend = OnnxBackend(self.stored.graph, layout.threads)
            self._runner = self._new_runner(layout, options)
            self.state, self.detail, self.device = "checking", "replaying its goldens", self._backend.device
            self._replay()
        except Exception as error:
            said = isinstance(error, StoreError)
            what = f"{self.stored.tag} on {OnnxBackend.__name__} failed while {self.detail} ({type(error).__name__})."
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

    def _admit(self, data: bytes) -> Transformed:
        return transform(decode(data, self.card.limits), self.card.input)

    def _run(self, items: Sequence[Transformed]) -> list[Inferred]:
        if self._backend is None:
            raise RuntimeError("the backend is not loaded")
        logits = self._backend.run(np.stack([item.tensor for item in items]))
        if logits.shape != (len(items), len(self.card.labels)) or not np.isfinite(logits).all():
            raise RuntimeError(f"the backend gave logits of shape {logits.shape}, or some that are not finite")
        return [Inferred(row, item.sharpness) for row, item in zip(logits, items, strict=True)]

    def _new_runner(self, layout: CpuPlan, options: RunnerOptions) -> Runner[bytes, Transformed, Inferred]:
        return Runner(
            self.name,
            self._admit,
            self._run,
            lanes=layout.lanes,
            max_batch=layout.max_batch,
            queue_size=options.queue_size,
            linger_ms=options.linger_ms,
        )

    def _replay(self) -> None:
        """Run the goldens as a client's requests, then as one batch, and compare probabilities."""
        if self.stored is None or self._runner is None:
            raise RuntimeError("nothing is loaded")
        goldens, tolerance = read_goldens(self.stored.path)
        # One after the other: together they could share a batch, or be more than the queue takes.
        alone = [self._runner.submit(golden.data).result().value.logits for golden in goldens]
        together = [item.logits for item in self._run([self._admit(golden.data) for golden in goldens])]
        for how, rows in (("alone", alone), ("in a batch", together)):
            for golden, row in zip(goldens, rows, strict=True):
                away = float(np.abs(softmax(row) - softmax(golden.logits)).max())
                if not away <= tolerance:
                    raise StoreError(
                        f"{self.stored.tag} on {type(self._backend).__name__} ({self.device}): golden {golden.name}, "
                        f"{how}, is {away:.2e} away from its reference in probability (tolerance {tolerance:g}). "
                        f"Do not use it: `vitrine models verify {self.name}`, then import it again."
                    )


class ServedModels:
    """Every model of this process.

    Args:
        stored: the versions to serve.
        missing: cards of bundled models that are not installed, each with the command that brings it.
        default: name of the model behind the routes that name none.
        options: for every Runner.
    """

    def __init__(
        self,
        stored: Iterable[StoredModel],
        missing: Mapping[str, tuple[ModelCard, str]],
        default: str,
        options: RunnerOptions,
    ) -> None:
        self.default, self._options = default, options
        self.models = {each.card.name: ServedModel(each.card, each) for each in stored}
        for name, (card, how) in missing.items():
            self.models.setdefault(name, ServedModel(card, None, f"not installed; install it with `{how}`"))
        self._loader = threading.Thread(target=self._load, name="load-models", daemon=True)
        self._closing = False
        self.started_at = time.monotonic()

    def start(self) -> None:
        """Begin loading, the default model first; returns at once."""
        self._loader.start()

    def get(self, name: str | None = None) -> ServedModel:
        """A model by name; the default one without.

        Raises:
            NotFound: no such model; the message lists the known.
        """
        wanted = name or self.default
        if wanted not in self.models:
            known = ", ".join(sorted(self.models)) or "none"
            raise NotFound(f"There is no model {wanted!r} here. Known models: {known}.")
        return self.models[wanted]

    @property
    def ready(self) -> bool:
        """Whether the default model answers and no other is still on its way."""
        settled = all(model.state in ("ready", "failed", "missing") for model in self.models.values())
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
        # A list: every model is closed, also after one that was stuck.
        return all([model.close(max(0.0, deadline - time.monotonic())) for model in self.models.values()])  # noqa: C419

    def _load(self) -> None:
        cv2.setNumThreads(1)  # lanes are the parallelism
        available = cores()
        for model in sorted(self.models.values(), key=lambda each: each.name != self.default):
            if not self._closing:
                model.load(self._options, available)
