"""Which backend a stored model runs on: ONNX Runtime on the CPU, PyTorch on an accelerator."""

import logging
import timeit
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from backends.base import Backend
from backends.devices import choose
from backends.onnx import EarlyExitBackend, OnnxBackend
from errors import StoreError
from export.parity import golden_batch
from models.card import ImageCard
from models.goldens import read_goldens
from models.package import EARLY_EXIT, WEIGHTS, StoredModel
from postprocessing.interpret import called, difference
from runners.plan import CoreShare, CpuPlan, plan
from runners.stats import metrics

if TYPE_CHECKING:
    from backends.torch import Precision, TorchBackend

logger = logging.getLogger("vitrine.models")

WIDE_PAYS_S = 0.005
"""A graph that is quicker than this on one thread gains nothing from more: it would only pay for a second session."""


def device_of(stored: StoredModel, wanted: str) -> str:
    """Where a model runs.

    A network of rows stays on the CPU, which answers before an accelerator has been handed the batch; so does a model
    that came as a graph, since PyTorch has no network of it, and a variant, since PyTorch would run the plain
    network beside it.

    Raises:
        DeviceMissing: see `backends.devices.choose`.
    """
    on_torch = isinstance(stored.card, ImageCard) and stored.card.architecture != "onnx" and stored.variant == "fp32"
    return choose(wanted) if on_torch else "cpu"


def new_backend(
    stored: StoredModel, device: str, share: CoreShare, over: Callable[[CpuPlan], CpuPlan] = lambda planned: planned
) -> tuple[Backend, CpuPlan]:
    """The loaded backend of a model on a device that `device_of` named, and the plan it was loaded for.

    `over` puts what was tuned or set in the place of what `plan` says.

    On CUDA it computes in fp16, else bf16, where the goldens come out within their tolerance and no label flips; fp32
    else. Warmed up for the batches it will see.

    Raises:
        StoreError: the device needs PyTorch, which is not installed.
    """
    if device == "cpu":
        return _on_cpu(stored, share, over)
    try:
        from backends.torch import TorchBackend
        from models.checkpoint import load_network, read_checkpoint
    except ImportError as error:
        raise StoreError(
            f"{stored.tag} on {device} needs PyTorch ({error.name} is missing): install the `torch` extra, "
            "or set VITRINE_DEVICE=cpu."
        ) from error
    layout = over(plan(stored.card, share.available, device))
    network = load_network(stored.card, read_checkpoint(stored.path / WEIGHTS).weights)

    def at(precision: "Precision") -> "TorchBackend":
        failed = metrics().out_of_memory.labels(stored.card.name)
        return TorchBackend(
            network, device.removeprefix("torch-"), precision, layout.max_batch, lambda size: failed.inc()
        )

    candidates: tuple[Precision, ...] = ("fp16", "bf16") if device.startswith("cuda") else ()
    backend = next((found for each in candidates if _passes(found := at(each), stored)), None) or at("fp32")
    if isinstance(stored.card, ImageCard):
        backend.warm_up((3, *stored.card.input.size))
    return backend, layout


def _on_cpu(stored: StoredModel, share: CoreShare, over: Callable[[CpuPlan], CpuPlan]) -> tuple[OnnxBackend, CpuPlan]:
    backend = (EarlyExitBackend if stored.variant == EARLY_EXIT else OnnxBackend)(stored.graph)
    inputs = [(each.name, each.data) for each in read_goldens(stored.path)[0][:1]]
    batch = golden_batch(stored.card, inputs)
    run_s, admit_s = _least_s(lambda: backend.run(batch)), _least_s(lambda: golden_batch(stored.card, inputs))
    planned = plan(stored.card, share.available, item_s=admit_s + run_s)
    layout = over(planned if run_s >= WIDE_PAYS_S else replace(planned, widths=(1,)))
    if layout.widths != (1,):
        backend.widen(layout.widths, share.cores)
    return backend, layout


def _least_s(work: Callable[[], object]) -> float:
    """Seconds that `work` takes, the least of five; of one where that is so long that no plan hangs on it."""
    first = timeit.timeit(work, number=1)
    return first if first > 4 * WIDE_PAYS_S else min(first, *timeit.repeat(work, number=1, repeat=4))


def _passes(backend: "TorchBackend", stored: StoredModel) -> bool:
    goldens, tolerance = read_goldens(stored.path)
    batch = golden_batch(stored.card, [(golden.name, golden.data) for golden in goldens])
    wanted = np.stack([golden.logits for golden in goldens])
    try:
        got = backend.run(batch).logits
    except RuntimeError as error:  # an operator without kernels of that precision
        logger.info("%s at %s: refused (%s)", stored.tag, backend.precision, error)
        return False
    away = float(difference(got, wanted, stored.card).max())
    flips = any(called(one, stored.card) != called(other, stored.card) for one, other in zip(got, wanted, strict=True))
    passed = away <= tolerance and not flips
    verdict = "used" if passed else "refused"
    logger.info("%s at %s: %.1e from its goldens: %s", stored.tag, backend.precision, away, verdict)
    return passed
