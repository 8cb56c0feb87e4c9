"""What is served and how it is: health, cards, statistics."""

import time
from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, Response
from pydantic import BaseModel
from starlette.responses import JSONResponse

from api.schemas import Health, ModelFacts, ModelHealth, Stats, timestamp
from explain.base import METHOD_NAMES
from models.card import ImageCard
from serving.gradcam.client import RemoteExplainer
from serving.loaded_model import ServedModel
from serving.repository import ServedModels


class Facts:
    """Health, cards and statistics of the models of one process."""

    def __init__(self, served: ServedModels, explainer: RemoteExplainer | None) -> None:
        self._served, self._explainer = served, explainer

    def routes(self) -> APIRouter:
        """The routes and what else they answer to."""
        router = APIRouter()
        tables: tuple[tuple[Any, type[BaseModel] | None, str, tuple[str, ...]], ...] = (
            (self.health, Health, "health", ("/health",)),
            (self.live, None, "health", ("/health/live", "/livez", "/healthz")),
            (self.ready, Health, "health", ("/health/ready", "/readyz")),
            (self.stats_of_default, Stats, "health", ("/health/stats",)),
            (self.models, None, "models", ("/models",)),
            (self.model, ModelFacts, "models", ("/models/{name}",)),
            (self.model, ModelFacts, "models", ("/models/{name}/versions/{version}",)),
            (self.default_model, ModelFacts, "models", ("/model-info", "/model/info", "/predict/info")),
            (self.stats, Stats, "models", ("/models/{name}/stats", "/models/{name}/versions/{version}/stats")),
        )
        for endpoint, model, tag, paths in tables:
            for index, path in enumerate(paths):
                shown = index == 0
                router.add_api_route(path, endpoint, response_model=model, tags=[tag], include_in_schema=shown)
        return router

    async def health(self) -> Response:
        """The service and every model's state; always 200 while the process answers."""
        await self._served.refresh(at_most_s=0.5)
        return _json(self._health())

    async def live(self) -> Response:
        """Liveness: the process answers."""
        return JSONResponse({"status": "ok"})

    async def ready(self) -> Response:
        """Readiness: 200 once the default model predicts and no other is still loading, else 503 and why."""
        await self._served.refresh(at_most_s=0.5)
        return _json(self._health(), 200 if self._served.ready else 503)

    async def models(self) -> Response:
        """The card, version and state of every model."""
        facts = [self._facts(model).model_dump() for _, model in sorted(self._served.models.items())]
        return JSONResponse({"default": self._served.default, "models": facts})

    async def model(self, name: str, version: str | None = None) -> Response:
        """One model's card, version, files and measured quality."""
        return _json(self._facts(self._served.get(name, version)))

    async def default_model(self) -> Response:
        """The default model's card."""
        return _json(self._facts(self._served.get()))

    async def stats(self, name: str, version: str | None = None) -> Response:
        """Counts, mean batch, queue and compute time of one model since the start."""
        await self._served.refresh()
        return _json(self._stats_of(self._served.get(name, version)))

    async def stats_of_default(self) -> Response:
        """The default model's statistics."""
        await self._served.refresh()
        return _json(self._stats_of(self._served.get()))

    def _facts(self, model: ServedModel) -> ModelFacts:
        facts = facts_of(model)
        facts.versions = list(self._served.versions.get(model.name, ()))
        return facts

    def _stats_of(self, model: ServedModel) -> Stats:
        body = stats_of(model)
        if self._explainer is not None and not self._explainer.open:
            body.explain = self._explainer.status.get(model.tag, {}).get("stats")
        return body

    def _explanations(self, model: ServedModel) -> str:
        """`ready`, or why there are none just now."""
        if model.unexplained:
            return model.unexplained
        if self._explainer is None:
            return "switched off (VITRINE_EXPLAIN=false)"
        if self._explainer.open:
            return self._explainer.open
        there = self._explainer.status.get(model.tag, {"state": "missing", "detail": "not installed"})
        return "ready" if there["state"] == "ready" else f"{there['state']}: {there['detail']}"

    def _health(self) -> Health:
        served = self._served
        default = served.models.get(served.default)
        states = {model.state for model in served.every}
        if served.closing:
            status, detail = "draining", "finishing what is in flight; send nothing new"
        elif default is None or default.state in ("missing", "failed"):
            status = "degraded"
            detail = f"{served.default}: {default.detail}" if default else f"there is no model {served.default!r}"
        elif not served.ready:
            busy = [model for model in served.every if model.state in ("loading", "checking")]
            detail = "; ".join(f"{model.tag}: {model.detail}" for model in busy) or "another worker is not ready"
            status = "starting"
        else:
            status, detail = ("degraded", "a model failed") if "failed" in states else ("ok", "")
        others = {each.tag: each for each in served.every if each is not served.models[each.name]}
        listed = dict(sorted((served.models | others).items()))
        return Health(
            status=status,
            detail=detail,
            device=default.device if default else None,
            model_loaded=default is not None and default.state == "ready",
            model_version=default.version if default else None,
            uptime_seconds=round(time.monotonic() - served.started_at, 3),
            models={
                name: ModelHealth(state=model.state, version=model.version, device=model.device, detail=model.detail)
                for name, model in listed.items()
            },
            explanations={name: self._explanations(model) for name, model in listed.items()},
            timestamp=timestamp(),
        )


def stats_of(model: ServedModel) -> Stats:
    """A model's counters; zeros before it runs."""
    stats = model.stats()
    return Stats(
        model=model.name,
        version=model.version,
        state=model.state,
        device=model.device,
        load_seconds=model.load_seconds,
        **(asdict(stats) if stats else {}),
    )


def facts_of(model: ServedModel) -> ModelFacts:
    """A model's card with what is installed and measured of it."""
    stored = model.stored
    card, report = model.card, stored.report() if stored else {}
    explain = (
        {**card.explain.model_dump(), "methods": METHOD_NAMES, "quality": stored.explanations() if stored else {}}
        if isinstance(card, ImageCard) and card.explain
        else None
    )
    return ModelFacts(
        **card.model_dump(exclude={"explain"}),
        state=model.state,
        detail=model.detail,
        version=model.version,
        variant=stored.variant if stored else None,
        sha256=stored.manifest() if stored else {},
        metrics=report.get("metrics", {}),
        parity=stored.parity() if stored else {},
        explain=explain,
    )


def _json(body: BaseModel, status: int = 200) -> Response:
    return Response(body.model_dump_json(), status, media_type="application/json")
