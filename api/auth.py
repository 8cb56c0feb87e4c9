"""Who may use the service: every request needs a key, but for the web page and what an operator exempts."""

import ipaddress
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from api.grants import Grant
from api.keys import Keys, read_keys
from errors import KeyRefused, KeysError
from settings import Settings

if TYPE_CHECKING:
    from api.quotas import Quotas
    from serving.shared_redis import SharedRedis

PATHS: Mapping[str, frozenset[str]] = {
    "health": frozenset(("/health", "/health/live", "/health/ready", "/livez", "/healthz", "/readyz"))
    | {"/v2/health/live", "/v2/health/ready", "/ping"},
    "metrics": frozenset(("/metrics",)),
    "docs": frozenset(("/docs", "/redoc", "/openapi.json")),
}
"""The paths that each word of VITRINE_API_KEYS_EXEMPT opens, without trailing slashes; statistics are not health."""
FOLDERS = {"docs": "/docs/files/"}
_UNCOUNTED = frozenset().union(*PATHS.values())
_STATISTICS = re.compile(r"/health/stats|/models/[^/]+/stats")
PAGE_FOLDER = "/static/"
HEALTH_CALLS = frozenset(
    ("/inference.GRPCInferenceService/ServerLive", "/inference.GRPCInferenceService/ServerReady")
) | {"/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"}

Headers = Iterable[tuple[Any, Any]]


class Authenticator:
    """Checks the key of every request of one process, over HTTP and gRPC alike.

    Args:
        keys: the keys that there are.
        exempt: words of `PATHS`.
        quotas: counts what keys use of their quotas; without it, no key that is restricted is let in.
    """

    def __init__(self, keys: Keys, exempt: Iterable[str], quotas: "Quotas | None" = None) -> None:
        self.keys, self._quotas = keys, quotas
        exempt = frozenset(exempt)
        self._open_paths = frozenset().union(*(PATHS[word] for word in exempt))
        self._open_folders = (PAGE_FOLDER, *(FOLDERS[word] for word in exempt if word in FOLDERS))
        self._health_is_open = "health" in exempt

    def authenticate_http(self, path: str, is_page: bool, headers: Headers) -> str:
        """Return the name of the request's key; "" where none is needed and none came.

        Args:
            path: without a trailing slash.
            is_page: whether a browser asks for the web page.
            headers: as ASGI has them, names in lower case.

        Raises:
            KeyRefused: there is no key, or a wrong one.
        """
        is_open = is_page or path in self._open_paths or path.startswith(self._open_folders)
        return self._key_name(headers, is_open)

    def authenticate_grpc(self, method: str, metadata: Headers) -> str:
        """Return the name of the call's key; "" where none is needed and none came.

        Args:
            method: `/service/Method`.
            metadata: names and values.

        Raises:
            KeyRefused: there is no key, or a wrong one.
        """
        return self._key_name(metadata, self._health_is_open and method in HEALTH_CALLS)

    def grant_of(self, key_name: str) -> Grant | None:
        """Return what a request with the key of this name may do; None for a key that is not restricted.

        Raises:
            KeyRefused: there is nothing to count its quotas with.
        """
        restrictions = self.keys.restricted.get(key_name)
        if restrictions is None:
            return None
        if self._quotas is None:
            raise KeyRefused(f"The key {key_name!r} is restricted, and quotas are not counted here.")
        return Grant(key_name, restrictions, self._quotas)

    def _key_name(self, headers: Headers, is_open: bool) -> str:
        key = find_key(headers)
        name = self.keys.name_of(key) if key else None
        if name is None and not is_open:
            problem = "This key is not known here." if key else "A key is needed here, and one only."
            raise KeyRefused(f"{problem} Send it as `Authorization: Bearer KEY` or as `X-API-Key: KEY`.")
        return name or ""


def find_key(headers: Headers) -> bytes:
    """Return the key among a request's headers or metadata; b"" where there is none, or where two differ.

    `Authorization` of another scheme belongs to somebody else, such as a proxy, and is passed over.
    """
    keys = set[bytes]()
    for name, value in headers:
        if name in (b"x-api-key", "x-api-key"):
            keys.add(_bytes(value).strip())
        elif name in (b"authorization", "authorization"):
            scheme, _, rest = _bytes(value).strip().partition(b" ")
            if scheme.lower() == b"bearer":
                keys.add(rest.strip())
    return keys.pop() if len(keys) == 1 else b""


def is_counted(path: str) -> bool:
    """Return whether a request to a path costs its key one of its requests.

    Statistics do not, of which the web page asks for several every two seconds.
    """
    return path not in _UNCOUNTED and not _STATISTICS.fullmatch(path)


def check_listening(settings: Settings, *hosts: str) -> None:
    """Raise unless the service may listen on these hosts, and its keys can be read.

    Raises:
        KeysError: one sentence with the cure.
    """
    if settings.api_keys_file is not None:
        read_keys(settings.api_keys_file)
        return
    reachable = [host for host in hosts if not _is_loopback(host)]
    if reachable and not settings.allow_anonymous:
        raise KeysError(
            f"Other machines reach {reachable[0]}, so keys are needed: make one with "
            "`vitrine keys add NAME --file keys.toml` and set VITRINE_API_KEYS_FILE=keys.toml, "
            "or let anyone in with VITRINE_ALLOW_ANONYMOUS=true."
        )


def authenticator_for(settings: Settings, redis: "SharedRedis | None" = None) -> Authenticator | None:
    """Return what checks keys, or None where the settings ask for none.

    Args:
        settings: what the operator set.
        redis: where several servers count quotas together.
    """
    if settings.api_keys_file is None:
        return None
    from api.quotas import Quotas  # its library takes a tenth of a second to import

    return Authenticator(Keys(settings.api_keys_file), settings.exempt, Quotas.of_settings(settings, redis))


def _bytes(value: str | bytes) -> bytes:
    return value if isinstance(value, bytes) else value.encode("utf-8", "surrogateescape")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
