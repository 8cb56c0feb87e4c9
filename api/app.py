"""The application: our routes, and behind them BentoML's."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Receive, Scope, Send

from api.auth import Gate
from api.docs import docs
from api.images import Pictures
from api.metadata import Facts
from api.middleware import Front, wants_page
from api.oip.http import OpenInference
from api.oip.inference import Inference
from api.problems import ClientGone, handle
from api.routes import Predictor
from api.shortcut import Shortcut
from errors import VitrineError
from serving.gradcam.client import RemoteExplainer
from serving.repository import ServedModels
from settings import Settings

STATIC = Path(__file__).parent / "static"
_PAGE_POLICY = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'"


def build_app(
    served: ServedModels,
    settings: Settings,
    version: str,
    explainer: RemoteExplainer | None = None,
    behind: ASGIApp | None = None,
    behind_paths: Collection[str] = (),
    gate: Gate | None = None,
) -> ASGIApp:
    """The ASGI app of one process.

    Args:
        served: the models.
        settings: limits and switches.
        version: Vitrine's own.
        explainer: the Grad-CAM runner; None where it is switched off.
        behind: BentoML's app; gets lifespan events, and the paths that are not ours but in `behind_paths`.
        behind_paths: what BentoML answers.
        gate: what checks keys, of BentoML's paths too; None where none is asked.
    """
    app = FastAPI(
        title="Vitrine",
        version=version,
        description="Image classifiers whose every prediction can be checked. Errors are RFC 9457 problem details.",
        openapi_url="/openapi.json" if settings.docs_enabled else None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        exception_handlers=dict.fromkeys((VitrineError, HTTPException, ClientGone, Exception), handle),
    )
    predictor = Predictor(served, settings, explainer)
    app.include_router(predictor.routes())
    app.include_router(Facts(served, explainer).routes())
    inference = Inference(Pictures(settings.timeout_ms, explainer))
    app.include_router(OpenInference(served, inference, version, settings.max_body_bytes).routes())
    if settings.docs_enabled:
        app.include_router(docs("Vitrine"))
    app.mount("/static", StaticFiles(directory=STATIC))

    @app.get("/", tags=["service"])
    async def index(request: Request) -> Response:
        """The web page for a browser; name, version, endpoints and model states for everyone else."""
        if wants_page(request.scope):
            return FileResponse(STATIC / "page.html", headers={"Content-Security-Policy": _PAGE_POLICY})
        endpoints = ["/models/{name}/predict", "/models/{name}/predict/batch", "/models/{name}/explain"]
        endpoints += ["/models", "/health", "/metrics", "/v2"]
        endpoints += ["/docs", "/redoc", "/openapi.json"] if settings.docs_enabled else []
        states = {name: model.state for name, model in sorted(served.models.items())}
        return JSONResponse({"name": "vitrine", "version": version, "endpoints": endpoints, "models": states})

    async def not_ours(scope: Scope, receive: Receive, send: Send) -> None:
        if behind is not None and scope["path"] in behind_paths:
            await behind(scope, receive, send)
        else:
            raise HTTPException(404, f"There is nothing at {scope['path']}. GET / lists the endpoints.")

    app.router.default = not_ours
    app.openapi_schema = _without_422(app.openapi())
    if gate is not None:
        _say_keys(app.openapi_schema)
    front = Front(
        Shortcut(app, predictor.shortcuts()),
        settings.max_body_bytes,
        served.default,
        frozenset(served.models),
        log=settings.access_log,
        gate=gate,
    )

    async def entry(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await front(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close"})  # there are none here, nor a way past the gate
        elif behind is not None:
            await behind(scope, receive, send)

    return entry


def _without_422(document: dict[str, Any]) -> dict[str, Any]:
    """Drop the answer that FastAPI documents by itself: we check parameters ourselves and say 400."""
    for operations in document["paths"].values():
        for operation in operations.values():
            operation.get("responses", {}).pop("422", None)
    return document


def _say_keys(document: dict[str, Any]) -> None:
    """The two ways to send a key; Swagger UI makes its Authorize button of them."""
    document.setdefault("components", {})["securitySchemes"] = {
        "bearer": {"type": "http", "scheme": "bearer"},
        "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    }
    document["security"] = [{"bearer": []}, {"header": []}]
