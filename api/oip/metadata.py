"""The server and its models as the Open Inference Protocol describes them: JSON, whose fields gRPC's messages share."""

import json
from typing import Any

from api.oip.names import NamedModel, names_of
from api.oip.signature import ROWS, TensorSpec, output_specs
from api.oip.tensors import BYTES
from models.card import ImageCard
from runners.stats import RunnerStats
from serving.loaded_model import LoadedModel, State
from serving.repository import ModelRepository

EXTENSIONS = (
    "binary_tensor_data",
    "classification",
    "model_configuration",
    "model_repository",
    "parameters",
    "statistics",
)
INDEX_STATES: dict[State, str] = {"ready": "READY", "loading": "LOADING", "checking": "LOADING"}
"""The protocol's words for our states; every other one is UNAVAILABLE."""
READINESS_MAX_AGE_S = 0.5
"""How old the other workers' news may be where readiness is asked for, in seconds."""
PLATFORMS = {"onnx": ("onnxruntime_onnx", "onnxruntime"), "torch": ("pytorch_libtorch", "pytorch")}
"""Triton's names for the platform and the backend of each runtime."""


def server_metadata(version: str) -> dict[str, Any]:
    """Return the server's name, version and extensions."""
    return {"name": "vitrine", "version": version, "extensions": list(EXTENSIONS)}


def model_metadata(repository: ModelRepository, named: NamedModel) -> dict[str, Any]:
    """Return a model's versions, and the tensors of the name that it was asked by; -1 is a size that may vary."""
    name, model, signature = named
    return {
        "name": name,
        "versions": list(repository.versions.get(model.name, ())),
        "platform": PLATFORMS[model.runtime][0],
        "inputs": [_tensor_metadata(spec) for spec in signature.inputs],
        "outputs": [_tensor_metadata(signature.output)],
    }


def model_config(named: NamedModel) -> dict[str, Any]:
    """Return as much of Triton's model configuration as applies here.

    Its parameters hold, one a line, the model's labels and all outputs that a request may name; for a model of rows
    also an example of the inputs, as perf_analyzer reads it from a file.
    """
    name, model, signature = named
    platform, backend = PLATFORMS[model.runtime]
    outputs = output_specs(model.card, is_explainable=not model.not_explainable_reason)
    texts = {"labels": "\n".join(model.card.labels), "outputs": "\n".join(spec.name for spec in outputs)}
    if not isinstance(model.card, ImageCard):
        values = {feature.name: [feature.example] for feature in model.card.input.features}
        row = values if signature.suffix else {ROWS: [value for column in values.values() for value in column]}
        texts["example"] = json.dumps({"data": [row]})
    return {
        "name": name,
        "platform": platform,
        "backend": backend,
        "max_batch_size": model.card.limits.max_items,
        "input": [_tensor_config(spec) | {"format": spec.format} for spec in signature.inputs],
        "output": [_tensor_config(signature.output)],
        "parameters": {key: {"string_value": text} for key, text in texts.items()},
    }


def model_statistics(repository: ModelRepository, named: NamedModel | None = None) -> dict[str, Any]:
    """Return Triton's statistics of one model, or of all that are installed; times are in nanoseconds.

    Whatever name a model is asked by, its counts are those of the model; among all models each stands once.

    An inference is a picture or a row; inference_count / execution_count is the mean batch. What succeeds or fails is
    an item of the queue: a picture, or the rows of one request. In inference_stats each item has the whole time of its
    batch in compute_infer, as with Triton; in batch_stats the time of a batch counts once.
    """
    if named:
        return {"model_stats": [_statistics(named.name, named.model)]}
    return {"model_stats": [_statistics(model.name, model) for model in repository.every if model.stored]}


def repository_index(repository: ModelRepository, *, ready_only: bool = False) -> list[dict[str, str]]:
    """Return every version of every model with its state under each of its names, or only those that are ready.

    The versions that are on their way into service, or failed on it, are among them.
    """
    return [
        {
            "name": named.name,
            "version": model.version or "",
            "state": INDEX_STATES.get(model.state, "UNAVAILABLE"),
            "reason": model.detail,
        }
        for model in [*repository.every, *repository.candidates.values()]
        if model.state == "ready" or not ready_only
        for named in names_of(model)
    ]


def _statistics(name: str, model: LoadedModel) -> dict[str, Any]:
    stats = model.stats() or RunnerStats()
    items = stats.succeeded
    return {
        "name": name,
        "version": model.version or "",
        "last_inference": int(stats.last_inference * 1e3),
        "inference_count": stats.inferences,
        "execution_count": stats.executions,
        "inference_stats": {
            "success": _duration(items, stats.queue_seconds + stats.decode_seconds + stats.waited_seconds),
            "fail": _duration(sum(stats.failed.values()), 0.0),
            "queue": _duration(items, stats.queue_seconds),
            "compute_input": _duration(items, stats.decode_seconds),
            "compute_infer": _duration(items, stats.waited_seconds),
        },
        "batch_stats": [
            {"batch_size": size, "compute_infer": _duration(count, seconds)}
            for size, (count, seconds) in stats.batches.items()
        ],
    }


def _tensor_metadata(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "datatype": spec.datatype, "shape": list(spec.shape)}


def _tensor_config(spec: TensorSpec) -> dict[str, Any]:
    """Return a tensor without its batch axis, which Triton's configuration leaves out; dims may not be empty there."""
    data_type = "TYPE_STRING" if spec.datatype == BYTES else f"TYPE_{spec.datatype}"
    dims = list(spec.shape[1:])
    config = {"name": spec.name, "data_type": data_type, "dims": dims or [1]}
    return config if dims else config | {"reshape": {"shape": []}}


def _duration(count: int, seconds: float) -> dict[str, int]:
    return {"count": count, "ns": int(seconds * 1e9)}
