"""The flood and the streams beside it, against a server that counts what it is asked."""

from loadtests.chaos.floods import flood
from loadtests.chaos.outcomes import outcome_of
from loadtests.compare import load
from loadtests.compare.wire import post
from tests.loadtests.compare.test_load import server, target


def test_a_flood_counts_every_answer_by_its_status() -> None:
    with server() as (port, seen):
        requests = [post(path, b"{}", "application/json") for path in ("/right", "/fails", "/hangs-up")]
        statuses = flood(port, requests, clients=6, seconds=0.5)
    assert statuses[200] == seen["/right"] >= 2
    assert statuses[500] == seen["/fails"] >= 2
    assert statuses[0] == seen["/hangs-up"] >= 2


def test_streams_are_sent_together_and_each_is_counted_by_itself() -> None:
    with server() as (port, seen):
        targets = [target(port, "/right"), target(port, "/wrong")]
        exchanges = load.streams(targets, [40.0, 20.0], seconds=0.5)
    right, wrong = (outcome_of(asked, of_stream) for asked, of_stream in zip(targets, exchanges, strict=True))
    assert right.offered == right.answered == seen["/right"] > 0
    assert wrong.offered == wrong.failed == seen["/wrong"] > 0
