"""What the Open Inference Protocol says of the server and its models, as JSON; gRPC's messages have the same fields."""

from typing import Any

from api.oip.items import most_items
from api.oip.signature import TensorSpec, inputs_of, outputs_of
from api.oip.tensors import BYTES
from runners.stats import StatsKeeper
from serving.loaded_model import ServedModel
from serving.repository import ServedModels

EXTENSIONS = ("binary_tensor_data", "classification", "model_configuration", "parameters", "statistics")
LOADING = ("loading", "checking")
NOTHING = StatsKeeper("").snapshot(0, 0)
"""What a model has done that does not run."""
PLATFORMS = {"onnx": ("onnxruntime_onnx", "onnxruntime"), "torch": ("pytorch_libtorch", "pytorch")}


def server_facts(version: str) -> dict[str, Any]:
    """Name, version and the extensions that are there."""
    return {"name": "vitrine", "version": version, "extensions": list(EXTENSIONS)}


def model_facts(served: ServedModels, model: ServedModel) -> dict[str, Any]:
    """Versions and tensors; -1 is a size that may vary."""
    return {
        "name": model.name,
        "versions": list(served.versions.get(model.name, ())),
        "platform": PLATFORMS[model.runtime][0],
        "inputs": [_said(each) for each in inputs_of(model.card)],
        "outputs": [_said(each) for each in outputs_of(model.card, explained=not model.unexplained)],
    }


def model_config(model: ServedModel) -> dict[str, Any]:
    """Triton's model configuration, as far as there is something to say."""
    platform, backend = PLATFORMS[model.runtime]
    alternatives = len(inputs_of(model.card)) > 1
    return {
        "name": model.name,
        "platform": platform,
        "backend": backend,
        "max_batch_size": most_items(model.card, model.queue_size),
        "input": [{**_configured(each), "optional": alternatives} for each in inputs_of(model.card)],
        "output": [_configured(each) for each in outputs_of(model.card, explained=not model.unexplained)],
        "parameters": {"labels": {"string_value": "\n".join(model.card.labels)}},
    }


def model_statistics(model: ServedModel) -> dict[str, Any]:
    """Triton's statistics from the Runner's counters; durations are in nanoseconds.

    An inference is a picture or a row; inference_count / execution_count is the mean batch. What succeeds or fails is
    what waits in the queue: a picture, or the rows of one request. Each has the whole time of its batch in
    compute_infer, as with Triton; in batch_stats a batch's time counts once.
    """
    stats = model.stats() or NOTHING
    batches = [
        {"batch_size": size, "compute_infer": _duration(count, seconds)}
        for size, (count, seconds) in stats.batches.items()
    ]
    times = {
        "success": _duration(stats.succeeded, stats.queue_seconds + stats.decode_seconds + stats.waited_seconds),
        "fail": _duration(sum(stats.failed.values()), 0.0),
        "queue": _duration(stats.succeeded, stats.queue_seconds),
        "compute_input": _duration(stats.succeeded, stats.decode_seconds),
        "compute_infer": _duration(stats.succeeded, stats.waited_seconds),
    }
    return {
        "name": model.name,
        "version": model.version or "",
        "last_inference": int(stats.last_inference * 1e3),
        "inference_count": stats.inferences,
        "execution_count": stats.executions,
        "inference_stats": times,
        "batch_stats": batches,
    }


def statistics_of(served: ServedModels, model: ServedModel | None) -> dict[str, Any]:
    """The statistics of one version, or of every one that is there."""
    chosen = [each for each in served.every if each.stored] if model is None else [model]
    return {"model_stats": [model_statistics(each) for each in chosen]}


def index_of(served: ServedModels, *, ready_only: bool = False) -> list[dict[str, str]]:
    """Every version of every model and what state it is in."""
    rows = [
        {
            "name": each.name,
            "version": each.version or "",
            "state": "READY" if each.state == "ready" else "LOADING" if each.state in LOADING else "UNAVAILABLE",
            "reason": each.detail,
        }
        for each in served.every
    ]
    return [row for row in rows if row["state"] == "READY" or not ready_only]


def _said(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "datatype": spec.datatype, "shape": list(spec.shape)}


def _configured(spec: TensorSpec) -> dict[str, Any]:
    """A tensor without its batch axis, which Triton's configuration leaves out; dims may not be empty there."""
    kind = "TYPE_STRING" if spec.datatype == BYTES else f"TYPE_{spec.datatype}"
    dims = list(spec.shape[1:])
    return {"name": spec.name, "data_type": kind, "dims": dims or [1], **({} if dims else {"reshape": {"shape": []}})}


def _duration(count: int, seconds: float) -> dict[str, int]:
    return {"count": count, "ns": int(seconds * 1e9)}
