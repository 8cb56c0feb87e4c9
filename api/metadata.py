"""Health, cards and statistics of what is served."""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import asdict
from inspect import cleandoc
from typing import Any

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from api.aliases import AnswerSchemas, with_aliases
from api.operation import Endpoint, Operation, at_paths
from api.parameter_names import check_names
from api.schemas import timestamp
from api.state_schemas import Health, Liveness, ModelFacts, ModelHealth, Stats
from api.target import VersionQuery, requested_model
from errors import StoreError
from explain.base import METHOD_NAMES
from explain.rise import RISE
from models.card import ImageCard
from models.cost import read_cost
from models.package import StoredModel
from serving.attributions import row_methods, target_names
from serving.gradcam.client import ExplainerClient
from serving.loaded_model import LoadedModel
from serving.repository import ModelRepository


class MetadataRoutes:
    """The operations about the models of one process.

    Args:
        repository: the models.
        explainer: calls the Grad-CAM process; None where explanations are switched off.
        schemas: the schemas of each model's answers, by its name.
        version: Vitrine's own.
    """

    def __init__(
        self,
        repository: ModelRepository,
        explainer: ExplainerClient | None,
        schemas: Mapping[str, AnswerSchemas],
        version: str,
    ) -> None:
        self._repository, self._explainer = repository, explainer
        self._schemas, self._version = schemas, version

    def operations(self) -> list[Operation]:
        """Return every operation, with the other names that it answers to."""
        default = self._schemas.get(self._repository.default)
        default_model, default_stats = (default.model, default.stats) if default else (ModelFacts, Stats)
        table: tuple[tuple[Endpoint, type[BaseModel] | None, str, tuple[str, ...]], ...] = (
            (self.health, Health, "health", ("/health",)),
            (self.live, Liveness, "health", ("/health/live", "/livez", "/healthz")),
            (self.ready, Health, "health", ("/health/ready", "/readyz")),
            (self.stats_of_default, default_stats, "health", ("/health/stats",)),
            (self.models, None, "models", ("/models",)),
            (self.model, ModelFacts, "models", ("/models/{name}",)),
            (self.model, ModelFacts, "models", ("/models/{name}/versions/{version}",)),
            (self.default_model, default_model, "models", ("/model-info", "/model/info", "/predict/info")),
            (self.stats, Stats, "models", ("/models/{name}/stats", "/models/{name}/versions/{version}/stats")),
        )
        return [
            operation
            for endpoint, answer, tag, paths in table
            for operation in at_paths(
                "GET",
                paths,
                endpoint,
                tag=tag,
                answer=answer,
                query=_query(paths[0]),
                description=self._description(endpoint),
            )
        ]

    def _description(self, endpoint: Endpoint) -> str:
        """Return what an operation does and, where the path names the model, the further names of each one's answer."""
        sections: dict[Endpoint, str] = {self.model: "model_also", self.stats: "stats_also"}
        lines = [cleandoc(endpoint.__doc__ or "")]
        for name, model in sorted(self._repository.models.items()):
            if aliases := getattr(model.card.answer, sections.get(endpoint, ""), None):
                lines.append(f"That of {name} has also: {', '.join(f'`{alias}`' for alias in aliases)}.")
        return "\n\n".join(lines)

    async def health(self, request: Request) -> Response:
        """The state of the service and of every model; always 200 while the process answers."""
        await self._repository.refresh(max_age_s=0.5)
        return _json(self._health())

    async def live(self, request: Request) -> Response:
        """Liveness: the process answers."""
        return _json(Liveness())

    async def ready(self, request: Request) -> Response:
        """Readiness: 200 once the default model predicts and no other is still loading, else 503 and the reason."""
        await self._repository.refresh(max_age_s=0.5)
        health, is_ready = self._health(), self._repository.ready
        return _json(health.model_copy(update={"status": "ready"}) if is_ready else health, 200 if is_ready else 503)

    async def models(self, request: Request) -> Response:
        """The card, version and state of every model, and what is wrong with each card that cannot be read."""
        details = [(await self._details(model)).model_dump() for _, model in sorted(self._repository.models.items())]
        unreadable = self._repository.invalid | self._repository.unreadable
        return JSONResponse({"default": self._repository.default, "models": details, "unreadable": unreadable})

    async def model(self, request: Request) -> Response:
        """The card, version, files and measured quality of one model."""
        check_names(request.query_params, VersionQuery.model_fields)
        return _json(await self._details(requested_model(self._repository, request)))

    async def default_model(self, request: Request) -> Response:
        """The default model's card."""
        return _json(await self._details(self._repository.get()))

    async def stats(self, request: Request) -> Response:
        """Counts, mean batch, queue and compute time of one model since the start."""
        check_names(request.query_params, VersionQuery.model_fields)
        await self._repository.refresh()
        return _json(self._stats(requested_model(self._repository, request)))

    async def stats_of_default(self, request: Request) -> Response:
        """The default model's statistics."""
        await self._repository.refresh()
        return _json(self._stats(self._repository.get()))

    async def _details(self, model: LoadedModel) -> ModelFacts:
        # It reads files, which may take as long as they like.
        details = await asyncio.to_thread(model_details, model, self._version)
        details.versions = list(self._repository.versions.get(model.name, ()))
        return with_aliases(details, model.card.answer.model_also)

    def _stats(self, model: LoadedModel) -> Stats:
        stats = model_stats(model)
        if self._explainer is not None and not self._explainer.unavailable_reason:
            stats.explain = self._explainer.status.get(model.tag, {}).get("stats")
        return with_aliases(stats, model.card.answer.stats_also)

    def _explanation_state(self, model: LoadedModel) -> str:
        """Return `ready`, or why there are no explanations just now."""
        if model.not_explainable_reason:
            return model.not_explainable_reason
        if not model.has_gradient:
            return "ready" if model.state == "ready" else f"{model.state}: {model.detail}"
        if self._explainer is None:
            return "switched off (VITRINE_EXPLAIN=false)"
        if self._explainer.unavailable_reason:
            return self._explainer.unavailable_reason
        status = self._explainer.status.get(model.tag, {"state": "missing", "detail": "not installed"})
        return "ready" if status["state"] == "ready" else f"{status['state']}: {status['detail']}"

    def _details_of_ready_explanations(self) -> list[str]:
        """Return what is wrong in the Grad-CAM process with models that it explains all the same."""
        states = self._explainer.status.values() if self._explainer is not None else ()
        return [state["detail"] for state in states if state["state"] == "ready" and state["detail"]]

    def _health(self) -> Health:
        repository = self._repository
        default = repository.models.get(repository.default)
        every = [*repository.every, *repository.candidates.values()]
        states = {model.state for model in every}
        if repository.closing:
            status, detail = "draining", "finishing what is in flight; send nothing new"
        elif default is None or default.state in ("missing", "failed"):
            status = "degraded"
            problems = [f"{repository.default}: {default.detail}"] if default else []
            detail = " ".join([*repository.lock_problems, *problems, *repository.absences()])
        elif not repository.ready:
            busy = [model for model in repository.every if model.state in ("loading", "checking")]
            absences = [] if busy else repository.absences()
            detail = "; ".join(f"{model.tag}: {model.detail}" for model in busy) or " ".join(absences)
            detail, status = detail or "another worker is not ready", "degraded" if absences else "starting"
        else:
            problems = [*repository.lock_problems, *repository.unreadable.values(), *repository.invalid.values()]
            problems += ["a model failed"] if "failed" in states else []
            problems += [reason for model in every if (reason := model.stuck_reason)]
            problems += [f"explanations of {detail}" for detail in self._details_of_ready_explanations()]
            status, detail = ("degraded" if problems else "healthy"), " ".join(problems)
        other_versions = {model.tag: model for model in every if model is not repository.models.get(model.name)}
        listed = dict(sorted((repository.models | other_versions).items()))
        unreadable = {name: why for name, why in repository.invalid.items() if name not in listed}
        return Health(
            status=status,
            detail=detail,
            device=default.device if default else None,
            model_loaded=default is not None and default.state == "ready",
            model_version=default.version if default else None,
            uptime_seconds=round(time.monotonic() - repository.started_at, 3),
            models={
                name: ModelHealth(state=model.state, version=model.version, device=model.device, detail=model.detail)
                for name, model in listed.items()
            }
            | {
                name: ModelHealth(state="failed", version=None, device=None, detail=f"its card is not valid: {why}")
                for name, why in unreadable.items()
            },
            explanations={name: self._explanation_state(model) for name, model in listed.items()},
            timestamp=timestamp(),
        )


def _query(path: str) -> type[BaseModel] | None:
    """Return the model of the query of a path that names a model but no version of it, which has one."""
    return VersionQuery if "{name}" in path and "{version}" not in path else None


def model_stats(model: LoadedModel) -> Stats:
    """Return a model's counters; zeros before it runs."""
    stats = model.stats()
    answered_s = stats.decode_seconds + stats.waited_seconds if stats else 0.0
    return Stats(
        model=model.name,
        version=model.version,
        state=model.state,
        model_loaded=model.state == "ready",
        device=model.device,
        parameters=model.card.parameters,
        load_seconds=model.load_seconds,
        gathered=model.lanes is not None and model.lanes.gathered is not None,
        mean_inference_time_ms=round(answered_s * 1e3 / stats.succeeded, 3) if stats and stats.succeeded else 0.0,
        **(asdict(stats) if stats else {}),
    )


def model_details(model: LoadedModel, service_version: str) -> ModelFacts:
    """Return a model's card with what is installed and measured of it."""
    stored = model.stored
    card, report = model.card, stored.report() if stored else {}
    return ModelFacts(
        **card.model_dump(include=set(ModelFacts.model_fields) - {"explain"}),
        state=model.state,
        detail=model.detail,
        version=model.version,
        variant=stored.variant if stored else None,
        sha256=_digests(stored) if stored else {},
        metrics=report.get("metrics", {}),
        parity=stored.parity() if stored else {},
        explain=_with_cost(_explain_facts(model), stored),
        service_version=service_version,
    )


def _explain_facts(model: LoadedModel) -> dict[str, Any] | None:
    card, stored = model.card, model.stored
    if not isinstance(card, ImageCard):
        if stored is None or model.not_explainable_reason:
            return None
        background = model.background  # None until the model is loaded
        return {
            "method": row_methods(card)[0],
            "methods": row_methods(card),
            "targets": target_names(card),
            "background": background.data if background else None,
            "background_rows": len(background.rows) if background else None,
        }
    if card.explain is None or not model.has_gradient:
        rise = {"layer": None, "method": RISE, "methods": [RISE], "way": RISE, "no_gradient": model.no_gradient_reason}
        return rise if stored else None
    return {
        **card.explain.model_dump(),
        "methods": [*METHOD_NAMES, RISE],
        "way": stored.explained_by if stored else None,
        "quality": stored.explanations() if stored else {},
    }


def _with_cost(facts: dict[str, Any] | None, stored: StoredModel | None) -> dict[str, Any] | None:
    """Return how a model is explained, with what that costs where it was measured."""
    cost = read_cost(stored.path) if stored and facts else None
    return facts | {"cost": cost.model_dump(exclude_none=True)} if facts and cost else facts


def _digests(stored: StoredModel) -> dict[str, str]:
    """Return the SHA-256 of each file of a model; of one whose manifest was damaged since the start, none."""
    try:
        return stored.manifest()
    except StoreError:
        return {}


def _json(body: BaseModel, status: int = 200) -> Response:
    return Response(body.model_dump_json(), status, media_type="application/json")
