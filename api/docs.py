"""Swagger UI and ReDoc from the files of the package `fastapi-offline`: no page loads anything from elsewhere."""

from pathlib import Path

import fastapi_offline
from fastapi import APIRouter
from fastapi.openapi.docs import get_redoc_html, get_swagger_ui_html
from starlette.responses import HTMLResponse
from starlette.staticfiles import StaticFiles

_POLICY = "default-src 'self' 'unsafe-inline' data: blob:"
"""Their inline scripts may run; what their bundles would fetch elsewhere (a logo) is blocked."""

ASSETS = Path(fastapi_offline.__file__).parent / "static"


def docs(title: str) -> APIRouter:
    """The routes `/docs` and `/redoc` and the files that they need."""
    router = APIRouter(include_in_schema=False)
    router.mount("/docs/files", StaticFiles(directory=ASSETS))

    @router.get("/docs")
    async def swagger() -> HTMLResponse:
        page = get_swagger_ui_html(
            openapi_url="/openapi.json",
            title=title,
            swagger_js_url="/docs/files/swagger-ui-bundle.js",
            swagger_css_url="/docs/files/swagger-ui.css",
            swagger_favicon_url="/docs/files/favicon.png",
        )
        page.headers["Content-Security-Policy"] = _POLICY
        return page

    @router.get("/redoc")
    async def redoc() -> HTMLResponse:
        page = get_redoc_html(
            openapi_url="/openapi.json",
            title=title,
            redoc_js_url="/docs/files/redoc.standalone.js",
            redoc_favicon_url="/docs/files/favicon.png",
            with_google_fonts=False,
        )
        page.headers["Content-Security-Policy"] = _POLICY
        return page

    return router
