"""Errors as clients see them: one table, RFC 9457 bodies."""

import logging
from http import HTTPStatus

from starlette.exceptions import HTTPException
from starlette.responses import Response

import errors
from api.schemas import Problem, QuotaProblem

logger = logging.getLogger("vitrine.api")

CALLER_GONE = 499
"""What the log and the metrics note of a client that hung up; nobody receives it."""

STATUS: tuple[tuple[type[errors.VitrineError], int], ...] = (
    (errors.TooLarge, 413),  # before InvalidInput, which it is one of
    (errors.InvalidInput, 400),
    (errors.KeyRefused, 401),
    (errors.NotAllowed, 403),
    (errors.NotFound, 404),
    (errors.BodyTimeout, 408),
    (errors.CallerGone, CALLER_GONE),
    (errors.QueueFull, 429),
    (errors.Unavailable, 503),
    (errors.DeadlineExceeded, 504),
)
"""The status of each error; everything else is our fault: 500, without detail."""


def printable(message: str, most: int = 2000) -> str:
    """Return a message that can be sent whatever client's text is in it: not too long, and nothing that UTF-8 lacks."""
    return message[:most].encode("utf-8", "backslashreplace").decode()


def problem_of(error: BaseException, request_id: str) -> Problem:
    """Return the problem details of an error; one that is neither the client's nor the load's fault gives no detail."""
    if isinstance(error, HTTPException):
        status, detail = error.status_code, str(error.detail)
    else:
        status = next((code for kind, code in STATUS if isinstance(error, kind)), 500)
        detail = str(error) if status != 500 else f"Something failed on our side. The log has it under {request_id}."
    detail = printable(detail)
    problem = Problem(
        title=HTTPStatus(status).phrase if status != CALLER_GONE else "Client Closed Request",
        status=status,
        detail=detail,
        error=detail,
        request_id=request_id,
    )
    return QuotaProblem.of(problem, error.quota) if isinstance(error, errors.QuotaReached) else problem


def problem_response(error: BaseException, request_id: str) -> Response:
    """Return the response to an error, with Retry-After where coming back helps."""
    if isinstance(error, errors.CallerGone):
        return Response(status_code=CALLER_GONE)
    problem = problem_of(error, request_id)
    headers = dict(error.headers or {}) if isinstance(error, HTTPException) else {}
    if isinstance(error, errors.QueueFull | errors.Unavailable):
        headers["Retry-After"] = str(error.retry_after_s)
    if isinstance(error, errors.KeyRefused):
        headers["WWW-Authenticate"] = "Bearer"
    if isinstance(error, errors.BodyTimeout):
        headers["Connection"] = "close"  # the rest of the body may never come
    if problem.status == 500:
        logger.error("request %s failed", request_id, exc_info=error)
    return Response(problem.model_dump_json(by_alias=True), problem.status, headers, "application/problem+json")
