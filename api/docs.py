"""Swagger UI and ReDoc from local files: no page loads anything from elsewhere."""

from importlib.util import find_spec
from pathlib import Path

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

from api.operation import Endpoint

POLICY = "default-src 'self' 'unsafe-inline' data: blob:"
"""The pages' inline scripts may run; what their bundles would fetch elsewhere (a logo) is blocked."""

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Vitrine</title>
<link rel="shortcut icon" href="/docs/files/favicon.png">
{head}
</head>
<body>
{body}
</body>
</html>
"""
SWAGGER = _PAGE.format(
    head='<link rel="stylesheet" href="/docs/files/swagger-ui.css">',
    body="""<div id="swagger-ui"></div>
<script src="/docs/files/swagger-ui-bundle.js"></script>
<script>
SwaggerUIBundle({url: "/openapi.json", dom_id: "#swagger-ui", deepLinking: true, showExtensions: true,
  showCommonExtensions: true, presets: [SwaggerUIBundle.presets.apis, SwaggerUIBundle.SwaggerUIStandalonePreset]})
</script>""",
)
REDOC = _PAGE.format(
    head="<style>body { margin: 0; padding: 0; }</style>",
    body='<redoc spec-url="/openapi.json"></redoc>\n<script src="/docs/files/redoc.standalone.js"></script>',
)


def docs_routes() -> list[BaseRoute]:
    """Return the routes of `/docs`, `/redoc` and the files that they need."""
    return [
        Route("/docs", _page(SWAGGER)),
        Route("/redoc", _page(REDOC)),
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


def _page(text: str) -> Endpoint:
    async def page(request: Request) -> Response:
        return HTMLResponse(text, headers={"Content-Security-Policy": POLICY})

    return page
