"""The application: our routes, and behind them BentoML's."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Mount, Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from api.aliases import answer_schemas
from api.auth import Authenticator
from api.bodies import Bodies
from api.connections import Connections
from api.control import ModelControl
from api.docs import docs_routes
from api.kserve_v1 import KServeV1
from api.limits import ReachedLimits
from api.metadata import MetadataRoutes
from api.metrics import MetricsRoute
from api.middleware import Middleware, wants_page
from api.oip.http import OpenInference
from api.openapi import openapi_document
from api.operation import Endpoint, Operation
from api.page import STATIC, PageFiles, page
from api.quick import QuickRequests
from api.routes import PredictionRoutes
from api.torchserve import TorchServe
from serving.predictor import Predictor
from serving.repository import ModelRepository
from settings import Settings

DOCUMENTATION = STATIC.with_name("documentation")
SHARED_HEADERS = (
    *("X-Request-ID", "X-Process-Time", "Server-Timing", "Retry-After", "Cache-Status"),
    *("RateLimit", "RateLimit-Policy"),
)
"""What pages of other origins may read of an answer's headers."""


class _Routing(NamedTuple):
    """The routes for the cards that are served.

    Attributes:
        generation: that of the repository.
        fixed: the operation of each method and path without parameters, which is found at once.
        router: tries one route after the other.
    """

    generation: int
    fixed: Mapping[tuple[str, str], Operation]
    router: Router


def build_app(
    repository: ModelRepository,
    predictor: Predictor,
    settings: Settings,
    version: str,
    behind: ASGIApp | None = None,
    behind_paths: Collection[str] = (),
    authenticator: Authenticator | None = None,
    connections: Connections | None = None,
    bodies: Bodies | None = None,
    control: ModelControl | None = None,
) -> ASGIApp:
    """Return the ASGI application of one process.

    Args:
        repository: the models.
        predictor: predicts and explains with them.
        settings: limits and switches.
        version: Vitrine's own.
        behind: BentoML's application, which gets lifespan events and the paths in `behind_paths`.
        behind_paths: what BentoML answers.
        authenticator: checks keys, for BentoML's paths too; None where none is asked for.
        connections: are told what answers some requests without the application.
        bodies: the bodies of all requests of the process; by default only those over HTTP, as the settings limit them.
        control: loads and unloads models for clients; None refuses all.
    """
    control = control or ModelControl()

    async def not_ours(scope: Scope, receive: Receive, send: Send) -> None:
        if behind is None or scope["path"] not in behind_paths:
            raise HTTPException(404, f"There is nothing at {scope['path']}. GET / lists the endpoints.")
        await behind(scope, receive, send)

    def route() -> _Routing:
        """Return the routes for the cards that are served just now."""
        generation = repository.generation
        schemas = {name: answer_schemas(model.card) for name, model in repository.models.items()}
        operations = [
            *PredictionRoutes(repository, predictor, schemas).operations(),
            *MetadataRoutes(repository, predictor.explainer, schemas, version).operations(),
            *OpenInference(repository, predictor, version, settings.max_body_bytes, control).operations(),
            *KServeV1(repository, predictor).operations(),
            *TorchServe(repository, predictor).operations(),
            Operation("GET", "/", _index(repository, settings, version), tag="service"),
            MetricsRoute(repository, predictor.explainer).operation(),
        ]
        routes: list[BaseRoute] = [operation.route() for operation in operations]
        if settings.docs_enabled:
            document = openapi_document(operations, version, asks_for_keys=authenticator is not None)
            routes += [Route("/openapi.json", _document(document)), *docs_routes(DOCUMENTATION)]
        routes.append(Mount("/static", PageFiles()))
        fixed = {(operation.method, operation.path): operation for operation in reversed(operations)}
        return _Routing(generation, fixed, Router(routes, redirect_slashes=False, default=not_ours))

    routing = route()

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal routing
        if routing.generation != repository.generation:
            routing = route()
        scope["app"] = routing.router  # with it a wrong method is an exception, which becomes problem details
        await routing.fixed.get((scope["method"], scope["path"]), routing.router)(scope, receive, send)

    bodies = bodies or Bodies.of_settings(settings, ReachedLimits())
    middleware = Middleware(
        application,
        bodies,
        repository.default,
        repository.models,
        logs_access=settings.access_log,
        authenticator=authenticator,
    )

    if connections is not None and authenticator is None:
        is_shared = bool(settings.origins)
        connections.quick = QuickRequests(repository, predictor, middleware, bodies, is_shared=is_shared)

    answer_http = _shared_with(settings.origins, middleware)

    async def entry(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await answer_http(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close"})  # there are none here, nor a way past the keys
        elif behind is not None:
            await behind(scope, receive, send)

    return entry


def _shared_with(origins: Sequence[str], app: ASGIApp) -> ASGIApp:
    """Return the application that pages of these origins may call: a browser asks for that before it sends a key."""
    if not origins:
        return app
    return CORSMiddleware(
        app,
        allow_origins=origins,
        allow_methods=("GET", "POST", "PUT"),
        allow_headers=("*",),
        expose_headers=SHARED_HEADERS,
    )


def _document(document: dict[str, Any]) -> Endpoint:
    async def openapi(request: Request) -> Response:
        return JSONResponse(document)

    return openapi


def _index(repository: ModelRepository, settings: Settings, version: str) -> Endpoint:
    async def index(request: Request) -> Response:
        """The web page for a browser; name, version, endpoints and model states for everyone else."""
        if wants_page(request.scope):
            return page()
        actions = ("predict", "predict/batch", "explain", "explain/batch")
        endpoints = [*(f"/models/{{name}}/{action}" for action in actions), "/models", "/health", "/metrics", "/v2"]
        endpoints += ["/docs", "/redoc", "/openapi.json"] if settings.docs_enabled else []
        states = {name: model.state for name, model in sorted(repository.models.items())}
        return JSONResponse({"name": "vitrine", "version": version, "endpoints": endpoints, "models": states})

    return index
