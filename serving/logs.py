"""The log: one format for every line of every process, ours and those of BentoML, uvicorn, circus and Python itself."""

import json
import logging
import logging.config
import sys
import threading
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Literal

from pydantic_core import to_json

from serving.request_record import REQUEST

LogFormat = Literal["auto", "json", "text"]
FIELDS = "fields"
"""The key of `extra` under which a line gives further fields."""

logger = logging.getLogger("vitrine")


class AccessLines(list[str]):
    """The message of a record that stands for several requests: a JSON object of each, which gets a line of its own."""

    def __str__(self) -> str:
        return "\n".join(self)


class JsonFormatter(logging.Formatter):
    """Writes each line as a JSON object."""

    def format(self, record: logging.LogRecord) -> str:
        """Return a line, or one for each request of `AccessLines`."""
        head = f'{{"time":"{written_time(record)}",{_head_of(record.levelname, record.name, record.process)},'
        if isinstance(record.msg, AccessLines):
            return "\n".join([head + line[1:] for line in record.msg])
        entry = {"message": record.getMessage(), **further_fields(record)}
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return head + json_object(entry)[1:]


class TextFormatter(logging.Formatter):
    """Writes lines for somebody who reads them on a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        """Return a line, or one for each request of `AccessLines`; a traceback has further lines, indented."""
        head = f"{written_time(record)} {record.levelname:<7} {process_name()}"
        if isinstance(record.msg, AccessLines):
            return "\n".join(f"{head} {_readable(json.loads(line))}" for line in record.msg)
        ids = ("request_id", "trace_id")  # messages say the rest themselves
        fields = "".join(f" {name}={value}" for name, value in further_fields(record).items() if name in ids)
        # What others wrote into a message must not look like a line of its own, nor steer the terminal.
        line = f"{head} {record.name}: {printable_text(record.getMessage() + fields)}"
        return f"{line}\n    {printable_text(self.formatException(record.exc_info))}" if record.exc_info else line


def written_time(record: logging.LogRecord) -> str:
    """Return when a record was made, in UTC, as ISO 8601 with milliseconds."""
    return f"{_written_second(int(record.created))}.{int(record.created * 1000) % 1000:03}Z"


@lru_cache(1)
def _written_second(second: int) -> str:
    return datetime.fromtimestamp(second, UTC).isoformat()[:19]


@lru_cache(64)
def _head_of(level: str, name: str, pid: int | None) -> str:
    """Return what is the same in many lines of JSON; none of these texts is anybody's but ours."""
    return f'"level":"{level.lower()}","logger":"{name}","process":"{process_name()}","pid":{pid}'


def process_name() -> str:
    """Return what this process is: a service of BentoML's (`vitrine`, `gradcam`), or the `supervisor` of these."""
    arguments = sys.argv
    return arguments[arguments.index("--service-name") + 1] if "--service-name" in arguments else "supervisor"


def further_fields(record: logging.LogRecord) -> dict[str, Any]:
    """Return the fields that a line has beside its message: those of its request, and those that it brings itself."""
    request, own = REQUEST.get(), getattr(record, FIELDS, {})
    if request is None:
        return dict(own)
    ids = {"request_id": request.request_id} | ({"trace_id": request.trace_id} if request.trace_id else {})
    return {**ids, **own}


def json_object(fields: Mapping[str, Any]) -> str:
    """Return fields as JSON in ASCII, which neither breaks a line nor steers a terminal."""
    try:
        text = to_json(fields, inf_nan_mode="null").decode()
    except ValueError:  # half of a character, as a client can send it
        return json.dumps(fields, default=str)
    return text if text.isascii() else json.dumps(fields, default=str)


quoted = json.encoder.encode_basestring_ascii
"""Returns a text as JSON in ASCII."""


def printable_text(text: str) -> str:
    """Return a text in which every character can be seen; further lines of it are indented."""
    if text.isprintable():
        return text
    lines = ("".join(char if char.isprintable() else ascii(char)[1:-1] for char in line) for line in text.split("\n"))
    return "\n    ".join(lines)


def _readable(fields: Mapping[str, Any]) -> str:
    """Return what is known of a request, in the order in which somebody looks for it."""
    rest, words = dict(fields), list[str]()
    for name in ("method", "path", "status", "tag", "label", "confidence", "error"):
        if (value := rest.pop(name, "")) != "":
            words.append(str(value))
    if "tag" in fields:
        rest.pop("model", None)
    words += [f"{name}={value}" for name, value in rest.items() if value != ""]
    return printable_text(" ".join(words))


def resolved_format(log_format: LogFormat) -> Literal["json", "text"]:
    """Return the format that is meant: with `auto`, text where the standard output is a terminal, else JSON."""
    if log_format == "auto":
        return "text" if sys.stdout.isatty() else "json"
    return log_format


def logging_config(log_format: LogFormat, level: str) -> dict[str, Any]:
    """Return the configuration of Python's logging: one handler, which writes to the standard output.

    Args:
        log_format: of the lines.
        level: the least level of our own lines; libraries' are shown from warnings on.
    """
    formatter = JsonFormatter if resolved_format(log_format) == "json" else TextFormatter
    libraries = "ERROR" if level == "error" else "WARNING"
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"line": {"()": formatter}},
        "handlers": {"line": {"class": "logging.StreamHandler", "stream": "ext://sys.stdout", "formatter": "line"}},
        "loggers": {
            "vitrine": {"level": level.upper()},
            "bentoml": {"level": "INFO" if level == "debug" else libraries, "handlers": [], "propagate": True},
            "bentoml.serve": {"level": "WARNING"},  # it calls every server one in production
            "circus": {"level": libraries, "handlers": [], "propagate": True},
            "uvicorn.error": {"level": libraries, "handlers": [], "propagate": True},
        },
        "root": {"level": libraries, "handlers": ["line"]},
    }


def write_log(log_format: LogFormat, level: str, also: Iterable[dict[str, Any]] = ()) -> None:
    """Write the log of this process to its standard output from now on, uncaught exceptions and warnings included.

    Args:
        log_format: of the lines.
        level: of our own lines.
        also: configurations that a library applies later by itself, which become the same.
    """
    config = logging_config(log_format, level)
    for other in also:
        other.clear()
        other.update(config)
    logging.config.dictConfig(config)
    for known in logging.Logger.manager.loggerDict.values():
        if isinstance(known, logging.Logger):
            known.disabled = False  # BentoML's command line disables those that were there before it
    logging.captureWarnings(True)
    sys.excepthook = _log_uncaught
    threading.excepthook = lambda caught: _log_uncaught(caught.exc_type, caught.exc_value, caught.exc_traceback)


def _log_uncaught(kind: type[BaseException], error: BaseException | None, traceback: Any) -> None:
    if not issubclass(kind, KeyboardInterrupt | SystemExit):
        logger.critical("an exception that nobody caught ended a thread", exc_info=(kind, error, traceback))  # type: ignore[arg-type]
