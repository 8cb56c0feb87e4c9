"""Swagger UI and ReDoc from local files: no page loads anything from elsewhere."""

from importlib.util import find_spec
from pathlib import Path

from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

from api.operation import Endpoint

POLICY = "default-src 'self' 'unsafe-inline' data: blob:"
"""The pages' inline scripts may run; what their bundles would fetch elsewhere (a logo) is blocked."""


def docs_routes(pages: Path) -> list[BaseRoute]:
    """Return the routes of `/docs` and `/redoc`, whose pages lie in a folder, and of the files that they need."""
    return [
        Route("/docs", _page(pages / "swagger.html")),
        Route("/redoc", _page(pages / "redoc.html")),
        Mount("/docs/files", StaticFiles(directory=files_folder())),
    ]


def files_folder() -> Path:
    """Return the folder of the package `fastapi-offline` that holds the bundles; the package is not imported.

    Raises:
        RuntimeError: the package is not installed.
    """
    package = find_spec("fastapi_offline")
    if package is None or package.origin is None:
        raise RuntimeError("The package fastapi-offline, which brings Swagger UI and ReDoc, is not installed.")
    return Path(package.origin).parent / "static"


def _page(file: Path) -> Endpoint:
    async def page(request: Request) -> Response:
        return FileResponse(file, headers={"Content-Security-Policy": POLICY})

    return page
