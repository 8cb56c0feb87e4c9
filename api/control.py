"""Loading and unloading of models by clients: who may, and with what."""

import ipaddress
from collections.abc import Collection, Iterable
from urllib.parse import urlsplit

from starlette.requests import Request

from api.grants import check_scope
from api.keys import Keys
from errors import InvalidInput, NotAllowed
from serving.follower import Follower


class ModelControl:
    """Loads and unloads models in every process of the server, for clients that may.

    Args:
        follower: changes what is served; None refuses everybody.
        keys: the keys that there are; None where none are asked for.
        is_open: whether everybody may, where no keys are asked for.
        origins: the origins whose pages may, where no keys are asked for.
    """

    def __init__(
        self,
        follower: Follower | None = None,
        keys: Keys | None = None,
        *,
        is_open: bool = False,
        origins: Collection[str] = (),
    ) -> None:
        self._follower, self._keys, self._is_open, self._origins = follower, keys, is_open, origins

    def check_page(self, request: Request) -> None:
        """Raise unless a request comes from no page of a browser, or from one that may change the models.

        Where no keys are asked for, any page in a browser that reaches this server could: a browser sends a POST
        without asking first. A page may whose origin the operator named, or that came from this server, by address or
        as localhost: of a name, anybody may make it lead here.

        Raises:
            NotAllowed: the page is of another site.
        """
        origin = request.headers.get("origin")
        if origin is None or self._keys is not None or origin in self._origins:
            return
        if not _is_own_address(origin, request.headers.get("host")):
            raise NotAllowed(
                f"Pages of {origin[:100]} may not load or unload models here: name it in VITRINE_CORS_ORIGINS, or ask "
                "for keys."
            )

    async def load(self, name: str, key_name: str | None, parameters: object = None) -> None:
        """Serve a model in the version that the lock names; return once every process does.

        Args:
            name: the model, under any of its names.
            key_name: whose key the request brought.
            parameters: what Triton's clients may send along, such as files or another configuration.

        Raises:
            InvalidInput: there are parameters.
            NotAllowed: the key may not.
            NotFound: there is no such model.
            Unavailable: the model failed its self-check, or another process did not follow.
        """
        follower = self._follower_for(key_name, name)
        if parameters:
            names = ", ".join(sorted(map(str, parameters)))[:80] if isinstance(parameters, Iterable) else "those"
            raise InvalidInput(f"A model is loaded as it was imported: send no parameters ({names}).")
        await follower.load(name.partition(".")[0])

    async def unload(self, name: str, key_name: str | None) -> None:
        """Take a model out of service until it is loaded again; return once no process serves it.

        Raises:
            NotAllowed: the key may not.
            NotFound: there is no such model.
            Unavailable: another process did not follow.
        """
        await self._follower_for(key_name, name).unload(name.partition(".")[0])

    def _follower_for(self, key_name: str | None, name: str) -> Follower:
        """Return what changes the models, if the caller may change this one."""
        if self._keys is not None and not self._keys.is_admin(key_name or ""):
            raise NotAllowed(
                f"The key {key_name!r} may not load or unload models; one of `vitrine keys add NAME --admin` may."
            )
        if self._follower is None or (self._keys is None and not self._is_open):
            raise NotAllowed(
                "Clients may not load or unload models here: ask for keys, one of them with `vitrine keys add NAME "
                "--admin`, or set VITRINE_MODEL_CONTROL=true."
            )
        check_scope(name.partition(".")[0])
        return self._follower


def _is_own_address(origin: str, host: str | None) -> bool:
    """Return whether an origin is the host that a request was sent to, named by address or as localhost."""
    try:
        url = urlsplit(origin)
        return url.netloc == host and (url.hostname == "localhost" or bool(ipaddress.ip_address(url.hostname or "")))
    except ValueError:
        return False


def key_name_of(request: Request) -> str | None:
    """Return the name of the key that a request brought; None where no keys are asked for."""
    return getattr(request.state, "key_name", None)
