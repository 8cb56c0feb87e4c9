"""Errors as clients see them: one table, RFC 9457 bodies."""

import logging
from http import HTTPStatus

from starlette.exceptions import HTTPException
from starlette.responses import Response

import errors
from api.schemas import Problem, QuotaProblem
from serving.logs import FIELDS

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


def status_code_of(error: BaseException) -> int:
    """Return the HTTP status of an error; 500 of one that is our fault."""
    if isinstance(error, HTTPException):
        return error.status_code
    return next((code for kind, code in STATUS if isinstance(error, kind)), 500)


def problem_of(error: BaseException, request_id: str) -> Problem:
    """Return the problem details of an error; one that is neither the client's nor the load's fault gives no detail."""
    status = status_code_of(error)
    if isinstance(error, HTTPException):
        detail = str(error.detail)
    else:
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


def log_failure(error: BaseException, request_id: str) -> None:
    """Log an error that is our fault, under its request; any other is told to its client alone.

    It comes with its traceback, but for one that the Runner has logged already, for all requests of a batch together.
    """
    if status_code_of(error) == 500:
        traceback = None if isinstance(error, errors.InferenceFailed) else error
        fields = {FIELDS: {"request_id": request_id}}
        logger.error("request %s failed: %s", request_id, type(error).__name__, exc_info=traceback, extra=fields)


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
    log_failure(error, request_id)
    return Response(problem.model_dump_json(by_alias=True), problem.status, headers, "application/problem+json")
