"""Encodes requests to the bytes on the wire, and decodes the bodies of answers."""

import base64
import json
from collections.abc import Callable
from typing import Any

Read = Callable[[bytes], dict[str, Any]]
"""Decodes the body of a server's answer into a dict with at least `label` and `probabilities`."""
Write = Callable[[str, bytes], bytes]
"""Encodes a whole request from where it goes and a payload: an encoded picture, or a row as JSON."""


def post(path: str, body: bytes, content_type: str) -> bytes:
    """Return the bytes of a POST request."""
    lines = [f"POST {path} HTTP/1.1", "Host: 127.0.0.1", "Accept: */*"]
    lines += [f"Content-Type: {content_type}", f"Content-Length: {len(body)}", "", ""]
    return "\r\n".join(lines).encode() + body


def write_body(path: str, picture: bytes) -> bytes:
    """Return a request with the picture as the body."""
    return post(path, picture, "image/jpeg")


def write_form(path: str, picture: bytes) -> bytes:
    """Return a request with the picture as the file of a form."""
    head = b'--part\r\nContent-Disposition: form-data; name="file"; filename="image.jpg"\r\n'
    head, tail = head + b"Content-Type: image/jpeg\r\n\r\n", b"\r\n--part--\r\n"
    return post(path, head + picture + tail, "multipart/form-data; boundary=part")


def write_json(path: str, picture: bytes) -> bytes:
    """Return a request with the picture as base64 in JSON, as LitServe's `ImageInput` has it."""
    return post(path, json.dumps({"image_data": _base64(picture)}).encode(), "application/json")


def write_v2(path: str, picture: bytes) -> bytes:
    """Return a request of the Open Inference Protocol; the picture is base64, as MLServer's `Base64Codec` has it."""
    tensor = {"name": "image", "shape": [1, 1], "datatype": "BYTES", "parameters": {"content_type": "base64"}}
    body = json.dumps({"inputs": [tensor | {"data": [_base64(picture)]}]}).encode()
    return post(path, body, "application/json")


def write_row(path: str, row: bytes) -> bytes:
    """Return a request with the row as the body."""
    return post(path, row, "application/json")


def write_v2_row(path: str, row: bytes) -> bytes:
    """Return a request of the Open Inference Protocol with a tensor of one number for each value of the row."""
    values = json.loads(row).items()
    tensors = [{"name": name, "shape": [1, 1], "datatype": "FP64", "data": [value]} for name, value in values]
    return post(path, json.dumps({"inputs": tensors}).encode(), "application/json")


def read_v2(body: bytes) -> dict[str, Any]:
    """Decode an answer that is the text of the first output of the Open Inference Protocol."""
    answer: dict[str, Any] = json.loads(json.loads(body)["outputs"][0]["data"][0])
    return answer


def read_vitrine(body: bytes) -> dict[str, Any]:
    """Decode Vitrine's own answer."""
    answer = json.loads(body)
    return {"label": answer["prediction"], "probabilities": answer["probabilities"]}


def _base64(picture: bytes) -> str:
    return base64.b64encode(picture).decode()
