"""Errors as clients see them: one table, RFC 9457 bodies."""

import logging
from http import HTTPStatus

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from api.schemas import Problem
from errors import (
    DeadlineExceeded,
    InvalidInput,
    KeyRefused,
    NotFound,
    QueueFull,
    TooLarge,
    Unavailable,
    VitrineError,
)

logger = logging.getLogger("vitrine.api")

STATUS: tuple[tuple[type[VitrineError], int], ...] = (
    (TooLarge, 413),  # before InvalidInput, which it is one of
    (InvalidInput, 400),
    (KeyRefused, 401),
    (NotFound, 404),
    (QueueFull, 429),
    (Unavailable, 503),
    (DeadlineExceeded, 504),
)
"""Everything else is ours: 500, without detail."""

CLIENT_GONE = 499
"""What the log and the metrics say of a client that hung up; nobody receives it."""


class ClientGone(Exception):
    """The client hung up before its answer was there."""


def printable(message: str, most: int = 2000) -> str:
    """A message that can be sent whatever a client's text did to it: not too long, and nothing that UTF-8 has not."""
    return message[:most].encode("utf-8", "backslashreplace").decode()


def problem_of(error: BaseException, request_id: str) -> Problem:
    """The problem body of an error; what is not the client's or the load's fault gives no detail."""
    if isinstance(error, HTTPException):
        status, detail = error.status_code, str(error.detail)
    else:
        status = next((code for kind, code in STATUS if isinstance(error, kind)), 500)
        detail = str(error) if status != 500 else f"Something failed on our side. The log has it under {request_id}."
    detail = printable(detail)
    return Problem(title=HTTPStatus(status).phrase, status=status, detail=detail, error=detail, request_id=request_id)


def problem_response(error: BaseException, request_id: str) -> Response:
    """The response to an error, with Retry-After where coming back helps."""
    problem = problem_of(error, request_id)
    headers = dict(error.headers or {}) if isinstance(error, HTTPException) else {}
    if isinstance(error, QueueFull | Unavailable):
        headers["Retry-After"] = str(error.retry_after_s)
    if isinstance(error, KeyRefused):
        headers["WWW-Authenticate"] = "Bearer"
    if problem.status == 500:
        logger.error("request %s failed", request_id, exc_info=error)
    return Response(problem.model_dump_json(), problem.status, headers, "application/problem+json")


async def handle(request: Request, error: Exception) -> Response:
    """Starlette's exception handler for everything."""
    if isinstance(error, ClientGone):
        return Response(status_code=CLIENT_GONE)
    return problem_response(error, request.state.request_id)
