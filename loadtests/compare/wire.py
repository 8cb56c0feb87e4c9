"""Requests as they go over the wire, encoded beforehand, and answers as they come back."""

import base64
import json
from collections.abc import Callable
from typing import Any

Read = Callable[[bytes], dict[str, Any]]
"""The body of a server's answer → at least its `label` and `probabilities`."""
Write = Callable[[str, bytes], bytes]
"""The name of a model and an encoded picture → the whole of a request."""


def post(path: str, body: bytes, content_type: str) -> bytes:
    """A POST request."""
    lines = [f"POST {path} HTTP/1.1", "Host: 127.0.0.1", "Accept: */*"]
    lines += [f"Content-Type: {content_type}", f"Content-Length: {len(body)}", "", ""]
    return "\r\n".join(lines).encode() + body


def body_to(path: str) -> Write:
    """The picture as the body; the path may name the `{model}`."""
    return lambda model, picture: post(path.format(model=model), picture, "image/jpeg")


def form_to(path: str) -> Write:
    """The picture as the file of a form."""
    head = b'--part\r\nContent-Disposition: form-data; name="file"; filename="image.jpg"\r\n'
    head, tail = head + b"Content-Type: image/jpeg\r\n\r\n", b"\r\n--part--\r\n"
    return lambda model, picture: post(path, head + picture + tail, "multipart/form-data; boundary=part")


def json_to(path: str) -> Write:
    """The picture as base64 in JSON, as LitServe's `ImageInput` has it."""

    def write(model: str, picture: bytes) -> bytes:
        return post(path, json.dumps({"image_data": _base64(picture)}).encode(), "application/json")

    return write


def v2_to(name: str) -> Write:
    """The picture as base64 in a request of the Open Inference Protocol, as MLServer's `Base64Codec` has it."""

    def write(model: str, picture: bytes) -> bytes:
        tensor = {"name": "image", "shape": [1, 1], "datatype": "BYTES", "parameters": {"content_type": "base64"}}
        body = json.dumps({"inputs": [tensor | {"data": [_base64(picture)]}]}).encode()
        return post(f"/v2/models/{name}/infer", body, "application/json")

    return write


def plain(body: bytes) -> dict[str, Any]:
    """The answer of `loadtests.compare.work` as it is."""
    answer: dict[str, Any] = json.loads(body)
    return answer


def read_v2(body: bytes) -> dict[str, Any]:
    """The same as the text of the first output."""
    answer: dict[str, Any] = json.loads(json.loads(body)["outputs"][0]["data"][0])
    return answer


def read_vitrine(body: bytes) -> dict[str, Any]:
    """Vitrine's own answer."""
    answer = json.loads(body)
    return {"label": answer["prediction"], "probabilities": answer["probabilities"]}


def _base64(picture: bytes) -> str:
    return base64.b64encode(picture).decode()
