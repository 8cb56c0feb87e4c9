"""Loading and unloading of models by clients: who may, and with what."""

from collections.abc import Iterable

from starlette.requests import Request

from api.keys import Keys
from errors import InvalidInput, NotAllowed
from serving.follower import Follower


class ModelControl:
    """Loads and unloads models in every process of the server, for clients that may.

    Args:
        follower: changes what is served; None refuses everybody.
        keys: the keys that there are; None where none are asked for.
        is_open: whether everybody may, where no keys are asked for.
    """

    def __init__(self, follower: Follower | None = None, keys: Keys | None = None, *, is_open: bool = False) -> None:
        self._follower, self._keys, self._is_open = follower, keys, is_open

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
        follower = self._follower_for(key_name)
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
        await self._follower_for(key_name).unload(name.partition(".")[0])

    def _follower_for(self, key_name: str | None) -> Follower:
        """Return what changes the models, if the caller may."""
        if self._keys is not None and not self._keys.is_admin(key_name or ""):
            raise NotAllowed(
                f"The key {key_name!r} may not load or unload models; one of `vitrine keys add NAME --admin` may."
            )
        if self._follower is None or (self._keys is None and not self._is_open):
            raise NotAllowed(
                "Clients may not load or unload models here: ask for keys, one of them with `vitrine keys add NAME "
                "--admin`, or set VITRINE_MODEL_CONTROL=true."
            )
        return self._follower


def key_name_of(request: Request) -> str | None:
    """Return the name of the key that a request brought; None where no keys are asked for."""
    return getattr(request.state, "key_name", None)
