"""Loading a stored model for predictions: ONNX Runtime on the CPU, PyTorch on an accelerator."""

import logging
import timeit
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from backends.base import Backend
from backends.devices import choose
from backends.onnx import EarlyExitBackend, OnnxBackend
from errors import StoreError
from models.card import ImageCard
from models.goldens import read_goldens
from models.package import EARLY_EXIT_VARIANT, WEIGHTS, StoredModel
from postprocessing.comparison import agrees, difference
from preprocessing.prepare import Prepare
from runners.cores import CoreShare
from runners.gathered import CHEAP_RUN_S
from runners.metrics import metrics
from runners.pipeline import Pipeline
from runners.plan import CHEAP_ITEM_S, Plan, make_plan
from runners.stats import PREDICT
from runners.tuned import tuned_plan
from serving.gathered_pictures import GatheredPictures
from serving.masked import ExplainablePipeline
from serving.options import RunnerOptions
from serving.pipeline import EarlyExitPipeline, ImagePipeline, make_pipeline
from serving.self_check import golden_batch, golden_payload

if TYPE_CHECKING:
    from backends.torch import Precision, TorchBackend

logger = logging.getLogger("vitrine.models")

WIDE_PAYS_S = 0.005
"""A graph that one thread runs in less time gains nothing from more threads, and a second session costs memory."""


@dataclass(frozen=True)
class LoadedPipeline:
    """A pipeline whose model is in memory, and what its Runner and its self-check need to know.

    Attributes:
        pipeline: turns payloads into results.
        plan: what the Runner gets.
        runner_name: the Runner's name in messages.
        runtime: the library that computes: `onnx` or `torch`.
        device: where it computes: `cpu`, `cuda:0`, `mps`.
        computed_by: the class that computes, for messages.
        golden_payload: makes of a golden input what the pipeline preprocesses.
        golden_tolerance: the largest difference of a golden that passes, where it is less than the goldens' own.
        checks_batches: whether the self-check also replays the goldens in batches.
        begin_counting: called once the self-check has passed, where the pipeline counts what clients get.
        release: frees the model's memory; nothing may be inferred afterwards.
        is_quick: of a model so cheap that its items are gathered on the event loop: says which are preprocessed there.
        gathered: the pipeline of these; None where it is that of all.
    """

    pipeline: Pipeline[Any, Any, Any]
    plan: Plan
    runner_name: str
    runtime: str
    device: str
    computed_by: str
    golden_payload: Callable[[bytes], Any]
    release: Callable[[], None]
    golden_tolerance: float = np.inf
    checks_batches: bool = True
    begin_counting: Callable[[], None] | None = None
    is_quick: Callable[[Any], bool] | None = None
    gathered: Pipeline[Any, Any, Any] | None = None


class Load(Protocol):
    """Loads a stored model for a role."""

    def __call__(
        self, stored: StoredModel, options: RunnerOptions, share: CoreShare, prepare_slow: Prepare | None = None
    ) -> LoadedPipeline:
        """Load a model; StoreError or DeviceMissing says why it cannot be."""


class Role(NamedTuple):
    """What a process does with its models, and the words for it.

    Attributes:
        load: loads a stored model; StoreError or DeviceMissing says why it cannot.
        loading_detail: what the model does while it is being loaded.
        ready_message: the line of log when a model is ready, from its tag, the seconds it took and its device.
        unavailable_message: the answer of a model that is not ready, with `{name}`, `{state}` and `{detail}`.
        failed_retry_after_s: when a client may ask again for a model that has failed.
        logger: where the state of the models is logged.
        runner: what the Runners do, in the metrics: `predict` or `explain`.
    """

    load: Load
    loading_detail: str
    ready_message: str
    unavailable_message: str
    failed_retry_after_s: int
    logger: logging.Logger
    runner: str


def load_prediction(
    stored: StoredModel, options: RunnerOptions, share: CoreShare, prepare_slow: Prepare | None = None
) -> LoadedPipeline:
    """Load a stored model for predictions, as it was tuned on this machine, else by this machine's own plan.

    Args:
        stored: the model.
        options: what the operator set for every Runner.
        share: the cores of this process.
        prepare_slow: decodes and transforms pictures that may take long; None where all are prepared alike.

    Raises:
        DeviceMissing: the device that the operator asked for is not there.
        StoreError: the device needs PyTorch, which is not installed.
    """
    card = stored.card
    device = device_for(stored, options.device)
    tuned = tuned_plan(stored.path, stored.tag, device, share.available)
    backend, plan = load_backend(stored, device, share, lambda planned: options.override(tuned or planned))
    pipeline, begin_counting = make_pipeline(card, backend, prepare_slow), None
    if isinstance(card, ImageCard) and stored.variant == EARLY_EXIT_VARIANT:
        early_exits = metrics().early_exit
        pipeline = EarlyExitPipeline(
            card, backend, lambda part: early_exits.labels(card.name, stored.version, part).inc(), prepare_slow
        )
        begin_counting = pipeline.begin_counting
    served: Pipeline[Any, Any, Any] = pipeline
    gathered = served
    if isinstance(card, ImageCard) and isinstance(pipeline, ImagePipeline):
        served, gathered = ExplainablePipeline(card, pipeline, prepare_slow), GatheredPictures(card, pipeline)
    may_gather = options.gather and backend.device == "cpu"
    may_gather = may_gather and plan.lanes == 1 and plan.max_batch > 1 and not plan.linger_ms
    return LoadedPipeline(
        pipeline=served,
        plan=plan,
        is_quick=pipeline.is_quick if may_gather and _run_s(stored, backend) < CHEAP_RUN_S else None,
        gathered=gathered,
        runner_name=card.name,
        runtime=backend.runtime,
        device=backend.device,
        computed_by=f"{type(backend).__name__} ({backend.device})",
        golden_payload=lambda data: golden_payload(card, data),
        begin_counting=begin_counting,
        release=backend.close,
    )


PREDICTION = Role(
    load=load_prediction,
    loading_detail="loading the graph",
    ready_message="%s is ready after %.1f s on %s",
    unavailable_message="{name} is {state}: {detail}",
    failed_retry_after_s=5,
    logger=logger,
    runner=PREDICT,
)
"""The role of the models in the process that predicts."""


def preparing_slow(role: Role, prepare_slow: Prepare) -> Role:
    """Return a role whose models have slow pictures prepared by `prepare_slow`."""
    return role._replace(load=partial(role.load, prepare_slow=prepare_slow))


def device_for(stored: StoredModel, requested: str) -> str:
    """Return the device that a model runs on.

    A network of rows stays on the CPU, which answers before an accelerator has been handed the batch. So does a model
    that came as a graph, because PyTorch has no network of it, and a variant, because PyTorch would run the plain
    network in its place.

    Raises:
        DeviceMissing: the requested device, or PyTorch, is not there.
    """
    runs_on_torch = isinstance(stored.card, ImageCard) and stored.card.architecture != "onnx"
    return choose(requested) if runs_on_torch and stored.variant == "fp32" else "cpu"


def load_backend(
    stored: StoredModel, device: str, share: CoreShare, override: Callable[[Plan], Plan] = lambda planned: planned
) -> tuple[Backend, Plan]:
    """Load a model onto a device that `device_for` returned.

    On CUDA it computes in fp16, else in bf16, where every golden comes out within its tolerance and keeps its label;
    else in fp32. It is warmed up for the batches that it will see.

    Args:
        stored: the model.
        device: `cpu` for ONNX Runtime, any other for PyTorch.
        share: the cores of this process.
        override: puts what was tuned or set in place of what this machine's own plan says.

    Returns:
        The backend and the plan it was loaded for.

    Raises:
        StoreError: the device needs PyTorch, which is not installed.
    """
    if device == "cpu":
        return _load_onnx(stored, share, override)
    try:
        from backends.torch import TorchBackend
        from models.checkpoint import load_network, read_checkpoint
    except ImportError as error:
        raise StoreError(
            f"{stored.tag} on {device} needs PyTorch ({error.name} is missing): install the `torch` extra, "
            "or set VITRINE_DEVICE=cpu."
        ) from error
    takes_images = isinstance(stored.card, ImageCard)
    plan = override(make_plan(share.available, device=device, takes_images=takes_images))
    network = load_network(stored.card, read_checkpoint(stored.path / WEIGHTS).weights)
    out_of_memory = metrics().out_of_memory.labels(stored.card.name, stored.version)

    def at_precision(precision: "Precision") -> "TorchBackend":
        torch_device = device.removeprefix("torch-")
        return TorchBackend(network, torch_device, precision, plan.max_batch, lambda size: out_of_memory.inc())

    backend = None
    candidates: tuple[Precision, ...] = ("fp16", "bf16") if device.startswith("cuda") else ()
    for precision in candidates:
        candidate = at_precision(precision)
        if _keeps_goldens(candidate, stored):
            backend = candidate
            break
    backend = backend or at_precision("fp32")
    if isinstance(stored.card, ImageCard):
        backend.warm_up(stored.card.input.shape)
    return backend, plan


def _load_onnx(stored: StoredModel, share: CoreShare, override: Callable[[Plan], Plan]) -> tuple[OnnxBackend, Plan]:
    backend = (EarlyExitBackend if stored.variant == EARLY_EXIT_VARIANT else OnnxBackend)(stored.graph)
    inputs = [(golden.name, golden.data) for golden in read_goldens(stored.path)[0][:1]]
    batch = golden_batch(stored.card, inputs)
    run_s = _shortest_s(lambda: backend.run(batch))
    preprocess_s = _shortest_s(lambda: golden_batch(stored.card, inputs))
    takes_images = isinstance(stored.card, ImageCard)
    plan = make_plan(share.available, takes_images=takes_images, item_seconds=preprocess_s + run_s)
    plan = override(plan if run_s >= WIDE_PAYS_S else replace(plan, widths=(1,)))
    if plan.widths != (1,):
        backend.widen(plan.widths, share.cores)
    return backend, plan


def _run_s(stored: StoredModel, backend: Backend) -> float:
    """Return the seconds that the network takes for one golden input alone; infinity without any."""
    inputs = [(golden.name, golden.data) for golden in read_goldens(stored.path)[0][:1]]
    if not inputs:
        return np.inf
    batch = golden_batch(stored.card, inputs)
    return _shortest_s(lambda: backend.run(batch))


def _shortest_s(work: Callable[[], object]) -> float:
    """Return the seconds that `work` takes: the shortest of five times, or the first if it is clearly long.

    Of what is nearly cheap it is the shortest of 25: others that start meanwhile, such as the workers beside this one,
    must not make a cheap model a dear one for as long as it is served.
    """
    first = timeit.timeit(work, number=1)
    shortest = first if first > 4 * WIDE_PAYS_S else min(first, *timeit.repeat(work, number=1, repeat=4))
    return min(shortest, *timeit.repeat(work, number=1, repeat=20)) if shortest < 3 * CHEAP_ITEM_S else shortest


def _keeps_goldens(backend: "TorchBackend", stored: StoredModel) -> bool:
    """Return whether every golden comes out within its tolerance and with its label at the backend's precision."""
    goldens, tolerance = read_goldens(stored.path)
    batch = golden_batch(stored.card, [(golden.name, golden.data) for golden in goldens])
    references = np.stack([golden.logits for golden in goldens])
    try:
        logits = backend.run(batch).logits
    except RuntimeError as error:  # an operator without kernels of that precision
        logger.info("%s at %s: refused (%s)", stored.tag, backend.precision, error)
        return False
    passed = agrees(logits, references, stored.card, tolerance)
    distance, verdict = difference(logits, references, stored.card).max(), "used" if passed else "refused"
    logger.info("%s at %s: %.1e from its goldens: %s", stored.tag, backend.precision, distance, verdict)
    return passed
