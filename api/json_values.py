"""What JSON carries beside rows: how many values are read of it, and bytes as base64."""

import base64

from errors import InvalidInput

MAX_JSON_VALUES = 1_000_000
"""Reading more values as JSON would hold up every other request."""


def check_value_count(body: bytes, end: int | None = None) -> None:
    """Raise InvalidInput if the JSON in the first `end` bytes of a body has more values than `MAX_JSON_VALUES`."""
    values = body.count(b",", 0, end) + body.count(b"{", 0, end)
    if values > MAX_JSON_VALUES or body.count(b"[", 0, end) > MAX_JSON_VALUES:
        raise InvalidInput(f"The JSON has more than {MAX_JSON_VALUES:,} values. Send large tensors as binary ones.")


def decode_base64(text: str, place: str) -> bytes:
    """Return the bytes that a text holds as base64, in which white space does not count.

    Raises:
        InvalidInput: it is none; the message names its place in the request.
    """
    try:
        return base64.b64decode(text.encode("ascii").translate(None, b" \t\r\n"), validate=True)
    except ValueError as error:
        raise InvalidInput(f"{place} is not base64 ({error}).") from error
