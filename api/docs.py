"""Swagger UI and ReDoc from the files of the package `fastapi-offline`: no page loads anything from elsewhere."""

from pathlib import Path

import fastapi_offline
from fastapi import APIRouter
from fastapi.openapi.docs import get_redoc_html, get_swagger_ui_html
from starlette.responses import HTMLResponse
from starlette.staticfiles import StaticFiles

ASSETS = Path(fastapi_offline.__file__).parent / "static"


def docs(title: str) -> APIRouter:
    """The routes `/docs` and `/redoc` and the files that they need."""
    router = APIRouter(include_in_schema=False)
    router.mount("/docs/files", StaticFiles(directory=ASSETS))

    @router.get("/docs")
    async def swagger() -> HTMLResponse:
        return get_swagger_ui_html(
            openapi_url="/openapi.json",
            title=title,
            swagger_js_url="/docs/files/swagger-ui-bundle.js",
            swagger_css_url="/docs/files/swagger-ui.css",
            swagger_favicon_url="/docs/files/favicon.png",
        )

    @router.get("/redoc")
    async def redoc() -> HTMLResponse:
        return get_redoc_html(
            openapi_url="/openapi.json",
            title=title,
            redoc_js_url="/docs/files/redoc.standalone.js",
            redoc_favicon_url="/docs/files/favicon.png",
            with_google_fonts=False,
        )

    return router
