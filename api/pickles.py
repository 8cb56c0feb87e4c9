"""Refuses pickles from other machines, because to read a pickle is to run what is in it."""

from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send


class NoPickleFromAfar:
    """Answers 415 to a pickle that came over the network.

    BentoML's processes send each other pickles, and a service that another one depends on reads them from whoever
    reaches its port. The address that was called tells whether the caller is on this machine; no header changes it.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it without reading its body."""
        if scope["type"] == "http":
            address, port = scope.get("server") or ("", 0)
            is_local = port is None or address in ("127.0.0.1", "::1")  # a Unix socket has no port
            kinds = [value.lower() for name, value in scope["headers"] if name == b"content-type"]
            if not is_local and any(b"pickle" in kind for kind in kinds):
                await PlainTextResponse("Send JSON.", 415)(scope, receive, send)
                return
        await self._app(scope, receive, send)
