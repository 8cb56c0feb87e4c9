"""The request that the current task answers: its ids, and what was answered to it, for the log and for traces."""

import re
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # what writes the log is imported before ONNX Runtime may be
    from serving.answer_fields import Answered

_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-.*)?")


@dataclass(slots=True)
class RequestRecord:
    """One request, whatever the transport.

    Attributes:
        request_id: the client's own id, or a new one.
        trace_id: of the trace that the request belongs to, 32 hexadecimal digits; empty for none.
        answered: the model that has answered, and its predictions; None as long as none has.
        error: the class of the error that ended the request; empty for none.
    """

    request_id: str
    trace_id: str = ""
    answered: "Answered | None" = None
    error: str = ""


REQUEST: ContextVar[RequestRecord | None] = ContextVar("request", default=None)
"""The record of the request that the current task answers. Whoever traces requests sets its `trace_id`."""


def trace_id_of(traceparent: str) -> str:
    """Return the trace id in the W3C's header `traceparent`; empty where the header is not valid."""
    match = _TRACEPARENT.fullmatch(traceparent)
    if match is None or (match[2] and traceparent.startswith("00")):  # only later versions may be longer
        return ""
    return match[1]
