"""`GET /metrics`: what all processes of this server have counted, and what is the case with them just now."""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from api.exposition import CONTENT_TYPE, Family, Labels, counted_families, exported, write_families
from api.operation import Operation
from runners.metrics import write_all
from runners.stats import EXPLAIN, PREDICT
from serving.gauges import add_gauges
from serving.gradcam.client import ExplainerClient
from serving.loaded_model import LoadedModel
from serving.repository import ModelRepository

GAUGES = {
    "ready": ("vitrine_model_ready", "Whether the version answers, in every process: 1 or 0."),
    "golden_check": ("vitrine_golden_check", "Whether the goldens came out as they should at the start: 1 or 0."),
    "queue_depth": ("vitrine_queue_depth", "Items that wait."),
    "expected_wait": (
        "vitrine_expected_wait_seconds",
        "Seconds that an item which came now would wait for its turn; the longest of all workers.",
    ),
    "lanes": ("vitrine_lanes", "Lanes, which are threads that carry items."),
    "lanes_busy": ("vitrine_lanes_busy", "Lanes that carry items just now."),
}
"""What `serving.gauges` says of a version: the name of the metric, and what it means."""


class MetricsRoute:
    """The operation that Prometheus scrapes.

    Args:
        repository: the models of this process.
        explainer: calls the Grad-CAM process; None where explanations are switched off.
    """

    def __init__(self, repository: ModelRepository, explainer: ExplainerClient | None) -> None:
        self._repository, self._explainer = repository, explainer

    def operation(self) -> Operation:
        """Return the operation."""
        return Operation("GET", "/metrics", self.metrics, documented=False)

    async def metrics(self, request: Request) -> Response:
        """What all processes of this server have counted, and what is the case with them just now."""
        others = await self._repository.news_of_others()  # who write their counts before they tell
        gauges = gauge_families(self._repository, self._explainer, others)
        write_all()
        content = await asyncio.to_thread(lambda: write_families([*exported(counted_families()), *gauges]))
        return Response(content, headers={"Content-Type": CONTENT_TYPE})


def gauge_families(
    repository: ModelRepository, explainer: ExplainerClient | None, others: Sequence[Mapping[str, Any]]
) -> list[Family]:
    """Return what is the case with every version in this process and in the others.

    Args:
        repository: the models of this process.
        explainer: calls the Grad-CAM process; None where explanations are switched off.
        others: the news of the other workers.
    """
    every = [repository.news(), *others]
    models = [model for model in repository.every if model.stored]
    series: dict[str, list[tuple[Labels, float]]] = {name: [] for name in GAUGES}
    pending = list[tuple[Labels, float]]()
    for model in models:
        for runner, parts in _gauges_of(model, explainer, every):
            together = add_gauges(parts)
            for name, value in together.items():
                series[name].append((_labels(model) | {"runner": runner}, value))
            if runner == PREDICT and "queue_depth" in together:
                pending.append((_labels(model), together["queue_depth"]))
    is_ready = all(news["ready"] for news in every)
    return [
        *(_family(*GAUGES[name], samples) for name, samples in series.items()),
        _family("nv_inference_pending_request_count", "Items that wait.", pending),
        _family("vitrine_model_info", "What computes a version; always 1.", _infos(models)),
        _family("vitrine_explain_breaker_open", "Whether no explanations are asked for: 1 or 0.", _open(models, every)),
        _family(
            "vitrine_ready", "Whether the server is ready, as /health/ready says: 1 or 0.", [({}, float(is_ready))]
        ),
        _family("vitrine_workers", "Worker processes that answer.", [({}, float(len(every)))]),
    ]


def _family(name: str, text: str, series: Sequence[tuple[Labels, float]]) -> Family:
    return Family(name, "gauge", text, [(name, labels, value) for labels, value in series])


def _labels(model: LoadedModel) -> dict[str, str]:
    return {"model": model.name, "version": model.version or ""}


def _gauges_of(
    model: LoadedModel, explainer: ExplainerClient | None, every: Sequence[Mapping[str, Any]]
) -> Iterator[tuple[str, list[Mapping[str, float]]]]:
    """Yield the gauges of each process, by what its Runner does."""
    yield PREDICT, [gauges for news in every if (gauges := news["gauges"].get(model.tag))]
    if explainer is not None and not explainer.unavailable_reason and model.has_gradient:
        status = explainer.status.get(model.tag, {})
        yield EXPLAIN, [status["gauges"]] if status.get("gauges") else []


def _infos(models: Sequence[LoadedModel]) -> list[tuple[Labels, float]]:
    return [
        (
            _labels(model)
            | {
                "task": model.card.task,
                "architecture": model.card.architecture,
                "device": model.device or "",
                "runtime": model.runtime,
                "variant": model.stored.variant if model.stored else "",
            },
            1.0,
        )
        for model in models
    ]


def _open(models: Sequence[LoadedModel], every: Sequence[Mapping[str, Any]]) -> list[tuple[Labels, float]]:
    open_tags = {tag for news in every for tag in news["open_breakers"]}
    return [(_labels(model), float(model.tag in open_tags)) for model in models if model.has_gradient]
