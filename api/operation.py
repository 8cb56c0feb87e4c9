"""One operation of the HTTP API: what answers a method at a path, and what OpenAPI says of it."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from inspect import cleandoc
from re import sub
from typing import Any

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

Endpoint = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True)
class Operation:
    """A method at a path.

    Attributes:
        method: GET or POST.
        path: with parameters in braces.
        endpoint: answers a request; an exception that it raises becomes problem details in the middleware.
        tag: the section of the documentation that it stands in.
        answer: the model of the JSON it answers with; None where the documentation shows none.
        query: the model of its query parameters.
        body: OpenAPI's description of the request's body.
        has_picture: whether it answers with a PNG instead where it is asked to.
        problems: whether it answers with all the problems of a prediction.
        documented: whether OpenAPI shows it; other names of an operation are not.
        summary: a few words; by default the endpoint's name.
        description: by default the endpoint's docstring.
        operation_id: by default made of the endpoint's name, path and method.
        template: the path as metrics know it, with the model's name as a parameter; by default the path.
    """

    method: str
    path: str
    endpoint: Endpoint
    tag: str = ""
    answer: type[BaseModel] | None = None
    query: type[BaseModel] | None = None
    body: Mapping[str, Any] = field(default_factory=dict)
    has_picture: bool = False
    problems: bool = False
    documented: bool = True
    summary: str = ""
    description: str = ""
    operation_id: str = ""
    template: str = ""

    def route(self) -> Route:
        """Return Starlette's route, whose application is this operation: exceptions are left to the middleware."""
        route = Route(self.path, self, methods=[self.method])
        route.methods = {self.method}  # HEAD is a GET by the time it comes here
        return route

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, as an ASGI application."""
        scope["state"]["route"] = self.template or self.path
        response = await self.endpoint(Request(scope, receive, send))
        await response(scope, receive, send)

    def titles(self) -> dict[str, str]:
        """Return summary, description and id as OpenAPI shows them."""
        name = getattr(self.endpoint, "__name__", "")
        unique = sub(r"\W", "_", f"{name}{self.path}")
        return {
            "summary": self.summary or name.replace("_", " ").title(),
            "description": self.description or cleandoc(self.endpoint.__doc__ or ""),
            "operationId": self.operation_id or f"{unique}_{self.method.lower()}",
        }


def at_paths(method: str, paths: Sequence[str], endpoint: Endpoint, **details: Any) -> list[Operation]:
    """Return one operation for each path, of which only the first is documented."""
    return [Operation(method, path, endpoint, documented=index == 0, **details) for index, path in enumerate(paths)]
