"""What the log's lines are made of, in both formats."""

import json
import logging
import subprocess
import sys
from datetime import UTC, datetime

import pytest

from serving.logs import FIELDS, AccessLines, JsonFormatter, TextFormatter, json_object, printable_text
from serving.request_record import REQUEST, RequestRecord, trace_id_of
from tests.conftest import ROOT

TRACE = "0af7651916cd43dd8448eb211c80319c"


def record(message: object, *arguments: object, **more: object) -> logging.LogRecord:
    """Return a record of one second before 2026 in UTC."""
    made = logging.LogRecord("vitrine.models", logging.WARNING, "file.py", 1, message, arguments, None)
    made.created = datetime(2025, 12, 31, 23, 59, 59, 250_000, UTC).timestamp()
    vars(made).update(more)
    return made


def test_a_line_of_json_has_time_level_logger_process_and_message() -> None:
    line = json.loads(JsonFormatter().format(record("%s is\nready", "tiny", **{FIELDS: {"seconds": 1.5}})))
    pid = line.pop("pid")
    assert isinstance(pid, int)
    assert line == {
        "time": "2025-12-31T23:59:59.250Z",
        "level": "warning",
        "logger": "vitrine.models",
        "process": "supervisor",
        "message": "tiny is\nready",
        "seconds": 1.5,
    }


def test_a_line_of_text_has_the_same_and_cannot_be_forged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["worker", "--service-name", "gradcam"])
    text = TextFormatter().format(record("row\n2026-01-01T00:00:00.000Z INFO vitrine: forged \x1b[2J"))
    first, second = text.split("\n")
    assert first == "2025-12-31T23:59:59.250Z WARNING gradcam vitrine.models: row"
    assert second == "    2026-01-01T00:00:00.000Z INFO vitrine: forged \\x1b[2J"


def test_what_an_exception_says_cannot_forge_a_line_of_text_either() -> None:
    try:
        raise ValueError("wrong\n2026-01-01T00:00:00.000Z INFO vitrine: forged \x1b[2J")
    except ValueError:
        _, *traceback = TextFormatter().format(record("it failed", exc_info=sys.exc_info())).split("\n")
    assert all(line.startswith("    ") and line.isprintable() for line in traceback)
    assert traceback[-1].endswith("forged \\x1b[2J")


@pytest.mark.parametrize("formatter", [JsonFormatter(), TextFormatter()])
def test_a_traceback_stays_with_its_line_and_the_request_is_named(formatter: logging.Formatter) -> None:
    token = REQUEST.set(RequestRecord("mine-1", TRACE))
    try:
        raise ValueError("a mistake")
    except ValueError:
        text = formatter.format(record("it failed", exc_info=sys.exc_info()))
    finally:
        REQUEST.reset(token)
    assert "mine-1" in text and TRACE in text and 'raise ValueError("a mistake")' in text.replace('\\"', '"')
    if isinstance(formatter, JsonFormatter):
        assert "\n" not in text and json.loads(text)["exception"].startswith("Traceback")


def test_requests_of_one_turn_have_a_line_each() -> None:
    requests = [{"path": "/a", "status": 200, "tag": "t:1"}, {"path": "/\x1bé\ud800", "status": 404}]
    lines = AccessLines(map(json_object, requests))
    first, second = map(json.loads, JsonFormatter().format(record(lines)).split("\n"))
    assert (first["path"], first["tag"], first["time"]) == ("/a", "t:1", "2025-12-31T23:59:59.250Z")
    assert second["path"] == "/\x1bé\ud800" and second["time"] == first["time"]
    assert [json.loads(line)["status"] for line in str(lines).split("\n")] == [200, 404]
    texts = TextFormatter().format(record(lines)).split("\n")
    assert texts[0].endswith("supervisor /a 200 t:1") and "\x1b" not in texts[1] and len(texts) == 2


@pytest.mark.parametrize("value", ["plain", "é", "\u202e\u2028\x9b", "\ud800", float("nan")])
def test_json_is_ascii_whatever_a_client_sent(value: object) -> None:
    text = json_object({"value": value})
    assert text.isascii() and text.isprintable()
    assert json.loads(text)["value"] in (value, None)


def test_of_a_text_every_character_can_be_seen() -> None:
    assert printable_text("µ 10 %") == "µ 10 %"
    assert printable_text("a\x00\x9b\u202e\nb") == "a\\x00\\x9b\\u202e\n    b"


@pytest.mark.parametrize(
    ("traceparent", "trace_id"),
    [
        (f"00-{TRACE}-b7ad6b7169203331-01", TRACE),
        (f"cc-{TRACE}-b7ad6b7169203331-01-what-will-be", TRACE),  # of a later version more may come
        (f"00-{TRACE}-b7ad6b7169203331-01-more", ""),
        (f"ff-{TRACE}-b7ad6b7169203331-01", ""),
        (f"00-{'0' * 32}-b7ad6b7169203331-01", ""),
        (f"00-{TRACE}-{'0' * 16}-01", ""),
        (f"00-{TRACE.upper()}-b7ad6b7169203331-01", ""),
        (f"00-{TRACE}", ""),
        ("", ""),
    ],
)
def test_the_trace_id_is_read_as_the_w3c_says(traceparent: str, trace_id: str) -> None:
    assert trace_id_of(traceparent) == trace_id


def run_logging(script: str, log_format: str = "json") -> list[str]:
    """Run Python in a process that writes the log, and return the lines of its standard output."""
    preface = f"import logging, threading, warnings, serving.logs as s; s.write_log({log_format!r}, 'info'); "
    ran = subprocess.run([sys.executable, "-c", preface + script], cwd=ROOT, capture_output=True, text=True)
    assert not ran.stderr, ran.stderr
    return ran.stdout.splitlines()


def test_libraries_warnings_and_uncaught_exceptions_are_lines_too() -> None:
    script = (
        "logging.getLogger('bentoml').info('no'); logging.getLogger('bentoml.serve').info('production'); "
        "logging.getLogger('uvicorn.error').warning('u'); logging.getLogger('circus').error('c'); "
        "logging.getLogger('vitrine.models').info('ours'); warnings.warn('old', DeprecationWarning, stacklevel=1); "
        "thread = threading.Thread(target=lambda: 1 / 0); thread.start(); thread.join(); raise RuntimeError('end')"
    )
    lines = [json.loads(line) for line in run_logging(f"warnings.simplefilter('always'); {script}")]
    assert [line["logger"] for line in lines] == [
        "uvicorn.error",
        "circus",
        "vitrine.models",
        "py.warnings",
        "vitrine",
        "vitrine",
    ]
    assert "ZeroDivisionError" in lines[4]["exception"] and "RuntimeError: end" in lines[5]["exception"]
    assert all(line["time"].endswith("Z") for line in lines)


def test_loggers_that_a_library_disabled_write_again_and_its_own_configuration_becomes_ours() -> None:
    script = (
        "import logging.config as c; log = logging.getLogger('vitrine.keys'); "
        "theirs = {'version': 1, 'handlers': {}, 'root': {'level': 'INFO'}}; c.dictConfig(theirs); "
        "assert log.disabled; s.write_log('text', 'info', also=[theirs]); c.dictConfig(theirs); log.info('heard')"
    )
    (line,) = run_logging(script)
    assert line.endswith("supervisor vitrine.keys: heard")


def test_what_is_written_to_no_terminal_is_json_unless_text_is_asked_for() -> None:
    assert json.loads(run_logging("logging.getLogger('vitrine').info('x')", "auto")[0])["message"] == "x"
    assert run_logging("logging.getLogger('vitrine').info('x')", "text")[0].endswith("supervisor vitrine: x")
