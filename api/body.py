"""Requests as the core takes them: encoded pictures from a raw body or a form, rows from JSON."""

import json
from functools import partial
from typing import Any, NamedTuple

from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException
from starlette.requests import ClientDisconnect, Request

from api.json_values import check_value_count
from api.middleware import SANE_ID, announced_bytes
from api.problems import printable
from errors import CallerGone, InvalidInput, TooLarge
from runners.serial import SerialExecutor, SerialJob, ShortJob

LARGE_JSON_BYTES, MANY_OBJECTS = 32 * 1024, 200
"""JSON of more bytes, or objects, is read and answered by a thread, because no other request should wait for it."""
FIELDS_OF_ONE, FIELDS_OF_MANY = ("file", "image"), ("files", "file", "image")
SHORT = ShortJob()
ROWS_ARE_JSON = "This model takes rows of numbers: send JSON, not a form with files."


MOST_OF_FILE_NAME = 255
"""The most characters of a file's name that its answer repeats."""


class Upload(NamedTuple):
    """One encoded picture as it was sent, with its file name if it had one, for the answer alone."""

    data: bytes
    filename: str | None = None


async def read_one(request: Request, fields: tuple[str, ...] = FIELDS_OF_ONE) -> Upload:
    """Return the one picture of a request: its raw body, or the file in one of the fields of a form.

    Raises:
        CallerGone: the client hung up before the end of the body.
        InvalidInput: there is no file, or two, or another field; or JSON in place of a picture.
    """
    if not _is_form(request):
        return Upload(await _raw_picture(request, fields[0]))
    uploads = await _files(request, fields, limit=1)
    return uploads[0]


async def read_many(request: Request, max_items: int) -> list[Upload]:
    """Return the pictures of a form's `files`, in order.

    Raises:
        InvalidInput: there is no form, no file, another field, or more files than `max_items`.
    """
    if not _is_form(request):
        raise InvalidInput("A batch is a form: send multipart/form-data with one field `files` for each picture.")
    return await _files(request, FIELDS_OF_MANY, limit=max_items)


async def read_json(
    request: Request,
    large_json: SerialExecutor,
    max_bytes: int | None = None,
    *,
    instead_of_form: str = ROWS_ARE_JSON,
) -> Any:
    """Return the JSON of a request, whatever content type it names.

    Args:
        request: the request.
        large_json: reads it where it is large.
        max_bytes: the most bytes of the body.
        instead_of_form: the answer to a form.

    Raises:
        InvalidInput: the body is a form, or no JSON, or has too many values.
        QueueFull: it is large, and too much waits to be read.
        TooLarge: the body has more than `max_bytes`.
    """
    data = await read_json_text(request, large_json, max_bytes, instead_of_form=instead_of_form)
    with json_job(large_json, data) as job:
        return await job.run(partial(parse_json, data))


async def read_json_text(
    request: Request,
    large_json: SerialExecutor,
    max_bytes: int | None = None,
    *,
    instead_of_form: str = ROWS_ARE_JSON,
) -> bytes:
    """Return the bytes of a request's JSON, for `parse_json`; arguments and errors as of `read_json`."""
    length = next((value for name, value in request.scope["headers"] if name == b"content-length"), b"")
    if announced_bytes(length) > LARGE_JSON_BYTES:
        large_json.check_room()  # before the body is read
    if _is_form(request):
        raise InvalidInput(instead_of_form)
    data = await read_body(request)
    if max_bytes is not None and len(data) > max_bytes:
        raise TooLarge(f"The body has {len(data):,} bytes; this model takes at most {max_bytes:,}.")
    return data


def json_job(large_json: SerialExecutor, data: bytes) -> SerialJob | ShortJob:
    """Return what runs the work that JSON makes, in a block: a thread where it is large, else the event loop.

    Raises:
        QueueFull: too much waits for the thread.
    """
    if len(data) <= LARGE_JSON_BYTES and data.count(b"{") <= MANY_OBJECTS:
        return SHORT
    return large_json.job(len(data))


def parse_json(data: bytes) -> Any:
    """Return the value of JSON; InvalidInput says that it is none, or has too many values."""
    check_value_count(data)
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"The body is not JSON ({error}).") from error


async def read_body(request: Request) -> bytes:
    """Return the bytes of a request's body; CallerGone says that the client hung up before their end."""
    part, more = await _read_part(request)
    if not more:
        return part  # without a copy
    body = bytearray(part)  # many small parts in a list would take many times their bytes
    while more:
        part, more = await _read_part(request)
        body += part
    return bytes(body)


async def _read_part(request: Request) -> tuple[bytes, bool]:
    """Return the next bytes of a body, and whether more are to come."""
    message = await request.receive()
    if message["type"] == "http.disconnect":
        raise CallerGone
    return message.get("body", b""), message.get("more_body", False)


async def _raw_picture(request: Request, field: str) -> bytes:
    data = await read_body(request)
    advice = f"Send the encoded picture as the body, or a form with one `{field}`."
    if not data:
        raise InvalidInput(f"The body is empty. {advice}")
    if data.lstrip()[:1] in (b"{", b"[") and is_json(request):
        raise InvalidInput(f"This model takes pictures, not JSON. {advice}")
    return data


async def _files(request: Request, fields: tuple[str, ...], limit: int) -> list[Upload]:
    """Return the files of a form; a sane id in its field `request_id` becomes that of the request."""
    accepted = " or ".join(f"`{field}`" for field in fields)
    try:
        # One more than is allowed is read, so that the message can tell the two mistakes apart.
        async with request.form(max_files=limit + 1, max_fields=16, max_part_size=64 * 1024) as form:
            parts = form.multi_items()
            uploads = [
                Upload(await value.read(), printable(value.filename, MOST_OF_FILE_NAME) if value.filename else None)
                for field, value in parts
                if isinstance(value, UploadFile) and field in fields
            ]
            own_id = form.get("request_id")
            if isinstance(own_id, str) and SANE_ID.fullmatch(own_id):
                request.state.request_id = own_id
            others = sorted({field for field, value in parts if field not in fields})
            texts = sorted({field for field, value in parts if field in fields and not isinstance(value, UploadFile)})
    except ClientDisconnect as error:
        raise CallerGone from error
    except (MultiPartException, HTTPException) as error:
        detail = str(getattr(error, "message", "") or getattr(error, "detail", "") or error)
        if "Too many files" in detail:
            raise InvalidInput(f"Too many files: at most {limit} can be sent in one request.") from error
        raise InvalidInput(f"The form cannot be read ({detail}). Send multipart/form-data with {accepted}.") from error
    if texts:
        raise InvalidInput(f"The field `{texts[0]}` holds text, not a file. Send it as a file part, with a file name.")
    if not uploads:
        has = f"; the form has {', '.join(f'`{name}`' for name in others)}" if others else ""
        raise InvalidInput(f"The form has no file in {accepted}{has}. Name the field `{fields[0]}`.")
    if len(uploads) > limit:
        advice = " Use /predict/batch for several." if limit == 1 else ""
        raise InvalidInput(f"{len(uploads)} files were sent; at most {limit} are taken in one request.{advice}")
    return uploads


def is_json(request: Request) -> bool:
    """Return whether a request says that its body is JSON."""
    return _media_type(request) == "application/json"


def _media_type(request: Request) -> str:
    given = next((value for name, value in request.scope["headers"] if name == b"content-type"), b"")
    return str(given.partition(b";")[0].strip().lower(), "latin-1")


def _is_form(request: Request) -> bool:
    return _media_type(request) == "multipart/form-data"
