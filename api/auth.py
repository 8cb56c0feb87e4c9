"""Who may pass: every request needs a key, but for what an operator exempts and for the page where a key is typed."""

import ipaddress
from collections.abc import Iterable, Mapping
from typing import Any

from api.keys import Keys, read_keys
from errors import KeyRefused, KeysError
from settings import Settings

PATHS: Mapping[str, frozenset[str]] = {
    "health": frozenset(("/health", "/health/live", "/health/ready", "/livez", "/healthz", "/readyz"))
    | {"/v2/health/live", "/v2/health/ready"},
    "metrics": frozenset(("/metrics",)),
    "docs": frozenset(("/docs", "/redoc", "/openapi.json")),
}
"""What each word of VITRINE_API_KEYS_EXEMPT opens, as `api.middleware` leaves paths; statistics are not health."""
_FOLDERS = {"docs": "/docs/files/"}
_PAGE = "/static/"
_CALLS = ("/inference.GRPCInferenceService/ServerLive", "/inference.GRPCInferenceService/ServerReady")
_SERVICE = "/grpc.health.v1.Health/"

Headers = Iterable[tuple[Any, Any]]


class Gate:
    """Checks the key of every request of one process, of HTTP and gRPC alike.

    Args:
        keys: of whom there are.
        exempt: words of `PATHS`.
    """

    def __init__(self, keys: Keys, exempt: Iterable[str]) -> None:
        self._keys = keys
        exempt = frozenset(exempt)
        self._paths = frozenset().union(*(PATHS[word] for word in exempt))
        self._folders = (_PAGE, *(_FOLDERS[word] for word in exempt if word in _FOLDERS))
        self._health = "health" in exempt

    def http(self, path: str, page: bool, headers: Headers) -> str:
        """Whose key the request has; "" where none is asked and none given.

        Args:
            path: without a trailing slash.
            page: whether a browser asks for the web page.
            headers: ASGI's, names in lower case.

        Raises:
            KeyRefused: no key or a wrong one.
        """
        open_ = page or path in self._paths or path.startswith(self._folders)
        return self._holder(headers, open_)

    def grpc(self, method: str, metadata: Headers) -> str:
        """The same for a call, `/service/Method`."""
        return self._holder(metadata, self._health and (method in _CALLS or method.startswith(_SERVICE)))

    def _holder(self, headers: Headers, open_: bool) -> str:
        key = key_in(headers)
        holder = self._keys.name_of(key) if key else None
        if holder is None and not open_:
            said = "This key is not known here." if key else "A key is needed here, and one only."
            raise KeyRefused(f"{said} Send it as `Authorization: Bearer KEY` or as `X-API-Key: KEY`.")
        return holder or ""


def key_in(headers: Headers) -> bytes:
    """The key among a request's headers or metadata; nothing where there is none, or where two differ.

    `Authorization` of another scheme is somebody else's, a proxy's say, and says nothing.
    """
    found = set[bytes]()
    for name, value in headers:
        if name in (b"x-api-key", "x-api-key"):
            found.add(_bytes(value).strip())
        elif name in (b"authorization", "authorization"):
            scheme, _, rest = _bytes(value).strip().partition(b" ")
            if scheme.lower() == b"bearer":
                found.add(rest.strip())
    return found.pop() if len(found) == 1 else b""


def _bytes(value: str | bytes) -> bytes:
    return value if isinstance(value, bytes) else value.encode("utf-8", "surrogateescape")


def check_doors(settings: Settings, *hosts: str) -> None:
    """Raise unless the service may listen on these hosts, and its keys can be read.

    Raises:
        KeysError: one sentence with the cure.
    """
    if settings.api_keys_file is not None:
        read_keys(settings.api_keys_file)
        return
    wide = [host for host in hosts if not _is_loopback(host)]
    if wide and not settings.allow_anonymous:
        raise KeysError(
            f"Other machines reach {wide[0]}, so keys are needed: make one with "
            "`vitrine keys add NAME --file keys.toml` and set VITRINE_API_KEYS_FILE=keys.toml, "
            "or let anyone in with VITRINE_ALLOW_ANONYMOUS=true."
        )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def gate_of(settings: Settings) -> Gate | None:
    """The gate that the settings ask for; None where no key is asked."""
    if settings.api_keys_file is None:
        return None
    return Gate(Keys(settings.api_keys_file), settings.exempt)
