"""The web page: its files, and the headers that keep a browser to them."""

from pathlib import Path

from starlette.responses import FileResponse, Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

STATIC = Path(__file__).parent / "static"
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' blob: data:",
        "connect-src 'self'",
        "form-action 'none'",  # the page's scripts send what its forms hold
        "base-uri 'none'",
        "frame-ancestors 'none'",
    )
)
"""What the page may load and do: nothing of other hosts, and nothing that is written into it."""
HEADERS = {
    "Content-Security-Policy": POLICY,
    "Cache-Control": "no-cache",
    "Permissions-Policy": "camera=(self), geolocation=(), microphone=()",
    "Referrer-Policy": "no-referrer",
}


class PageFiles(StaticFiles):
    """The files of the page, which a browser asks after each time: a new version of the server brings new ones."""

    def __init__(self) -> None:
        super().__init__(directory=STATIC)

    async def get_response(self, path: str, scope: Scope) -> Response:
        """Return a file, or that the browser's own copy of it is still right."""
        response = await super().get_response(path, scope)
        response.headers["Cache-Control"] = "no-cache"
        return response


def page() -> Response:
    """Return the page itself."""
    return FileResponse(STATIC / "page.html", headers=HEADERS)
