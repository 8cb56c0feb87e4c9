"""What a client is told of each error, and what it is not told."""

import logging

import pytest
from starlette.exceptions import HTTPException

from api.problems import problem_of, problem_response
from errors import CallerGone, InvalidInput, KeyRefused, QueueFull, TooLarge, Unavailable


def test_a_problem_says_the_same_to_every_kind_of_client() -> None:
    problem = problem_of(InvalidInput("Send a picture."), "id-1")
    assert problem.model_dump() == {
        "type": "about:blank",
        "title": "Bad Request",
        "status": 400,
        "detail": "Send a picture.",
        "error": "Send a picture.",
        "request_id": "id-1",
    }


def test_an_error_of_ours_gives_no_detail_and_is_logged_under_its_request(caplog: pytest.LogCaptureFixture) -> None:
    response = problem_response(RuntimeError("secret path"), "id-2")
    assert response.status_code == 500 and response.media_type == "application/problem+json"
    assert b"secret" not in bytes(response.body) and b"id-2" in bytes(response.body)
    (record,) = caplog.records
    assert record.levelno == logging.ERROR and "id-2" in record.getMessage() and record.exc_info


@pytest.mark.parametrize(
    ("error", "header", "value"),
    [
        (QueueFull("Full.", 7), "retry-after", "7"),
        (Unavailable("Starting.", 5), "retry-after", "5"),
        (KeyRefused("No key."), "www-authenticate", "Bearer"),
        (HTTPException(405, headers={"Allow": "POST"}), "allow", "POST"),
    ],
)
def test_a_header_says_what_helps(error: Exception, header: str, value: str) -> None:
    assert problem_response(error, "id").headers[header] == value


def test_a_client_that_has_gone_gets_no_body() -> None:
    response = problem_response(CallerGone(), "id")
    assert (response.status_code, response.body) == (499, b"")
    assert problem_of(CallerGone(), "id").title == "Client Closed Request"


def test_a_message_with_a_clients_text_in_it_can_always_be_sent() -> None:
    response = problem_response(TooLarge("\ud800" + "x" * 10_000), "id")
    assert response.status_code == 413 and len(response.body) < 10_000 and rb"\\ud800" in bytes(response.body)
