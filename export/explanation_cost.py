"""What explanations of an imported model cost beside its predictions: milliseconds, and memory at the peak.

Predictions and explanations are measured in a process each, so that neither's memory is counted for the other. They go
through the pipelines that serve them, alone and on one thread, on the model's first golden.
"""

import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np

from explain.base import METHOD_NAMES
from explain.rise import DEFAULT_SAMPLES, RISE, draw_masks
from models.background import read_background
from models.card import ImageCard, RowCard
from models.cost import Cost, MethodCost, write_cost
from models.goldens import read_goldens
from models.package import StoredModel, open_stored
from runners.cores import CoreShare, available_cores
from runners.machine import machine_of
from runners.pipeline import Pipeline
from serving.attributions import RowExplanationRequest, chunk_coalitions, row_methods
from serving.gradcam.requests import DEFAULT_ALPHA
from serving.gradcam.wire import ExplanationRequest
from serving.gradcam.worker import load_explanation
from serving.loading import load_prediction
from serving.masked import MaskedImage
from serving.options import RunnerOptions
from serving.rise import chunk_masks
from serving.row_pipeline import MixedRows

LONG_S: Final = 0.02
"""What takes longer is timed once, since an import should not wait for it."""
PATIENCE_S = 120.0
"""A process that measures longer is ended, and nothing is known of the cost."""
CODE_FOLDER = Path(__file__).resolve().parent.parent
Part = Literal["predictions", "explanations"]


def measure_cost(stored: StoredModel) -> str:
    """Measure what explanations of a stored model cost, and write it beside the model.

    Returns:
        Why there is no figure, in a sentence; empty if there is. Nothing else comes of a failure.
    """
    try:
        predictions = _measured_apart(stored, "predictions")
        methods = predictions["methods"]
        if stored.explain_graph is not None:
            explanations = _measured_apart(stored, "explanations")
            memory_mb = round(max(0.0, explanations["peak_mb"] - predictions["peak_mb"]), 1)
            methods = {name: {"ms": ms, "memory_mb": memory_mb} for name, ms in explanations["ms"].items()} | methods
        cost = Cost(
            date=str(datetime.now(UTC).date()),
            machine=machine_of("cpu", available_cores()),
            prediction_ms=predictions["ms"],
            methods=methods,
        )
        write_cost(stored.path, cost)
    except (OSError, ValueError, KeyError, subprocess.SubprocessError) as error:
        return f"What explanations of {stored.tag} cost could not be measured ({error})."
    return ""


def _measured_apart(stored: StoredModel, part: Part) -> dict[str, Any]:
    """Return what a process of its own measured."""
    command = [sys.executable, "-m", "export.explanation_cost", str(stored.path.absolute()), part]
    done = subprocess.run(command, cwd=CODE_FOLDER, capture_output=True, text=True, check=False, timeout=PATIENCE_S)
    if done.returncode:
        raise ValueError((done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1])
    measured: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return measured


def predictions_cost(stored: StoredModel) -> dict[str, Any]:
    """Return the milliseconds and the peak of predictions, and what explanations by many of them take."""
    loaded = load_prediction(stored, RunnerOptions(device="cpu"), CoreShare(1))
    payload, pipeline = loaded.golden_payload(read_goldens(stored.path)[0][0].data), loaded.pipeline
    pipeline.infer([pipeline.preprocess(payload)])  # the first takes longer
    prediction_s = _shortest_s(pipeline, payload)
    peak_mb = _peak_mb()
    card = stored.card
    measure = _rise_cost if isinstance(card, ImageCard) else _shapley_costs
    methods = measure(stored, pipeline, payload)
    memory_mb = round(_peak_mb() - peak_mb, 1)
    costs = {
        name: MethodCost(ms=_ms(prediction_s + seconds), memory_mb=memory_mb, evaluations=evaluations).model_dump()
        for name, (seconds, evaluations) in methods.items()
    }
    return {"ms": _ms(prediction_s), "peak_mb": peak_mb, "methods": costs}


def explanations_cost(stored: StoredModel) -> dict[str, Any]:
    """Return the milliseconds by each method that takes a gradient, and the peak of them all."""
    loaded = load_explanation(stored, RunnerOptions(device="cpu"), CoreShare(1))
    data, pipeline = read_goldens(stored.path)[0][0].data, loaded.pipeline
    requests = [
        ExplanationRequest(data, (), method, "overlay", DEFAULT_ALPHA, at_input_size=True) for method in METHOD_NAMES
    ]
    pipeline.infer([pipeline.preprocess(requests[0])])  # the first takes longer
    milliseconds = {request.method: _ms(_shortest_s(pipeline, request)) for request in requests}
    return {"ms": milliseconds, "peak_mb": _peak_mb()}


Seconds = dict[str, tuple[float, int]]
"""Seconds and evaluations by method, without those of the prediction."""


def _rise_cost(stored: StoredModel, pipeline: Pipeline[Any, Any, Any], payload: Any) -> Seconds:
    tensor = pipeline.preprocess(payload).tensor
    size = chunk_masks(tensor, "cpu")
    chunk = MaskedImage(tensor, draw_masks(DEFAULT_SAMPLES).part(0, size))
    return {RISE: (_shortest_s(pipeline, chunk) / size * DEFAULT_SAMPLES, DEFAULT_SAMPLES)}


def _shapley_costs(stored: StoredModel, pipeline: Pipeline[Any, Any, Any], payload: Any) -> Seconds:
    card, costs = stored.card, Seconds()
    assert isinstance(card, RowCard)
    if (background := read_background(stored.path, card.input)) is None:
        return costs
    row = pipeline.preprocess(payload).tensor[0]
    for name in row_methods(card):
        method = RowExplanationRequest(method=name).shapley(card)
        size = min(method.count, chunk_coalitions(background.rows))
        chunk = MixedRows(row, background.rows, method.coalitions(0, size))
        costs[name] = (_shortest_s(pipeline, chunk) / size * method.count, method.count * len(background.rows))
    return costs


def _shortest_s(pipeline: Pipeline[Any, Any, Any], payload: Any) -> float:
    """Return the seconds that one item takes of this thread: the shortest of five times, or the first if it is long."""

    def timed() -> float:
        started = time.thread_time()  # what else runs on the machine has no part in it
        pipeline.infer([pipeline.preprocess(payload)])
        return time.thread_time() - started

    first = timed()
    return first if first > LONG_S else min(first, *(timed() for _ in range(4)))


def _ms(seconds: float) -> float:
    return float(np.format_float_positional(seconds * 1e3, precision=4, fractional=False))


def _peak_mb() -> float:
    """Return the most memory that this process has held so far, in MiB."""
    status = Path("/proc/self/status")
    if status.exists():  # `ru_maxrss` would be the parent's if that was more
        fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(fields["VmHWM"].split()[0]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024**2 if sys.platform == "darwin" else 1024)


def main(folder: str, part: str) -> None:
    """Print what was measured as a line of JSON."""
    stored = open_stored(Path(folder))
    measure: Callable[[StoredModel], dict[str, Any]]
    measure = predictions_cost if part == "predictions" else explanations_cost
    print(json.dumps(measure(stored)))


if __name__ == "__main__":
    main(*sys.argv[1:])
