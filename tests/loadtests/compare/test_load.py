import json
import statistics
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from email import message_from_bytes
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from loadtests.compare import load
from loadtests.compare.load import Exchange, Target
from loadtests.compare.wire import post, write_form

RIGHT = {"label": "cat", "probabilities": {"cat": 0.75, "dog": 0.25}}
WRONG = {"label": "cat", "probabilities": {"cat": 0.749, "dog": 0.251}}


class Handler(BaseHTTPRequestHandler):
    """Answers by path, one request at a time, and counts."""

    protocol_version = "HTTP/1.1"
    seen: Counter[str]
    turn: threading.Lock
    work_s = 0.0

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        with self.turn:
            self.seen[self.path] += 1
            time.sleep(self.work_s)
        if self.path == "/hangs-up":
            self.close_connection = True
            return
        body = json.dumps(WRONG if self.path == "/wrong" else RIGHT).encode()
        if self.path == "/chunked":
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for part in (body[:7], body[7:]):
                self.wfile.write(b"%x\r\n%b\r\n" % (len(part), part))
            self.wfile.write(b"0\r\n\r\n")
            return
        self.send_response(500 if self.path == "/fails" else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def server(work_s: float = 0.0) -> Iterator[tuple[int, Counter[str]]]:
    seen = Counter[str]()
    handler = type("Own", (Handler,), {"seen": seen, "turn": threading.Lock(), "work_s": work_s})
    listener = type("Listener", (ThreadingHTTPServer,), {"daemon_threads": True, "request_queue_size": 256})
    with listener(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield running.server_address[1], seen
        running.shutdown()
        thread.join()


def target(port: int, *paths: str) -> Target:
    return Target(port, [post(path, b"picture", "image/jpeg") for path in paths], [RIGHT] * len(paths), json.loads)


def test_failed_wrong_and_broken_answers_are_errors_and_right_ones_are_not() -> None:
    with server() as (port, seen):
        measured = load.closed(target(port, "/right", "/fails", "/wrong", "/hangs-up", "/chunked"), 3, 0.4, 0.0)
        assert load.ask(target(port, "/right", "/chunked")) == ""
    wrong = seen["/fails"] + seen["/wrong"] + seen["/hangs-up"]
    assert measured.errors == wrong and min(seen.values()) > 0
    assert measured.requests == seen.total() - 2
    assert abs(measured.rate * 0.4 - (measured.requests - wrong)) <= 3  # those under way at the end count in part


def test_the_first_problem_says_what_came() -> None:
    with server() as (port, seen):
        assert load.ask(target(port, "/right", "/fails", "/never-asked")).startswith("500: ")
        assert seen == {"/right": 1, "/fails": 1}
        assert "a wrong answer" in load.ask(target(port, "/wrong"))
        assert "hung up" in load.ask(target(port, "/hangs-up"))


def test_an_answer_that_does_not_come_in_time_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "TIMEOUT_S", 0.05)
    with server(work_s=0.3) as (port, _):
        measured = load.closed(target(port, "/right"), 1, 0.1, 0.0)
    assert measured.errors == measured.requests > 0 and measured.rate == 0


def test_the_latency_of_an_open_loop_counts_from_when_a_request_was_due(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "RAMP_S", 0.1)
    with server(work_s=0.02) as (port, _):  # 50 a second at most, asked for 150
        measured = load.opened(target(port, "/right"), 150, 0.3, seed=1)
    assert measured.errors == 0
    assert measured.p99_ms > 200  # the queue before it; counted from when it was sent to a free server, 20


def test_percentiles_and_rate_are_those_of_the_window() -> None:
    took, body = [0.01 + 0.001 * index for index in range(100)], json.dumps(RIGHT).encode()
    inside = [Exchange(0, 1.0 + 0.02 * index + seconds, seconds, 200, body) for index, seconds in enumerate(took)]
    early = Exchange(0, 0.9, 0.8, 200, body)
    measured = load.summarise(target(1, "/"), [early, *inside], ramp_s=1.0, seconds=4.0)
    hundredths = statistics.quantiles(took, n=100, method="inclusive")
    assert measured.p50_ms == pytest.approx(hundredths[49] * 1e3)
    assert measured.p99_ms == pytest.approx(hundredths[98] * 1e3)
    assert measured.rate == pytest.approx(100 / 4.0)
    assert measured.errors == 0 and measured.requests == 101


def test_refusals_are_counted_among_the_errors() -> None:
    body = json.dumps(RIGHT).encode()
    exchanges = [Exchange(0, 1.5, 0.1, status, body) for status in (200, 429, 503, 500, 429, 200)]
    measured = load.summarise(target(1, "/"), exchanges, ramp_s=1.0, seconds=1.0)
    assert (measured.requests, measured.errors, measured.refused) == (6, 4, 3)


@pytest.mark.parametrize("offset", [0.0, 0.1, 0.25, 0.4])
def test_the_rate_does_not_depend_on_where_in_a_wave_the_window_ends(offset: float) -> None:
    """Eight clients whose answers all come each half second: 16 a second, wherever one looks."""
    body = json.dumps(RIGHT).encode()
    waves = [Exchange(0, 0.5 * wave, 0.5, 200, body) for wave in range(1, 20) for _ in range(8)]
    assert load.summarise(target(1, "/"), waves, ramp_s=1 + offset, seconds=3.3).rate == pytest.approx(16)


def test_a_form_is_what_a_mail_parser_reads_as_one() -> None:
    head, _, body = write_form("/predict", b"\x00JPEG\xff").partition(b"\r\n\r\n")
    fields = head.split(b"\r\n", 1)[1]
    _, part = message_from_bytes(fields + b"\r\n\r\n" + body).walk()
    assert part.get_filename() == "image.jpg" and part.get_payload(decode=True) == b"\x00JPEG\xff"
    assert f"Content-Length: {len(body)}".encode() in fields
