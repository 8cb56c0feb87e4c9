"""The prediction routes without FastAPI's routing, which took a third of the event loop's time for a cheap model."""

from collections.abc import Awaitable, Callable, Mapping

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from api.problems import handle

Endpoint = Callable[[Request], Awaitable[Response]]


class Shortcut:
    """Answers POST at the paths it knows, and passes everything else on to the application, which documents them too.

    Args:
        app: what answers the rest.
        endpoints: by path.
    """

    def __init__(self, app: ASGIApp, endpoints: Mapping[str, Endpoint]) -> None:
        self._app, self._endpoints = app, endpoints

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        endpoint = self._endpoints.get(scope["path"]) if scope["method"] == "POST" else None
        if endpoint is None:
            await self._app(scope, receive, send)
            return
        request = Request(scope, receive)
        try:
            response = await endpoint(request)
        except Exception as error:
            response = await handle(request, error)
        await response(scope, receive, send)
