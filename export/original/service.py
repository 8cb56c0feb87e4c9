"""A running service that is asked for the same examples, as its clients ask it: any HTTP API that answers JSON."""

import base64
import json
import time
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, Self

import httpx

from errors import StoreError
from export.original.examples import Example

Send = Literal["multipart", "raw", "json", "kserve"]


MOST_REDIRECTS = 5
"""So many times a request is sent on, within the service that was named."""


class Reply(NamedTuple):
    """What one example was answered.

    Attributes:
        answer: JSON; None where there was an error.
        seconds: from asking to having the answer.
        error: why there is none; empty where there is one.
    """

    answer: Any
    seconds: float
    error: str = ""


class Service:
    """A service, with one connection that is kept; use it as a context manager.

    Args:
        url: of the route that predicts.
        send: how an example is sent: a picture as `multipart` form, or its bytes as the body (`raw`, TorchServe's way);
            a row as `json`; either as KServe's V1 protocol has it (`kserve`), whose answer is the one of `predictions`.
        field: of `multipart` the name of the part; of `json` the name under which the row stands, none for the row
            itself.
        headers: sent with every request.
        timeout_s: after which a request counts as failed.

    Raises:
        StoreError: the address is none.
    """

    def __init__(self, url: str, send: Send, field: str, headers: Mapping[str, str], timeout_s: float) -> None:
        try:
            self._url = httpx.URL(url)
            self._url.raw_host.decode("ascii").encode("idna")  # as it will be looked up
        except (httpx.InvalidURL, UnicodeError) as error:
            raise StoreError(f"{url}: is no address ({error}).") from error
        if self._url.scheme not in ("http", "https") or not self._url.host:
            raise StoreError(f"{url}: is no address. Give the whole of it, such as http://127.0.0.1:8000/predict.")
        self._send, self._field = send, field
        # Neither proxies nor .netrc: the service that is meant is the one that is named.
        self._client = httpx.Client(headers=dict(headers), timeout=timeout_s, trust_env=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._client.close()

    def ask(self, example: Example) -> Reply:
        """Send one example and return what the service answered; whatever goes wrong is in the reply."""
        started = time.perf_counter()
        try:
            response = self._client.post(self._url, **self._content(example))
            for _ in range(MOST_REDIRECTS):
                if response.next_request is None:
                    break
                if _origin(response.next_request.url) != _origin(self._url):  # it may not have what the headers hold
                    return Reply(None, time.perf_counter() - started, _leads_to(response.next_request.url))
                response = self._client.send(response.next_request)
        except httpx.HTTPError as error:
            return Reply(None, time.perf_counter() - started, f"{type(error).__name__}: {error}"[:200])
        seconds = time.perf_counter() - started
        if not response.is_success:
            return Reply(None, seconds, f"{response.status_code}: {' '.join(response.text.split())[:160]}")
        try:
            return Reply(self._answer(response.json()), seconds)
        except (ValueError, RecursionError):
            return Reply(None, seconds, f"no JSON: {' '.join(response.text.split())[:160]}")

    def _content(self, example: Example) -> dict[str, Any]:
        match self._send:
            case "multipart":
                return {"files": {self._field or "file": (example.name.rpartition("/")[2], example.data)}}
            case "raw":
                return {"content": example.data}
            case "json":
                row = json.loads(example.data)
                return {"json": {self._field: row} if self._field else row}
        if example.is_row:
            return {"json": {"instances": [json.loads(example.data)]}}
        return {"json": {"instances": [{"image_bytes": {"b64": base64.b64encode(example.data).decode()}}]}}

    def _answer(self, content: Any) -> Any:
        """Return the answer for the one example that was sent."""
        if self._send != "kserve":
            return content
        predictions = content.get("predictions") if isinstance(content, Mapping) else None
        if not isinstance(predictions, list) or len(predictions) != 1:
            raise ValueError
        return predictions[0]


def _origin(url: httpx.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port


def _leads_to(url: httpx.URL) -> str:
    return f"it leads to {url.scheme}://{url.netloc.decode()}{url.path}, another service: name that, if it is meant"
